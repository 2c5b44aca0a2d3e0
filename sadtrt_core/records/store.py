"""Writes a run's folder under results/ record by record, and reads runs back, refusing whatever is damaged."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from sadtrt_core.case import Case
from sadtrt_core.codec import from_json, no_duplicates
from sadtrt_core.errors import UserError
from sadtrt_core.files import point_at, read_file, write_file
from sadtrt_core.records.measurements import Latency, Resources, Telemetry
from sadtrt_core.records.schema import SCHEMA_VERSION, Environment, Record, Run, Status, Weights, Workload

RECORDS_FILE = "records.json"
SUMMARY_FILE = "summary.csv"
ENVIRONMENT_FILE = "environment.json"
FRAMES_FOLDER = "frames"
LATEST = "latest"
SIZE_LIMIT = 64 * 1024 * 1024
#: A run of 400 rows has a million; many more, in the same bytes, would take gigabytes.
VALUES_LIMIT = 4_000_000
POINTER_LIMIT = 4096
_RUN_NAME = re.compile(r"\d{8}T\d{6}Z-")


class RunWriter:
    """One run's folder, `<root>/<UTC time>-<gpu or cpu>-<commit>/`, whose records.json is whole after every `add`.

    Raises UserError when the folder cannot be made or written.
    """

    def __init__(
        self,
        root: Path,
        environment: Environment,
        weights: Weights,
        workload: Workload,
        options: Mapping[str, str],
        order_seed: int | None = None,
    ) -> None:
        started = utc_now()
        self.root = Path(root)
        about = (environment, weights, workload, dict(options))
        self.run = Run(SCHEMA_VERSION, _iso(started), None, False, *about, records=(), order_seed=order_seed)
        _check_readable(self.run)
        self.folder = make_folder(self.root, _folder_name(started, environment))
        write_run(self.run, self.folder / RECORDS_FILE)

    def add(self, record: Record) -> Record:
        """Keep `record`, merged with what the run already holds under its key, and return the merged one.

        Drift under seeded weights is kept as not meaningful, whatever the record says. Raises UserError for a field
        of a wrong type or a file that cannot be written; the run then holds what it held before.
        """
        known = self._known(record.key)
        if self.run.weights.kind == "seeded" and record.drift is not None:
            record = dataclasses.replace(record, drift=dataclasses.replace(record.drift, meaningful=False))
        _check_readable(record)
        return self._keep(record if known is None else merge_records(known, record))

    def update_times(self, key: Case, latency: Latency, telemetry: Telemetry | None) -> Record:
        """Put a row's times in place of those that the run holds of it, because there are more now; return the record.

        Raises UserError as `add` does, and for a row that the run does not hold.
        """
        known = self._known(key)
        if known is None:
            raise UserError(f"the run holds no record of {key.label()} that could be brought up to date: add it first")
        record = dataclasses.replace(known, latency=latency, telemetry=telemetry)
        _check_readable(record)
        return self._keep(record)

    def _known(self, key: Case) -> Record | None:
        return next((record for record in self.run.records if record.key == key), None)

    def _keep(self, record: Record) -> Record:
        kept = {known.key: known for known in self.run.records}
        kept[record.key] = record
        grown = dataclasses.replace(self.run, records=tuple(kept.values()))
        write_run(grown, self.folder / RECORDS_FILE)
        self.run = grown
        return record

    def finish(self, summary: Callable[[Run], str]) -> Run:
        """Write summary.csv, whose text `summary` gives, and environment.json, mark the run complete, and point
        `<root>/latest` at its folder.
        """
        finished = dataclasses.replace(self.run, finished_utc=_iso(utc_now()), complete=True)
        write_file(self.folder / SUMMARY_FILE, summary(finished))
        write_file(
            self.folder / ENVIRONMENT_FILE, json.dumps(finished.environment.to_json(), indent=2, sort_keys=True) + "\n"
        )
        # Complete is said last, so that a run marked complete has all its files.
        write_run(finished, self.folder / RECORDS_FILE)
        self.run = finished
        point_at(self.root / LATEST, self.folder.name)
        return finished


def write_run(run: Run, path: Path) -> None:
    """Write `run` as a records file: one record a line, with the SHA-256 of its canonical JSON."""
    body = run.to_json()
    head = {"sha256": _digest(body), "schema_version": run.schema_version}
    fields = [f'"{name}": {json.dumps(value, sort_keys=True)}' for name, value in body.items() if name != "records"]
    records = ",\n  ".join(json.dumps(record, sort_keys=True, allow_nan=False) for record in body["records"])
    fields.append(f'"records": [\n  {records}\n ]')
    text = json.dumps(head)[:-1] + ', "run": {\n ' + ",\n ".join(fields) + "\n}}\n"
    write_file(path, text)


def read_run(path: Path) -> Run:
    """The run in a records file, or in a results folder (`results/latest` too, where that is a text pointer).

    Raises UserError, one sentence, for what is missing, over 64 MB or 4 million values, not JSON, truncated, of another
    schema version, changed since it was written, or holding fields that this version does not know.
    """
    file = records_file(Path(path))
    raw = read_file(file, SIZE_LIMIT)
    return _parse(raw, file)


def read_runs(paths: Iterable[Path]) -> tuple[Run, ...]:
    """The runs at these paths, each what `read_run` takes, or a folder: the runs anywhere below it, or its .json files.

    Each run once, whether or not a baseline holds a copy. Raises UserError where there is none, or one cannot be read.
    """
    found: dict[str, Run] = {}
    for path in paths:
        whole = records_file(path)
        files = [whole] if whole.is_file() else sorted(path.rglob(RECORDS_FILE)) or sorted(path.glob("*.json"))
        if not files:
            raise UserError(f"{path} holds no run: name a run's folder, or a folder of runs")
        found |= {_digest(run.to_json()): run for run in map(read_run, files)}
    return tuple(found.values())


def _parse(raw: bytes, file: Path) -> Run:
    if sum(raw.count(mark) for mark in (b",", b"[", b"{")) > VALUES_LIMIT:
        raise UserError(f"{file} has more than the {VALUES_LIMIT:,} values that a run may have")
    try:
        data = json.loads(raw.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=no_duplicates)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not whole JSON, truncated perhaps: {error}; write it again") from error
    if not isinstance(data, dict) or not isinstance(data.get("run"), dict):
        raise UserError(f"{file} is JSON but not a sadtrt run: it should hold schema_version, sha256 and run")
    body = data["run"]
    for version in (data.get("schema_version"), body.get("schema_version")):
        if version != SCHEMA_VERSION or type(version) is not int:
            raise UserError(
                f"{file} has schema version {version!r} but this sadtrt reads version {SCHEMA_VERSION}: "
                "measure again, or use the sadtrt that wrote it"
            )
    if unknown := sorted(set(data) - {"schema_version", "sha256", "run"}):
        raise UserError(f"{file} has the unknown field {unknown[0]!r}")
    try:
        digest = _digest(body)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} holds a number that JSON has not: {error}") from error
    if digest != data.get("sha256"):
        raise UserError(f"{file} was changed after it was written: its content does not match its sha256")
    try:
        return from_json(Run, body, "run")
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def _check_readable(value: Run | Record) -> None:
    """Refuse now, where the culprit is known, what `read_run` would refuse later, such as text in place of a number."""
    from_json(type(value), value.to_json())


def _digest(body: Any) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def records_file(path: Path) -> Path:
    """The records file of a results folder, `results/latest` or a file itself; UserError for a damaged pointer."""
    if os.path.isdir(path):  # Path.is_dir raises for a name that is too long.
        return path / RECORDS_FILE
    pointer = path.with_name(path.name + ".txt")
    if os.path.exists(path) or not os.path.exists(pointer):
        return path
    name = read_file(pointer, POINTER_LIMIT).decode("utf-8", "replace").strip()
    # The pointer may only name a sibling: it is text that anybody could have edited.
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UserError(f"{pointer} should hold the name of a folder beside it but holds {name[:60]!r}")
    return path.with_name(name) / RECORDS_FILE


def begun_after(latest: Path) -> Path | None:
    """The last run beside `latest` that began after the one it names, which then did not finish; None without one."""
    named = records_file(latest).parent
    runs = [path.parent for path in latest.parent.glob(f"*/{RECORDS_FILE}") if _RUN_NAME.match(path.parent.name)]
    later = [run for run in runs if run.name > named.resolve().name]
    return max(later, default=None)


def utc_now() -> datetime:
    """The present time in UTC."""
    return datetime.now(timezone.utc)


def _iso(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def _folder_name(started: datetime, environment: Environment) -> str:
    device = re.sub(r"[^a-z0-9]+", "-", (environment.gpu or "cpu").lower()).strip("-")[:40] or "gpu"
    commit = re.sub(r"[^A-Za-z0-9]", "", environment.commit or "")[:10] or "nocommit"
    return f"{started:%Y%m%dT%H%M%SZ}-{device}-{commit}"


def make_folder(root: Path, name: str) -> Path:
    """A new folder of this name, numbered from 2 where another run that started in the same second has it already."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            folder = root / (name if number == 1 else f"{name}-{number}")
            try:
                folder.mkdir()
                return folder
            except FileExistsError:
                number += 1
    except OSError as error:
        raise UserError(
            f"cannot make a results folder in {root}: {error.strerror or error}; choose a folder that can be written"
        ) from error


def merge_records(first: Record, second: Record) -> Record:
    """One record with the parts of both; where both measured a part the later one is kept and a note says so.

    A failure outweighs a measurement, and a measurement outweighs a skip, whose reason then becomes a note.
    Raises UserError if the keys or the benchmark versions differ.
    """
    if first.key != second.key:
        raise UserError(f"cannot merge {first.key.label()} with {second.key.label()}")
    if first.benchmark_version != second.benchmark_version:
        raise UserError(
            f"{first.key.label()} was recorded by benchmark versions {first.benchmark_version} and "
            f"{second.benchmark_version} in one run: benchmarks that share a key must share a version"
        )
    statuses = {first.status, second.status}
    status: Status = "failed" if "failed" in statuses else "measured" if "measured" in statuses else "skipped"
    reasons = [record.reason for record in (first, second) if record.status == status and record.reason]
    notes = [*first.notes, *second.notes]
    for record in (first, second):
        if record.status != status:
            notes.append(f"one part was {record.status}: {record.reason}" if record.reason else "")
    for part in ("latency", "drift"):
        if getattr(first, part) is not None and getattr(second, part) is not None:
            notes.append(f"{part} was measured more than once: the last is kept")
    return dataclasses.replace(
        first,
        status=status,
        calibration=second.calibration or first.calibration,
        reason="; ".join(dict.fromkeys(reasons)) or None,
        latency=second.latency or first.latency,
        drift=second.drift or first.drift,
        resources=_merge_resources(first.resources, second.resources),
        # Telemetry explains the times, so it stays with the record that brought the latency.
        sustained=second.sustained or first.sustained,
        telemetry=(second.telemetry or first.telemetry) if second.latency else (first.telemetry or second.telemetry),
        notes=tuple(dict.fromkeys(note for note in notes if note)),
    )


def _merge_resources(first: Resources | None, second: Resources | None) -> Resources | None:
    if first is None or second is None:
        return second or first
    later = {name: value for name, value in vars(second).items() if value is not None}
    memory = [value for value in (first.gpu_memory_mb, second.gpu_memory_mb) if value is not None]
    return dataclasses.replace(first, **(later | ({"gpu_memory_mb": max(memory)} if memory else {})))
