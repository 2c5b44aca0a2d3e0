"""How often does the gate call identical code worse, and how much of a planted loss does it catch?

    python bench/studies/gate_false_alarms.py --out FOLDER -- --device cpu --stage mapping --runner pytorch
    python bench/studies/gate_false_alarms.py --out FOLDER --runs 0 --fresh 0       # judge FOLDER's samples.json anew

Whole benchmark runs of unchanged code, some in one process and some in processes of their own, with the pytest options
after `--`; started again, with the same options on the same machine, it goes on with those that FOLDER lacks, in a
process that is another but counts as the same. `samples.json` there has them all. Every two of them go to the gate,
both ways, and each with SEVERAL others as one baseline: whatever it calls worse is a false alarm. Then each loss in
SLOWDOWNS and PICTURE is put into the newer run's records before they go there. A planted slowdown multiplies a row's
stored times, so it is as steady as they are; a planted drop of PSNR leaves the other figures of the picture alone.
Runs that are stored with a slowdown of their own (extra work after every call) are judged by those without.

decisions.json has every figure of the tables that are printed, and decisions.md the tables.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sadtrt_core.case import Case
from sadtrt_core.codec import JsonValue
from sadtrt_core.files import read_file, write_file
from sadtrt_core.gate.judge import compare_runs
from sadtrt_core.gate.limits import Thresholds
from sadtrt_core.gate.verdicts import REGRESSIONS, ExitCode, GateResult
from sadtrt_core.records.measurements import PSNR_CEILING_DB
from sadtrt_core.records.schema import Record, Run
from sadtrt_core.records.store import RECORDS_FILE, SIZE_LIMIT, read_run
from sadtrt_core.report.text import markdown_cell

BENCHMARKS = [str(Path(__file__).parents[1] / name) for name in ("test_stage_latency.py", "test_precision_drift.py")]
#: Folders of the runs, by the process that made them.
HERE, FRESH = "one-process", "fresh-processes"
SAMPLES = "samples.json"
SEVERAL = 5
"""How many runs a baseline of several has."""
Pair = tuple[Run, tuple[Run, ...]]
"""A newer run, and the runs of its baseline."""


@dataclass(frozen=True)
class Stored(JsonValue):
    """A run and by what fraction its times are longer through extra work, 0 for unchanged code."""

    planted: float
    run: Run


@dataclass(frozen=True)
class Samples(JsonValue):
    """Everything that was measured."""

    stored: tuple[Stored, ...]
    fresh: tuple[Run, ...]


def measure(folder: Path, options: list[str], fresh: bool) -> None:
    """One run of the benchmarks into a folder of its own in `folder`."""
    words = [*BENCHMARKS, "--benchmark-only", "--results", str(folder), *options]
    code = subprocess.run([sys.executable, "-m", "pytest", *words]).returncode if fresh else int(pytest.main(words))
    if code:
        raise SystemExit(f"a run failed with exit status {code}")


def stored_runs(folder: Path) -> list[Run]:
    """The whole runs in a folder; those that were interrupted, or in which a row failed, are left."""
    runs = [read_run(file) for file in sorted(folder.glob(f"2*/{RECORDS_FILE}"))]
    return [run for run in runs if run.complete and not any(record.status == "failed" for record in run.records)]


def read_samples(file: Path) -> Samples:
    """The runs in a file; what older ones tell beside them is left."""
    found = json.loads(read_file(file, SIZE_LIMIT))
    stored = [{name: one[name] for name in ("planted", "run")} for one in found["stored"]]
    return Samples.from_json({"stored": stored, "fresh": found["fresh"]})


def some_twice(record: Record, share: float) -> Record:
    """The record with so many of its samples twice as long, drawn at random but always the same of one record."""
    if record.latency is None:
        return record
    draw = np.random.default_rng(int(1e9 * record.latency.host_ms[0]))

    def planted(times: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(np.where(draw.random(len(times)) < share, 2.0, 1.0) * times)

    device = record.latency.device_ms and planted(record.latency.device_ms)
    host = planted(record.latency.host_ms)
    return replace(record, latency=replace(record.latency, host_ms=host, device_ms=device))


def slower(record: Record, percent: float) -> Record:
    """The record with all its times longer."""
    if record.latency is None:
        return record
    factor = 1 + percent / 100
    host = tuple(ms * factor for ms in record.latency.host_ms)
    device = record.latency.device_ms and tuple(ms * factor for ms in record.latency.device_ms)
    return replace(record, latency=replace(record.latency, host_ms=host, device_ms=device))


def worse_picture(record: Record, decibels: float = 0.0, levels: int = 0) -> Record:
    """The record with the PSNR of every frame lower, and one pixel of the worst frame farther from the reference."""
    drift = record.drift
    if drift is None or not drift.meaningful:
        return record
    psnr = tuple((PSNR_CEILING_DB if db is None else min(db, PSNR_CEILING_DB)) - decibels for db in drift.psnr_db)
    farthest = list(drift.max_lsb)
    farthest[farthest.index(drift.max_lsb_worst)] += levels
    return replace(record, drift=replace(drift, psnr_db=psnr, max_lsb=tuple(farthest)))


SLOWDOWNS: dict[bool, dict[str, Callable[[Record], Record]]] = {
    True: {
        **{f"{percent}% slower": partial(slower, percent=percent) for percent in (4, 5)},
        **{f"{100 * share:g}% of samples twice": partial(some_twice, share=share) for share in (0.02, 0.04)},
    },
    False: {f"{percent}% slower": partial(slower, percent=percent) for percent in (30, 50)},
}
"""What is planted in the times of a GPU, and of a CPU. A slowdown by just the gate's limit would be caught one way
round of two, whatever the gate is worth."""
PICTURE: dict[str, Callable[[Record], Record]] = {
    **{f"{decibels:g} dB less": partial(worse_picture, decibels=decibels) for decibels in (0.5, 1.0)},
    "1 level more": partial(worse_picture, levels=1),
}


def judge(pairs: list[Pair]) -> list[GateResult]:
    """The gate's answers."""
    return [compare_runs(new, old, Thresholds(), others) for new, (old, *others) in pairs]


def false_alarms(name: str, pairs: list[Pair]) -> dict[str, Any]:
    """The gate's decisions on pairs of runs of the same code."""
    results = judge(pairs)
    codes = Counter(result.exit_code for result in results)
    alarms = [row for result in results for row in result.rows if row.verdict in REGRESSIONS]
    return {
        "pairs": name,
        "decisions": len(results),
        "false alarms": codes[ExitCode.REGRESSION],
        "by times": sum(any(row.verdict == "slower" for row in result.rows) for result in results),
        "not comparable": codes[ExitCode.NOT_COMPARABLE],
        "alarms": [f"{row.key.label()}: {row.detail}" for row in alarms],
    }


def worse_rows(pairs: list[Pair]) -> frozenset[tuple[int, Case]]:
    """The rows of these pairs, by the pair's number, that are called worse as they are."""
    results = enumerate(judge(pairs))
    return frozenset((index, row.key) for index, one in results for row in one.rows if row.verdict in REGRESSIONS)


def caught(
    name: str,
    plant: Callable[[Record], Record] | None,
    pairs: list[Pair],
    worse: frozenset[tuple[int, Case]] = frozenset(),
) -> list[dict[str, Any]]:
    """For each row that a loss can be planted in: in how many of the pairs the gate calls it worse.

    Without `plant` the newer runs have the loss `name` already. Rows in `worse` say nothing of it and are left out.
    """
    planted = pairs
    if plant is not None:
        planted = [(replace(new, records=tuple(map(plant, new.records))), old) for new, old in pairs]
    rows = [row for index, one in enumerate(judge(planted)) for row in one.rows if (index, row.key) not in worse]
    able = {record.key for new, _ in pairs for record in new.records if plant is None or plant(record) is not record}
    verdicts = {key: [row.verdict for row in rows if row.key == key] for key in sorted(able)}
    return [
        {
            "planted": name,
            "row": key.label(),
            "caught": sum(verdict in REGRESSIONS for verdict in given),
            "not comparable": given.count("not comparable"),
            "of": len(given),
        }
        for key, given in verdicts.items()
    ]


def markdown(title: str, rows: list[dict[str, Any]]) -> str:
    """A table of figures, its first column words."""
    lines = [f"## {title}", "", "| " + " | ".join(rows[0]) + " |", "|---" * len(rows[0]) + "|"]
    for row in rows:
        cells = ("; ".join(value) if isinstance(value, list) else str(value) for value in row.values())
        lines.append("| " + " | ".join(map(markdown_cell, cells)) + " |")
    return "\n".join([*lines, "", ""])


def decide(samples: Samples) -> dict[str, list[dict[str, Any]]]:
    """Every table, by its title."""
    here = [stored.run for stored in samples.stored if not stored.planted]
    fresh = list(samples.fresh)
    among: list[Pair] = [(new, (old,)) for new, old in itertools.permutations(here, 2)]
    every = [*here, *fresh]
    across = [(new, (old,)) for new, old in itertools.permutations(every, 2) if new in fresh or old in fresh]
    # Each run by the SEVERAL that come after it, the first ones after the last.
    several = [
        (run, tuple((every * 2)[index + 1 : index + 1 + SEVERAL]))
        for index, run in enumerate(every)
        if len(every) > SEVERAL
    ]
    alarms = [false_alarms("runs of one process", among), false_alarms("with fresh processes", across)]
    alarms += [false_alarms(f"by a baseline of {SEVERAL} runs", several)] if several else []
    losses = SLOWDOWNS[every[0].environment.gpu is not None] | PICTURE
    every_pair = among + across
    worse = worse_rows(every_pair)
    power = [row for name, plant in losses.items() for row in caught(name, plant, every_pair, worse)]
    for planted in sorted({stored.planted for stored in samples.stored if stored.planted}):
        runs = [stored.run for stored in samples.stored if stored.planted == planted]
        pairs: list[Pair] = [(new, (old,)) for new, old in itertools.product(runs, here)]
        power += caught(f"{100 * planted:g}% slower by extra work", None, pairs)
    return {"unchanged code": alarms, "planted losses": power}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and of what was found")
    parser.add_argument("--runs", type=int, default=9, help="runs there are to be in one process (default: 9)")
    parser.add_argument("--fresh", type=int, default=3, help="runs there are to be in fresh processes (default: 3)")
    parser.add_argument("options", nargs="*", help="of pytest, after --: which rows, on which device")
    asked = parser.parse_args()
    already = {name: len(stored_runs(asked.out / name)) for name in (HERE, FRESH)}
    for index in range(max(asked.runs, asked.fresh)):
        if already[HERE] <= index < asked.runs:
            measure(asked.out / HERE, asked.options, fresh=False)
        if already[FRESH] <= index < asked.fresh:
            measure(asked.out / FRESH, asked.options, fresh=True)
    file = asked.out / SAMPLES
    if asked.runs or asked.fresh or not file.exists():
        here, fresh = (stored_runs(asked.out / name) for name in (HERE, FRESH))
        samples = Samples(tuple(Stored(0.0, run) for run in here), tuple(fresh))
        write_file(file, json.dumps(samples.to_json()) + "\n")
    samples = read_samples(file)
    runs = [*(stored.run for stored in samples.stored), *samples.fresh]
    if len(runs) < 2:
        raise SystemExit(f"two runs are needed, and {asked.out} holds {len(runs)}")
    tables = decide(samples)
    where = runs[0].environment
    text = f"# What the gate decides\n\n{where.gpu or where.cpu}, commit {where.commit}.\n\n"
    text += "".join(markdown(title, rows) for title, rows in tables.items())
    print(text)
    write_file(asked.out / "decisions.md", text.rstrip() + "\n")
    found = {"environment": where.to_json(), **tables}
    write_file(asked.out / "decisions.json", json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
