"""How often does the gate call identical code worse, and how often does it catch a planted loss?

    python bench/studies/gate_false_alarms.py --device cpu
    python bench/studies/gate_false_alarms.py --device cuda --weights fitted --optimization-level 2 \\
        --budget-seconds 250 --row generator:tensorrt:fp16-mixed --row warp:pytorch:fp32
    # Decide anew on the samples of an earlier run of this, or of one that was killed:
    python bench/studies/gate_false_alarms.py --again results/baselines/gate-experiment-cpu

A round is one run of unchanged code and one run for each planted slowdown, their repetitions interleaved; a run in a
fresh process follows each of the first rounds. In a planted run every row does real extra work after every call (a
spinning kernel on a GPU, a busy loop on a CPU) for that part of its own time. Runs of one round are never compared with
each other, since they met the same states of the machine. Losses of picture are planted in the gate's input.

`samples.json` keeps every sample and is written after each run, `decisions.json` what the gate said, `decisions.md` a
table of it. Build engines first (`sadtrt build`), or the first round takes the minutes that this takes.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import math
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from sadtrt_core import codec, stats
from sadtrt_core.benchmark import BENCHMARK_VERSION
from sadtrt_core.case import Case
from sadtrt_core.config import RunConfig, run_options
from sadtrt_core.environment import read_environment
from sadtrt_core.files import write_file
from sadtrt_core.gate.judge import compare_runs
from sadtrt_core.gate.limits import Thresholds
from sadtrt_core.gate.verdicts import REGRESSIONS, ExitCode, GateResult
from sadtrt_core.measure.drift import measure_drift
from sadtrt_core.measure.interleave import Repetitions
from sadtrt_core.measure.resources import device_memory_free_of_leftovers, device_memory_used, energy_per_call
from sadtrt_core.measure.timing import LatencySampler, TimingPlan
from sadtrt_core.records import schema
from sadtrt_core.records.measurements import Drift, Latency, Resources
from sadtrt_core.records.schema import Record, Run
from sadtrt_core.runners.base import StageRunner
from sadtrt_core.session import Session

RESULTS = Path(__file__).parents[2] / "results"
ROWS = {
    "cpu": ("mapping:pytorch:fp32", "mapping:pytorch:bf16", "keypoints:pytorch:fp32"),
    "cuda": ("generator:tensorrt:fp16-mixed", "decode:tensorrt:fp16", "warp:pytorch:fp32"),
}
LEVELS = {"cpu": (0.05, 0.2, 0.3, 0.5), "cuda": (0.03, 0.05)}
SHARED_OPTIONS = ("weights", "optimization_level", "grid_sample", "cache")
SETTING = "default limits"
PICTURE_DECISIONS = 100
ALARMS_KEPT = 20


@dataclass(frozen=True)
class Sample:
    """One run; `planted` is the slowdown of every row as a fraction, 0 for none, `group` the round it is of."""

    planted: float
    run: Run
    group: int


@dataclass
class Samples:
    """What was measured so far: runs of this process, runs of fresh ones; `again` counts runs measured anew."""

    stored: list[Sample] = field(default_factory=list)
    fresh: list[Run] = field(default_factory=list)
    again: int = 0

    @classmethod
    def read(cls, folder: Path) -> Samples:
        kept = json.loads((folder / "samples.json").read_text())
        # Files without groups are of runs that were each measured alone.
        stored = [
            Sample(item["planted"], codec.from_json(Run, item["run"]), item.get("group", index))
            for index, item in enumerate(kept["stored"])
        ]
        return cls(stored, [codec.from_json(Run, item) for item in kept["fresh"]], kept["measured_again"])

    def write(self, folder: Path) -> None:
        stored = [{"planted": item.planted, "group": item.group, "run": item.run.to_json()} for item in self.stored]
        kept = {"stored": stored, "fresh": [run.to_json() for run in self.fresh], "measured_again": self.again}
        write_file(folder / "samples.json", json.dumps(kept) + "\n")


# Measuring


def followed(runner: StageRunner, extra: Callable[[], None]) -> Any:
    """What is timed of a runner, which does `extra` after every call, on the stream of the call."""

    def execute() -> None:
        runner.execute()
        extra()

    return SimpleNamespace(job=runner.job, stream=runner.stream, execute=execute, synchronize=runner.synchronize)


def slowed(active: StageRunner, fraction: float, plan: TimingPlan) -> Any:
    """The runner with work after every call that takes `fraction` of its own time, its launch included."""
    stream = active.stream
    if stream is None:
        (alone,) = interleaved_ms((active,), plan)
        seconds = fraction * stats.median(alone) / 1e3

        def busy() -> None:
            until = time.perf_counter() + seconds
            while time.perf_counter() < until:
                pass

        return followed(active, busy)

    def spin(cycles: int) -> None:
        with torch.cuda.stream(stream):
            torch.cuda._sleep(cycles)

    # A kernel more takes some microseconds however short it is: of a short stage that alone may be a percent. In turn,
    # because a GPU that changes its state between the two would seem to need all the planted time for the launch.
    alone, launched = interleaved_ms((active, followed(active, lambda: spin(1))), plan)
    launch = max(0.0, stats.median([after - before for before, after in zip(alone, launched, strict=True)]))
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record(stream)
    spin(known := 20_000_000)
    end.record(stream)
    end.synchronize()
    wanted_ms = fraction * stats.median(alone) - launch
    cycles = max(1, round(known / begin.elapsed_time(end) * wanted_ms))
    return followed(active, lambda: spin(cycles))


def interleaved_ms(runners: Sequence[Any], plan: TimingPlan) -> list[list[float]]:
    """Times of each of the runners in ms, a call of each after the other."""
    samplers = [LatencySampler(runner) for runner in runners]
    for sampler in samplers:
        sampler.warm_up(plan)
    for _ in range(plan.samples_min):
        for sampler in samplers:
            sampler.sample()
    return [sampler.device_ms or sampler.host_ms for sampler in samplers]


class Rows:
    """The rows of one process; each is loaded when it is first measured and stays loaded.

    What loading anew may change (where memory lies, which algorithms cuDNN picks) is seen by the fresh runs.
    """

    def __init__(self, session: Session, names: Sequence[str], stack: contextlib.ExitStack) -> None:
        self.session, self._stack = session, stack
        self.cases = [session.case(*name.split(":")) for name in names]
        self._loaded: dict[Case, tuple[StageRunner, Resources]] = {}

    def measure(self, levels: Sequence[float]) -> list[Run]:
        """A run of all rows for each planted slowdown of `levels`, their repetitions interleaved as the benchmarks'."""
        session = self.session
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        about = (session.recorded_weights, session.recorded_workload, session.options.as_text())
        empty = Run(schema.SCHEMA_VERSION, now, now, True, read_environment(session.device), *about, ())
        under_way = [[self._first(case, level) for case in self.cases] for level in levels]
        for _ in range(1, session.timing_plan.repetitions):
            for timing, _ in itertools.chain(*under_way):
                timing.wait()
                timing.repeat()
        return [
            dataclasses.replace(empty, records=tuple(map(record_of, self.cases, *zip(*rows, strict=True))))
            for rows in under_way
        ]

    def _first(self, case: Case, planted: float) -> tuple[Repetitions, Resources]:
        """A row's first repetition, and what its runner takes. Of a planted run only the time is judged."""
        session = self.session
        if case not in self._loaded:
            inputs, runner = session.inputs(session.job(case)), session.runner(case)
            before = device_memory_free_of_leftovers(session.device)
            self._stack.enter_context(runner).bind(inputs)
            after = device_memory_used(session.device)
            memory = None if before is None or after is None else max(0.0, after - before)
            self._loaded[case] = runner, Resources(memory, runner.engine_bytes and runner.engine_bytes / 1e6, None)
        active, taken = self._loaded[case]
        measured: Any = slowed(active, planted, session.timing_plan) if planted else active
        timing = Repetitions(measured, session.timing_plan, session.sensors)
        timing.repeat()
        energy = None if planted else energy_per_call(measured, session.sensors, timing.call_seconds)
        return timing, dataclasses.replace(taken, energy_mj_per_frame=energy)


def record_of(case: Case, timing: Repetitions, taken: Resources) -> Record:
    """A row's record, its times to five digits: the samples are a file in the repository."""
    latency = timing.latency()
    device = None if latency.device_ms is None else tuple(float(f"{ms:.5g}") for ms in latency.device_ms)
    host = tuple(float(f"{ms:.5g}") for ms in latency.host_ms)
    latency = dataclasses.replace(latency, host_ms=host, device_ms=device)
    about = {"telemetry": timing.telemetry(), "benchmark_version": BENCHMARK_VERSION}
    return Record(case, "measured", latency=latency, resources=taken, **about)


def fresh_run(timeout: float) -> Run:
    """One plain run in a new process with this one's options. Raises subprocess.SubprocessError where that fails."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.json"
        command = [sys.executable, __file__, *sys.argv[1:], "--one-run", str(file)]
        subprocess.run(command, check=True, timeout=timeout)
        return codec.from_json(Run, json.loads(file.read_text()))


def measure_all(options: argparse.Namespace, rows: Rows, out: Path) -> Samples:
    """All rounds, as far as the budget goes; a round more is begun only if one as long as the longest would fit."""
    out.mkdir(parents=True, exist_ok=True)
    began, longest, samples = time.monotonic(), 0.0, Samples()
    for index in range(options.plain):
        start = time.monotonic()
        if start - began + longest > options.budget_seconds:
            print(f"{options.plain - index} of {options.plain} rounds are left out: the budget is spent")
            break
        levels = (0.0, *(LEVELS[options.device] if index < options.planted else ()))
        runs = rows.measure(levels)
        samples.stored += [Sample(level, run, index) for level, run in zip(levels, runs, strict=True)]
        if index < options.fresh:
            try:
                samples.fresh.append(fresh_run(min(600.0, options.budget_seconds)))
            except subprocess.SubprocessError as error:
                print(f"the fresh process of round {index + 1} FAILED: {error}", flush=True)
        samples.write(out)
        longest = max(longest, time.monotonic() - start)
        times = ", ".join(
            f"{record.key.stage} {' '.join(f'{ms:.4g}' for ms in repetition_medians(record.latency))} ms"
            for record in runs[0].records
            if record.latency
        )
        print(f"{time.monotonic() - began:6.1f} s: round {index + 1} of {options.plain}: {times}", flush=True)
    return samples


# Deciding


def share(count: int, total: int) -> dict[str, Any]:
    return {"count": count, "of": total, "percent": round(100 * count / total, 2) if total else None}


def judge_all(pairs: Sequence[tuple[Run, Run]], thresholds: Thresholds) -> list[GateResult]:
    """The gate's answers on pairs of candidate and baseline; its bootstraps run beside each other, outside the GIL."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda pair: compare_runs(*pair, thresholds), pairs))


def same_code(pairs: Sequence[tuple[Run, Run]], thresholds: Thresholds) -> dict[str, Any]:
    """Pairs of runs of the same code: how many decisions are false alarms, or cannot be made."""
    results = judge_all(pairs, thresholds)
    codes = Counter(result.exit_code for result in results)
    rows = [row for result in results for row in result.rows]
    worse = [row for row in rows if row.verdict in REGRESSIONS]
    return {
        "decisions": len(pairs),
        "false_alarms": share(codes[ExitCode.REGRESSION], len(pairs)),
        "not_comparable": share(codes[ExitCode.NOT_COMPARABLE], len(pairs)),
        "rows_called_worse": share(len(worse), len(rows)),
        "rows_called_faster": share(sum(row.verdict == "faster" for row in rows), len(rows)),
        "alarms": [f"{row.key.label()}: {row.detail}" for row in worse[:ALARMS_KEPT]],
    }


def power(stored: Sequence[Sample], thresholds: Thresholds) -> list[dict[str, Any]]:
    """For every planted slowdown and row: how often a run with that one row slowed is caught for that row.

    Only the planted row is put to the gate, at the significance that it has among all of them.
    """
    plain = [item for item in stored if item.planted == 0]
    among_all = dataclasses.replace(thresholds, false_alarm=thresholds.false_alarm / len(plain[0].run.records))
    answers = []
    for level in sorted({item.planted for item in stored} - {0.0}):
        planted = [item for item in stored if item.planted == level]
        for key in [record.key for record in planted[0].run.records]:
            pairs = [
                (only(source.run, key), only(baseline.run, key))
                for source, baseline in itertools.product(planted, plain)
                if source.group != baseline.group
            ]
            rows = [result.rows[0] for result in judge_all(pairs, among_all)]
            found = [finding for row in rows if (finding := row.finding("device_ms") or row.finding("host_ms"))]
            known = [one for one in found if one.change is not None and one.limit is not None]
            limits, changes = ([getattr(one, name) for one in known] for name in ("limit", "change"))
            answers.append(
                {
                    "row": key.label(),
                    "planted_percent": 100 * level,
                    "caught": share(sum(one.verdict == "slower" for one in found), len(pairs)),
                    "interval_above_zero": share(sum(one.low is not None and one.low > 0 for one in found), len(pairs)),
                    "not_comparable": share(sum(one.verdict == "not comparable" for one in found), len(pairs)),
                    "median_limit_percent": round(float(np.median(limits)), 2) if limits else None,
                    "median_change_percent": round(float(np.median(changes)), 2) if changes else None,
                    "reasons": dict(Counter(one.reason for one in found).most_common()),
                }
            )
    return answers


def only(run: Run, key: Case) -> Run:
    """The run with one of its rows."""
    return dataclasses.replace(run, records=tuple(record for record in run.records if record.key == key))


def picture(portrait: torch.Tensor, run: Run, thresholds: Thresholds) -> dict[str, Any]:
    """Frames with rounding noise of 40 to 85 dB, then with 1 dB more of it, and with one pixel one level farther off.

    `portrait` is (1, 3, H, W) in 0..1; `run` lends environment and keys.
    """
    random = np.random.default_rng(0)
    # Away from black and white, where a level more may be clipped.
    reference = (0.2 + 0.6 * portrait).repeat(2, 1, 1, 1)
    caught: Counter[str] = Counter()
    for _ in range(PICTURE_DECISIONS):
        rms = 10 ** (-random.uniform(40, 85) / 20)
        error = torch.from_numpy(random.normal(0, rms, reference.shape)).float()
        before = with_drift(run, measure_drift(reference, reference + error))
        planted = {
            "false_alarms": reference + error,
            "one_decibel_caught": reference + error * 10 ** (1 / 20),
            "one_level_caught": one_level_more(reference, reference + error),
        }
        for name, frames in planted.items():
            result = compare_runs(with_drift(run, measure_drift(reference, frames)), before, thresholds)
            caught[name] += result.exit_code == ExitCode.REGRESSION
    return {name: share(caught[name], PICTURE_DECISIONS) for name in planted}


def one_level_more(reference: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """The frames with their worst pixel one uint8 level farther from the reference."""
    levels = ((frames * 255).round() - (reference * 255).round()).reshape(-1)
    worst = int(levels.abs().argmax())
    moved = frames.clone().reshape(-1)
    moved[worst] += (1 if levels[worst] >= 0 else -1) / 255
    return moved.reshape(frames.shape)


def with_drift(run: Run, drift: Drift) -> Run:
    record = run.records[0]
    weights = dataclasses.replace(run.weights, kind="fitted")
    row = Record(record.key, "measured", drift=drift, benchmark_version=record.benchmark_version)
    return dataclasses.replace(run, weights=weights, records=(row,))


def decide(samples: Samples, portrait: torch.Tensor) -> dict[str, Any]:
    """All decisions, and the rows' own figures."""
    thresholds = Thresholds()
    plain = [item for item in samples.stored if item.planted == 0]
    if not plain:
        raise SystemExit("there is no run of unchanged code to decide on: let it measure for longer")
    first = plain[0].run
    pairs = [(new.run, old.run) for new, old in itertools.permutations(plain, 2) if new.group != old.group]
    with_fresh = [pair for run in samples.fresh for item in plain for pair in ((run, item.run), (item.run, run))]
    return {
        "environment": first.environment.to_json(),
        "measured_again": samples.again,
        "rows": [row_figures([item.run.records[index] for item in plain]) for index in range(len(first.records))],
        SETTING: {
            "stored": same_code(pairs, thresholds),
            "fresh": same_code([(run, first) for run in samples.fresh], thresholds),
            "fresh against every stored": same_code(with_fresh, thresholds),
            "power": power(samples.stored, thresholds),
        },
        "picture": picture(portrait, first, thresholds),
    }


def row_figures(records: list[Record]) -> dict[str, Any]:
    """One row's figures over the runs of unchanged code."""
    latencies = [record.latency for record in records if record.latency is not None]
    taken = [record.resources for record in records if record.resources]
    reasons = {reason for record in records if record.telemetry for reason in record.telemetry.throttle_reasons}
    return {
        "row": records[0].key.label(),
        "clock": "host" if latencies[0].device_ms is None else "device",
        "runs": len(latencies),
        "median_ms": spread([stats.median(latency.judged_ms) for latency in latencies]),
        "visit_ms": spread([ms for latency in latencies for ms in repetition_medians(latency)]),
        "host_ms": spread([latency.host_ms_median for latency in latencies]),
        "energy_mj": spread([one.energy_mj_per_frame for one in taken]),
        "gpu_memory_mb": spread([one.gpu_memory_mb for one in taken]),
        "steady": sum(latency.steady for latency in latencies),
        "disturbed_samples": sum(len(latency.disturbed) for latency in latencies),
        "samples": sum(len(latency.host_ms) for latency in latencies),
        "throttle_reasons": sorted(reasons),
    }


def repetition_medians(latency: Latency) -> list[float]:
    """Median in ms of each repetition's samples."""
    return [stats.median(times) for times in latency.visits_ms]


def spread(values: list[float | None]) -> dict[str, float] | None:
    """Median, and how far the lowest and the highest are from it in percent; None where not all are known."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values) or not (middle := stats.median(known)):
        return None
    low, high = (round(100 * (end / middle - 1), 2) for end in (min(known), max(known)))
    return {"median": round(middle, 5), "lowest_percent": low, "highest_percent": high}


# Telling


def cell(value: Any) -> str:
    """A share, a spread, a list or a plain value as a cell of Markdown."""
    if isinstance(value, dict) and "of" in value:
        return f"{value['count']} of {value['of']}"
    if isinstance(value, dict) and "median" in value:
        return f"{value['median']:.4g} ({value['lowest_percent']:+.1f}% to {value['highest_percent']:+.1f}%)"
    return ("; ".join(value) if isinstance(value, (list, dict)) else "" if value is None else str(value)) or "-"


def table(answers: dict[str, Any]) -> str:
    """Markdown of the decisions: tables whose columns are the keys of what was decided."""
    where, part = answers["environment"], answers[SETTING]
    text = f"# Gate: false alarms and power\n\n{where['gpu'] or where['cpu']}, sadtrt {where['commit']}, {SETTING}.\n"
    tables = {
        "Rows in unchanged code: medians, and their lowest and highest": answers["rows"],
        "Every two runs of unchanged code": [
            {"runs": kind} | part[kind] for kind in ("stored", "fresh", "fresh against every stored")
        ],
        "Planted slowdowns": part["power"],
        "Planted losses of picture": [answers["picture"]],
    }
    for title, rows in tables.items():
        lines = [list(rows[0]), ["---"] * len(rows[0])] if rows else []
        lines += [[cell(value) for value in row.values()] for row in rows]
        text += f"\n## {title}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return text


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=tuple(ROWS))
    for known in run_options():
        if known.field in SHARED_OPTIONS:
            parser.add_argument(known.flag, type=known.type, help=f"as the benchmarks': {known.text}")
    parser.add_argument("--row", action="append", help="repeatable: stage:runner:precision")
    parser.add_argument("--plain", type=int, default=15, help="runs of unchanged code (15 make 210 pairs, both ways)")
    parser.add_argument("--planted", type=int, default=5, help="runs of each planted slowdown")
    parser.add_argument("--fresh", type=int, default=5, help="runs in processes of their own")
    parser.add_argument("--budget-seconds", type=float, default=math.inf, help="begin no round that would end later")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch on a CPU (default: 1)")
    parser.add_argument("--again", type=Path, help="a folder this wrote: decide anew, in place or in --out")
    parser.add_argument("--out", type=Path, help="folder to write (default: results/gate-false-alarms-DEVICE)")
    parser.add_argument("--one-run", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parse()
    out = options.out or options.again or RESULTS / f"gate-false-alarms-{options.device}"
    torch.set_num_threads(options.threads)
    said = {name: value for name, value in vars(options).items() if value is not None}
    session = Session(RunConfig.from_options({"weights": "seeded", "frames": 1} | said))
    with contextlib.ExitStack() as stack:
        rows = Rows(session, options.row or ROWS[options.device], stack)
        if options.one_run:
            write_file(options.one_run, json.dumps(rows.measure((0.0,))[0].to_json()))
            return
        samples = Samples.read(options.again) if options.again else measure_all(options, rows, out)
    out.mkdir(parents=True, exist_ok=True)
    answers = decide(samples, session.workload.source_image[:, :, ::2, ::2].float().cpu())
    write_file(out / "decisions.json", json.dumps(answers, indent=1) + "\n")
    write_file(out / "decisions.md", table(answers))
    print(table(answers))


if __name__ == "__main__":
    main()
