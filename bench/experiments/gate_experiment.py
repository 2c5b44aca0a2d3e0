"""Is the gate quiet on identical code and loud on planted losses? Measures this machine and writes what was seen.

    python bench/experiments/gate_experiment.py --device cpu
    python bench/experiments/gate_experiment.py --device cuda --weights fitted --optimization-level 2 \\
        --budget-seconds 250 --row generator:tensorrt:fp16-mixed --row warp:pytorch:fp32
    # Decide anew on the samples of an earlier experiment, or of one that was killed:
    python bench/experiments/gate_experiment.py --again results/baselines/gate-experiment-cpu
    # What would be said of every single visit, as if each were a run?
    python bench/experiments/gate_experiment.py --again FOLDER --visits 1 --out FOLDER-single-visits

Runs of unchanged code alternate with runs in which every row does real extra work (a spinning kernel on a GPU, a busy
loop on a CPU, as long as the stated part of the row's own time) and with runs in fresh processes. `samples.json` keeps
every sample and is written after each step, `decisions.json` what the gate said, `decisions.md` a table of it.

On a GPU a run visits its rows several times, as the suite does, seconds apart. The planted runs of a step go round in
turn with its plain run, in the time that this has to wait; no two of one step are ever compared with each other.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from gate_decisions import StoredRun, split_visits
from gate_rows import Rows, busy_loop, row_absence
from gate_schedule import Budget, Step, schedule
from gate_table import decide, table, visit_medians
from suite_options import ROOT, add_suite_options, make_session

from sadtrt_core import codec
from sadtrt_core.environment import read_environment
from sadtrt_core.files import write_file
from sadtrt_core.gate.limits import Thresholds
from sadtrt_core.gate.samples import busy_host
from sadtrt_core.measure.host_load import HostLoad
from sadtrt_core.records import schema
from sadtrt_core.records.schema import Environment, Record, Run
from sadtrt_core.session import Session

ROWS = {
    "cpu": ("mapping:pytorch:fp32", "mapping:pytorch:bf16", "keypoints:pytorch:fp32"),
    "cuda": (
        "generator:tensorrt:fp16-mixed",
        "decode:tensorrt:fp16",
        "motion:tensorrt:fp16-mixed",
        "warp:pytorch:fp32",
    ),
}
LEVELS = {"cpu": (0.05, 0.2, 0.3, 0.5), "cuda": (0.03, 0.05)}
#: What the runs are judged by.
SETTINGS = {"default limits": Thresholds()}


def measure_runs(
    suite: Session, rows: Rows, names: Sequence[str], environment: Environment, levels: Sequence[float] = (0.0,)
) -> list[Run]:
    """A finished run of all rows for each planted slowdown of `levels`."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    empty = Run(
        schema.SCHEMA_VERSION,
        now,
        now,
        True,
        environment,
        suite.recorded_weights,
        suite.recorded_workload,
        suite.options.as_text(),
        (),
    )
    return [dataclasses.replace(empty, records=records) for records in rows.measure(names, levels)]


class Patience:
    """Measures while the machine is quiet: a run that others disturbed is measured again while `seconds` last.

    The gate would refuse such a run anyway (`Thresholds.busy_percent`); `again` counts them. Device times do not suffer
    from other processes, so on a GPU nothing waits and nothing is measured again: give it 0 seconds.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self.again = seconds, 0

    def measure(self, measure: Callable[[], list[Run]]) -> list[Run]:
        while self.seconds > 0:
            start = time.monotonic()
            if self._is_quiet_now():
                runs = measure()
                if not any(_is_busy(record) for run in runs for record in run.records):
                    return runs
                self.again += 1
            time.sleep(2)
            self.seconds -= time.monotonic() - start
        return measure()

    def _is_quiet_now(self) -> bool:
        with HostLoad() as host:
            busy_loop(0.5)
        return (host.waited_percent or 0.0) <= Thresholds().busy_percent


def _is_busy(record: Record) -> bool:
    host_only = record.latency is not None and record.latency.device_ms is None
    return host_only and busy_host(record.telemetry, None, Thresholds().busy_percent) is not None


def fresh_run(options: argparse.Namespace, rows: Sequence[str], timeout: float) -> list[Run]:
    """One plain run in a new process, as a list. Raises subprocess.SubprocessError where that fails."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.json"
        command = [sys.executable, __file__, "--one-run", str(file), "--device", options.device]
        command += ["--weights", options.weights, "--threads", str(options.threads)]
        command += ["--optimization-level", str(options.optimization_level), "--grid-sample", options.grid_sample]
        command += [*(word for row in rows for word in ("--row", row))]
        command += ["--cache", str(options.cache)] if options.cache else []
        command += ["--source-image", str(options.source_image)] if options.source_image else []
        command += ["--visits", str(options.visits)] if options.visits else []
        subprocess.run(command, check=True, timeout=timeout)
        return [codec.from_json(Run, json.loads(file.read_text()))]


@dataclass
class Samples:
    """What was measured so far."""

    stored: list[StoredRun] = field(default_factory=list)
    fresh: list[Run] = field(default_factory=list)
    again: int = 0

    @classmethod
    def read(cls, folder: Path) -> Samples:
        kept = json.loads((folder / "samples.json").read_text())
        # Before there were groups every run was measured by itself.
        stored = [
            StoredRun(item["planted"], codec.from_json(Run, item["run"]), item.get("group", index))
            for index, item in enumerate(kept["stored"])
        ]
        return cls(stored, [codec.from_json(Run, item) for item in kept["fresh"]], kept["measured_again"])

    def split(self, count: int) -> Samples:
        """The same runs, each as several of so many visits, which stay a group."""
        stored = [dataclasses.replace(item, run=part) for item in self.stored for part in split_visits(item.run, count)]
        return Samples(stored, [part for run in self.fresh for part in split_visits(run, count)], self.again)

    def write(self, folder: Path) -> None:
        kept = {
            "stored": [
                {"planted": item.planted, "group": item.group, "run": item.run.to_json()} for item in self.stored
            ],
            "fresh": [run.to_json() for run in self.fresh],
            "measured_again": self.again,
        }
        write_file(folder / "samples.json", json.dumps(kept) + "\n")


def measure_all(options: argparse.Namespace, suite: Session, names: Sequence[str], out: Path) -> Samples:
    """Measure the schedule, as far as the budget goes, and write after each run what there is."""
    out.mkdir(parents=True, exist_ok=True)
    # On a CPU a row is visited once: there is no time to fill.
    together = suite.timing_plan.visits > 1
    steps = schedule(options.plain, options.planted, LEVELS[options.device], options.fresh, together)
    budget, samples = Budget(options.budget_seconds), Samples()
    patience = Patience(0.0 if options.device == "cuda" else options.patience)
    environment = read_environment(suite.device)
    left_out = 0
    with contextlib.ExitStack() as stack:
        rows = Rows(suite, stack)
        for index, step in enumerate(steps):
            if samples.stored and not budget.fits(step):
                left_out += 1
                continue
            start = time.monotonic()
            if step.fresh:
                measure = functools.partial(fresh_run, options, names, budget.patience())
            else:
                measure = functools.partial(measure_runs, suite, rows, names, environment, step.levels)
            where = f"step {index + 1} of {len(steps)}"
            try:
                runs = patience.measure(measure)
            except subprocess.SubprocessError as error:
                print(f"{where}, {step.words}: FAILED: {error}", flush=True)
                continue
            budget.took(step, time.monotonic() - start)
            if step.fresh:
                samples.fresh += runs
            else:
                samples.stored += [StoredRun(*pair, index) for pair in zip(step.levels, runs, strict=True)]
            samples.again = patience.again
            samples.write(out)
            for level, run in zip(step.levels, runs, strict=True):
                words = "fresh process" if step.fresh else Step((level,)).words
                print(f"{budget.spent():6.1f} s: {where}, {words}: {_medians(run)}", flush=True)
    if left_out:
        print(
            f"{left_out} of {len(steps)} steps were left out: --budget-seconds {options.budget_seconds:g} is too short"
        )
    return samples


def _medians(run: Run) -> str:
    """The median of every visit to every row."""
    latencies = ((record.key, record.latency) for record in run.records)
    return ", ".join(
        f"{key.stage} {' '.join(f'{ms:.4g}' for ms in visit_medians(latency))} ms"
        for key, latency in latencies
        if latency
    )


def measurable(suite: Session, names: Sequence[str]) -> tuple[str, ...]:
    """The rows that can be measured here; what cannot is said. Ends the process where that leaves none."""
    absences = {name: row_absence(suite, name) for name in names}
    for name, absence in absences.items():
        if absence is not None:
            print(f"{name} is left out: {absence}", flush=True)
    if all(absences.values()):
        raise SystemExit("no row can be measured here")
    return tuple(name for name, absence in absences.items() if absence is None)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--row", action="append", help="repeatable: stage:runner:precision")
    add_suite_options(parser)
    parser.add_argument("--plain", type=int, default=21, help="runs of unchanged code (15 make 210 pairs, both ways)")
    parser.add_argument("--planted", type=int, default=5, help="runs of each planted slowdown")
    parser.add_argument("--fresh", type=int, default=5, help="runs in processes of their own")
    parser.add_argument("--budget-seconds", type=float, help="measure no longer than this, with fewer runs if need be")
    parser.add_argument(
        "--patience", type=float, default=600.0, help="seconds to wait in all for a CPU that others leave alone"
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="of PyTorch on a CPU: as many as cores wait for each other (default: 1)"
    )
    parser.add_argument(
        "--visits", type=int, help="to each row; with --again, every so many are a run (default: the suite's)"
    )
    parser.add_argument("--out", type=Path, help="folder to write (default: results/baselines/gate-experiment-DEVICE)")
    parser.add_argument(
        "--again", type=Path, help="a folder this wrote: decide anew on its samples, in place or in --out"
    )
    parser.add_argument("--one-run", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.visits is not None and options.visits < 1:
        parser.error(f"--visits must be 1 or more but is {options.visits}")
    if options.again and options.visits and not options.out:
        parser.error("--again with --visits decides on parts of runs: give it an --out of its own")
    return options


def main() -> None:
    options = parse()
    out = options.out or options.again or ROOT / "results" / "baselines" / f"gate-experiment-{options.device}"
    torch.set_num_threads(options.threads)
    suite = make_session(options, options.device)
    if options.visits is not None:
        suite.timing_plan = dataclasses.replace(suite.timing_plan, visits=options.visits)
    if options.one_run:
        with contextlib.ExitStack() as stack:
            (run,) = measure_runs(suite, Rows(suite, stack), options.row, read_environment(suite.device))
        write_file(options.one_run, json.dumps(run.to_json()))
        return
    if options.again:
        samples = Samples.read(options.again)
        if options.visits is not None:
            samples = samples.split(options.visits)
        out.mkdir(parents=True, exist_ok=True)
    else:
        samples = measure_all(options, suite, measurable(suite, options.row or ROWS[options.device]), out)
    start = time.monotonic()
    portrait = suite.workload.source_image[:, :, ::2, ::2].float().cpu()
    answers = decide(samples.stored, samples.fresh, samples.again, portrait, SETTINGS)
    write_file(out / "decisions.json", json.dumps(answers, indent=1) + "\n")
    write_file(out / "decisions.md", table(answers, SETTINGS))
    print(f"decided in {time.monotonic() - start:.0f} s\n\n{table(answers, SETTINGS)}")


if __name__ == "__main__":
    main()
