"""How often does the gate call identical code worse, and how much of a planted loss does it catch?

    python bench/studies/gate_false_alarms.py --out FOLDER -- --device cpu --stage mapping --runner pytorch
    python bench/studies/gate_false_alarms.py --out FOLDER --runs 0 --fresh 0       # judge what FOLDER holds anew

Whole benchmark runs of unchanged code, some in this process and some in processes of their own, with the pytest options
after `--`. Every two of them go to the gate, both ways: whatever it calls worse is a false alarm. Then each loss in
PLANTED is put into the newer run's records before they go there. A planted slowdown multiplies a row's stored times,
so it is as steady as they are; a planted drop of PSNR leaves the other figures of the picture alone.

The runs stay in FOLDER; gate_false_alarms.json beside them has every figure of the tables that are printed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from sadtrt_core.files import write_file
from sadtrt_core.gate.judge import compare_runs
from sadtrt_core.gate.limits import Thresholds
from sadtrt_core.gate.verdicts import REGRESSIONS, ExitCode, GateResult
from sadtrt_core.records.measurements import PSNR_CEILING_DB
from sadtrt_core.records.schema import Record, Run
from sadtrt_core.records.store import RECORDS_FILE, read_run

BENCHMARKS = [str(Path(__file__).parents[1] / name) for name in ("test_stage_latency.py", "test_precision_drift.py")]
#: Folders of the runs, by the process that made them.
HERE, FRESH = "one-process", "fresh-processes"


def measure(folder: Path, options: list[str], fresh: bool) -> None:
    """One run of the benchmarks into a folder of its own in `folder`."""
    words = [*BENCHMARKS, "--benchmark-only", "--results", str(folder), *options]
    code = subprocess.run([sys.executable, "-m", "pytest", *words]).returncode if fresh else int(pytest.main(words))
    if code:
        raise SystemExit(f"a run failed with exit status {code}")


def stored_runs(folder: Path) -> list[Run]:
    return [read_run(file) for file in sorted(folder.glob(f"2*/{RECORDS_FILE}"))]


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


#: What is planted in every row that can have it. A slowdown by just the gate's limit would be caught one way round of
#: two, whatever the gate is worth.
PLANTED: dict[str, Callable[[Record], Record]] = {
    **{f"{percent}% slower": partial(slower, percent=percent) for percent in (4, 5, 25, 30, 50)},
    **{f"{decibels:g} dB less": partial(worse_picture, decibels=decibels) for decibels in (0.5, 1.0)},
    "1 level more": partial(worse_picture, levels=1),
}


def judge(pairs: list[tuple[Run, Run]]) -> list[GateResult]:
    """The gate's answers on pairs of a newer run and its baseline; its bootstraps run outside the GIL."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda pair: compare_runs(pair[0], pair[1], Thresholds()), pairs))


def false_alarms(name: str, pairs: list[tuple[Run, Run]]) -> dict[str, Any]:
    """The gate's decisions on pairs of runs of the same code."""
    results = judge(pairs)
    codes = Counter(result.exit_code for result in results)
    alarms = [row for result in results for row in result.rows if row.verdict in REGRESSIONS]
    return {
        "pairs": name,
        "decisions": len(results),
        "false alarms": codes[ExitCode.REGRESSION],
        "not comparable": codes[ExitCode.NOT_COMPARABLE],
        "alarms": [f"{row.key.label()}: {row.detail}" for row in alarms],
    }


def caught(name: str, pairs: list[tuple[Run, Run]]) -> list[dict[str, Any]]:
    """For each row that the loss `name` can be planted in: in how many of the pairs the gate calls it worse."""
    plant = PLANTED[name]
    planted = [(replace(new, records=tuple(map(plant, new.records))), old) for new, old in pairs]
    rows = [row for result in judge(planted) for row in result.rows]
    able = {record.key for new, _ in pairs for record in new.records if plant(record) is not record}
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


def show(title: str, rows: list[dict[str, Any]], console: Console) -> None:
    table = Table(*rows[0], title=title, title_justify="left")
    for row in rows:
        table.add_row(*("; ".join(value) if isinstance(value, list) else str(value) for value in row.values()))
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and of what was found")
    parser.add_argument("--runs", type=int, default=8, help="runs to add in this process (default: 8, which make 56)")
    parser.add_argument("--fresh", type=int, default=5, help="runs to add in processes of their own (default: 5)")
    parser.add_argument("options", nargs="*", help="of pytest, after --: which rows, on which device")
    asked = parser.parse_args()
    for index in range(max(asked.runs, asked.fresh)):
        if index < asked.runs:
            measure(asked.out / HERE, asked.options, fresh=False)
        if index < asked.fresh:
            measure(asked.out / FRESH, asked.options, fresh=True)
    here, fresh = (stored_runs(asked.out / name) for name in (HERE, FRESH))
    if len(here) + len(fresh) < 2:
        raise SystemExit(f"two runs are needed, and {asked.out} holds {len(here) + len(fresh)}")
    among = list(itertools.permutations(here, 2))
    across = [*itertools.product(here, fresh), *itertools.product(fresh, here), *itertools.permutations(fresh, 2)]
    alarms = [false_alarms("runs of one process", among), false_alarms("with fresh processes", across)]
    power = [row for name in PLANTED for row in caught(name, among + across)]
    console = Console()
    show("unchanged code", alarms, console)
    show("planted losses", power, console)
    found = {"environment": (here or fresh)[0].environment.to_json(), "unchanged": alarms, "planted": power}
    write_file(asked.out / "gate_false_alarms.json", json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
