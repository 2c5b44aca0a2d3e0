"""The suite on every kind of GPU of a Ray cluster: one task a kind, each run into a folder of its own."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sadtrt_core.errors import UserError
from sadtrt_core.files import write_file
from sadtrt_core.progress import Reporter
from sadtrt_core.records.store import RECORDS_FILE, read_run

#: How Ray calls a kind of GPU among a machine's resources, and what stands for machines without one here.
PREFIX, CPU = "accelerator_type:", "CPU"
OUTPUT_FILE = "output.txt"
#: A task is lost with its machine; it is tried so often.
TRIES = 2
_POLL_SECONDS = 2.0
_ROOT = Path(__file__).resolve().parents[1]
_PERCENT = re.compile(r"\[ *(\d+)%\]$")


@dataclass(frozen=True)
class Outcome:
    """How a kind's run ended: its folder, None where nothing came back, and what is wrong, None where nothing is."""

    kind: str
    folder: Path | None
    problem: str | None


def run_suite(arguments: list[str]) -> Iterator[tuple[str, Any]]:
    """What a machine does: the suite with these options of pytest, in the checkout that it has.

    Yields ("percent", int) as it goes on, then ("end", (exit status, output, files by their path in the run's folder)).
    """
    with tempfile.TemporaryDirectory() as folder:
        options = ["--benchmark-only", "-v", "-p", "no:cacheprovider", "--results", folder]
        command = [sys.executable, "-m", "pytest", "bench/", *options, *arguments]
        process = subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        lines = []
        assert process.stdout is not None  # It was asked for.
        for line in process.stdout:
            lines.append(line)
            if (found := _PERCENT.search(line.rstrip())) is not None:
                yield "percent", int(found[1])
        code = process.wait()
        runs = sorted(path.parent for path in Path(folder).glob(f"2*/{RECORDS_FILE}"))
        files = {
            path.relative_to(run).as_posix(): path.read_bytes()
            for run in runs[-1:]
            for path in run.rglob("*")
            if path.is_file()
        }
        yield "end", (code, "".join(lines), files)


def kinds_of(nodes: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What a task asks Ray for to have a machine of each kind to itself: by kind, of the machines that are alive.

    `nodes` is `ray.nodes()`. CPU is a kind where no machine has an accelerator.
    """
    found: dict[str, dict[str, Any]] = {}
    for node in nodes:
        has = node["Resources"]
        for name in (one for one in has if node["Alive"] and one.startswith(PREFIX)):
            kind = name.removeprefix(PREFIX)
            cpus = min(has.get("CPU", 0), found.get(kind, {}).get("num_cpus", float("inf")))
            gpus = min(1, has.get("GPU", 0))
            # A whole machine's processors, because what else ran there would disturb the times.
            found[kind] = {"num_cpus": cpus, "num_gpus": gpus, "resources": {name: 0.001}}
    if not found and (cpus := max((node["Resources"].get("CPU", 0) for node in nodes if node["Alive"]), default=0)):
        found[CPU] = {"num_cpus": cpus, "num_gpus": 0}
    return found


def run_fleet(
    address: str | None, only: Sequence[str], arguments: list[str], folder: Path, report: Reporter
) -> tuple[Outcome, ...]:
    """Run the suite on every kind, or on `only` those, at once; results go to `<folder>/<kind>/`.

    `address` is the cluster's; None is Ray's own choice: RAY_ADDRESS, else this machine. Raises UserError where Ray is
    not installed or not to be reached, and for a kind that the cluster has not.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError("sadtrt fleet runs on Ray, which is not installed: pip install -e '.[fleet]'") from error
    # Ray reports to its makers unless it is told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"no Ray cluster at {address or 'this machine'}: {str(error).splitlines()[0]}") from error
    try:
        kinds = kinds_of(ray.nodes())
        for kind in only:
            if kind not in kinds:
                raise UserError(f"--kind {kind}: the cluster has no such machine, only {', '.join(kinds) or 'none'}")
        return _Fleet(ray, arguments, folder, report).run({kind: kinds[kind] for kind in only or kinds})
    finally:
        ray.shutdown()


class _Fleet:
    """The tasks that are under way on a cluster that was joined."""

    def __init__(self, ray: Any, arguments: list[str], folder: Path, report: Reporter) -> None:
        self._ray, self._arguments, self._folder, self._report = ray, arguments, folder, report
        self._task = ray.remote(max_retries=0)(run_suite)
        self._running: dict[str, Any] = {}
        self._tries: dict[str, int] = {}
        self._ended: dict[str, Outcome] = {}

    def run(self, kinds: Mapping[str, dict[str, Any]]) -> tuple[Outcome, ...]:
        """Start every kind's task and follow them all to their ends."""
        for kind in kinds:
            self._start(kind, kinds[kind])
        while self._running:
            by_stream = {stream: kind for kind, stream in self._running.items()}
            ready, _ = self._ray.wait(list(by_stream), num_returns=1, timeout=_POLL_SECONDS)
            alive = kinds_of(self._ray.nodes())
            for kind in [by_stream[stream] for stream in ready]:
                try:
                    self._take(kind, *self._ray.get(next(self._running[kind])))
                except (self._ray.exceptions.RayError, StopIteration) as error:
                    self._lost(kind, error, alive.get(kind))
            # Such a task would wait for ever.
            for kind in [one for one in self._running if one not in alive]:
                self._end(kind, None, "missing: no machine of this kind is left")
        return tuple(self._ended[kind] for kind in kinds)

    def _start(self, kind: str, options: dict[str, Any]) -> None:
        self._tries[kind] = self._tries.get(kind, 0) + 1
        self._running[kind] = self._task.options(**options).remote(self._arguments)
        self._report.progress(f"{kind}: starting", 0, None)

    def _take(self, kind: str, what: str, content: Any) -> None:
        if what == "percent":
            self._report.progress(f"{kind}: {content}%", content, 100)
            return
        code, output, files = content
        folder = self._folder / kind
        folder.mkdir(parents=True, exist_ok=True)
        write_file(folder / OUTPUT_FILE, output)
        if RECORDS_FILE not in files:
            self._end(kind, None, f"pytest ended with {code} and recorded nothing: see {folder / OUTPUT_FILE}")
            return
        for name, data in files.items():
            target = folder / name
            target.parent.mkdir(exist_ok=True)
            write_file(target, data)
        try:
            read_run(folder)  # Its digest is checked.
        except UserError as error:
            self._end(kind, None, f"it came back damaged: {error}")
        else:
            self._end(kind, folder, f"pytest ended with {code}: see {folder / OUTPUT_FILE}" if code else None)

    def _lost(self, kind: str, error: BaseException, options: dict[str, Any] | None) -> None:
        words = type(error).__name__
        if self._tries[kind] < TRIES and options is not None:
            self._report.log(f"{kind}: lost with its machine ({words}), trying once more")
            self._start(kind, options)
        else:
            self._end(kind, None, f"missing: lost with its machine ({words})")

    def _end(self, kind: str, folder: Path | None, problem: str | None) -> None:
        del self._running[kind]
        self._ended[kind] = Outcome(kind, folder, problem)
        self._report.progress(f"{kind}: {'failed' if problem else 'done'}", 100, 100)
        self._report.log(f"{kind}: {problem or f'done, in {folder}'}")
