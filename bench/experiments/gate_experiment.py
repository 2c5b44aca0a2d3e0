"""Is the gate quiet on identical code and loud on planted losses? Measures this machine and writes what was seen.

    python bench/experiments/gate_experiment.py --device cpu
    python bench/experiments/gate_experiment.py --device cuda --row generator:tensorrt:fp16 --row warp:pytorch:fp32
    # Decide anew on the samples of an earlier experiment:
    python bench/experiments/gate_experiment.py --again results/baselines/gate-experiment-cpu

Runs of unchanged code alternate with runs in which every row does real extra work: a spinning kernel on a GPU, a busy
loop on a CPU, as long as the stated part of the row's own time. `samples.json` keeps every sample, `decisions.json`
what the gate said, `decisions.md` a table of it.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gate_decisions import StoredRun, all_pairs, picture_decisions, power_decisions, same_code_decisions

from sadtrt_core.environment import read_environment
from sadtrt_core.measure import stats
from sadtrt_core.measure.energy import energy_per_call
from sadtrt_core.measure.host_load import HostLoad
from sadtrt_core.measure.memory import device_memory_used
from sadtrt_core.measure.telemetry import TelemetrySampler
from sadtrt_core.measure.timing import LatencySampler
from sadtrt_core.records import codec, schema
from sadtrt_core.records.files import write_atomically
from sadtrt_core.records.schema import Record, Run
from sadtrt_core.records.thresholds import Limits, Thresholds
from sadtrt_core.runners.base import StageRunner
from sadtrt_core.runners.registry import runner_named
from sadtrt_core.suite import BENCHMARK_VERSION, Suite, SuiteOptions, default_cache, resources

ROOT = Path(__file__).parents[2]
ROWS = {
    "cpu": ("mapping:pytorch:fp32", "mapping:pytorch:bf16", "keypoints:pytorch:fp32"),
    "cuda": (
        "mapping:tensorrt:fp16-mixed",
        "warp:pytorch:fp32",
        "decode:tensorrt:fp16",
        "generator:tensorrt:fp32",
        "generator:tensorrt:fp16-mixed",
    ),
}
LEVELS = {"cpu": (0.03, 0.05, 0.2), "cuda": (0.03, 0.05)}
#: Besides the defaults: on a CPU only host time is judged, whose default limit is wider.
SETTINGS = {"default limits": Thresholds(), "host limit 3%": Thresholds(Limits(host_slowdown_percent=3.0))}


class Slowed:
    """A runner that does `extra` after every call, on the stream of the call; what LatencySampler uses of it."""

    def __init__(self, runner: StageRunner, extra: Callable[[], None]) -> None:
        self.job, self.stream, self._runner, self._extra = runner.job, runner.stream, runner, extra

    def execute(self) -> None:
        self._runner.execute()
        self._extra()

    def synchronize(self) -> None:
        self._runner.synchronize()


def busy_loop(seconds: float) -> None:
    """Keep this thread's core busy."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


def spin_kernel(stream: torch.cuda.Stream, seconds: float) -> Callable[[], None]:
    """A function that enqueues a kernel that spins for `seconds` on `stream`, calibrated by events."""
    cycles = 20_000_000
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    with torch.cuda.stream(stream):
        torch.cuda._sleep(cycles)
        begin.record(stream)
        torch.cuda._sleep(cycles)
        end.record(stream)
    end.synchronize()
    wanted = max(1, round(cycles * seconds * 1e3 / begin.elapsed_time(end)))

    def extra() -> None:
        with torch.cuda.stream(stream):
            torch.cuda._sleep(wanted)

    return extra


def measure_row(suite: Suite, row: str, planted: float) -> Record:
    """One row as bench/test_stage_latency.py measures it, with work for `planted` of its own time put in."""
    stage, runner, precision = row.split(":")
    kind = runner_named(runner)
    job = suite.job(stage, kind, precision, 1)
    if (absence := kind.available(job)) is not None:
        raise SystemExit(f"{row} cannot run here: {absence}")
    before = device_memory_used(job.device)
    with kind.create(job) as active:
        active.bind(suite.inputs(job))
        measured: Any = active
        if planted:
            alone = LatencySampler(active)
            alone.warm_up(suite.timing_plan)
            for _ in range(suite.timing_plan.samples_min):
                alone.sample()
            seconds = planted * stats.median(alone.device_ms or alone.host_ms) / 1e3
            extra = (lambda: busy_loop(seconds)) if active.stream is None else spin_kernel(active.stream, seconds)
            measured = Slowed(active, extra)
        sampler = LatencySampler(measured)
        call_seconds = sampler.warm_up(suite.timing_plan)
        with HostLoad() as host:
            with TelemetrySampler(suite.sensors) as watch:
                for _ in range(suite.timing_plan.samples(call_seconds)):
                    sampler.sample()
                sampler.sample_until_known(suite.timing_plan)
            energy = energy_per_call(measured, suite.sensors, call_seconds)
        latency = sampler.result(watch.disturbed(sampler.windows))
        used = resources(active, before, energy)
        telemetry = watch.telemetry(sampler.windows, host.others_percent)
    rounded = dataclasses.replace(
        latency,
        host_ms=tuple(float(f"{ms:.5g}") for ms in latency.host_ms),
        device_ms=None if latency.device_ms is None else tuple(float(f"{ms:.5g}") for ms in latency.device_ms),
    )
    return Record(
        suite.key(kind, job),
        "measured",
        latency=rounded,
        resources=used,
        telemetry=telemetry,
        benchmark_version=BENCHMARK_VERSION,
    )


def measure_run(suite: Suite, rows: tuple[str, ...], planted: float = 0.0) -> Run:
    """All rows once, as a finished run."""
    weights, workload = suite.renderer.weights, suite.workload
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return Run(
        schema.SCHEMA_VERSION,
        now,
        now,
        True,
        read_environment(suite.device),
        schema.Weights(weights.kind, weights.name, weights.digest),
        schema.Workload(workload.name, workload.kp_driving.shape[0], suite.renderer.config.image_size, workload.digest),
        suite.options.as_text(),
        tuple(measure_row(suite, row, planted) for row in rows),
    )


class Patience:
    """Measures while the machine is quiet: a run that others disturbed is measured again while `seconds` last.

    The gate would refuse such a run anyway (`Thresholds.busy_percent`); `again` counts them. Device times do not suffer
    from other processes, so on a GPU nothing is measured again.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self.again = seconds, 0

    def measure(self, measure: Callable[[], Run]) -> Run:
        while True:
            start = time.monotonic()
            quiet = self._is_quiet_now()
            if quiet or self.seconds <= 0:
                run = measure()
                if self.seconds <= 0 or not any(map(_is_busy, run.records)):
                    return run
                self.again += 1
            time.sleep(2)
            self.seconds -= time.monotonic() - start

    def _is_quiet_now(self) -> bool:
        with HostLoad() as host:
            time.sleep(0.5)
        return (host.others_percent or 0.0) <= Thresholds().busy_percent


def _is_busy(record: Record) -> bool:
    host_only = record.latency is not None and record.latency.device_ms is None
    share = record.telemetry.others_percent if record.telemetry else None
    return host_only and (share or 0.0) > Thresholds().busy_percent


def schedule(plain: int, planted: int, levels: tuple[float, ...]) -> list[float]:
    """Plain and planted runs mixed evenly, so that both see the same weather of the machine."""
    slots = [((i + 0.5) / plain, 0.0) for i in range(plain)]
    for order, level in enumerate(levels):
        slots += [((i + (order + 1) / (len(levels) + 2)) / planted, level) for i in range(planted)]
    return [level for _, level in sorted(slots)]


def make_suite(options: argparse.Namespace) -> Suite:
    return Suite(
        SuiteOptions(
            size=256,
            weights=options.weights,
            checkpoint=None,
            mapping_checkpoint=None,
            source_image=None,
            samples=None,
            frames=1,
            clip_frames=None,
            device=options.device,
            grid_sample="auto",
            cache=options.cache or default_cache(),
            results=ROOT / "results",
            jobs=1,
        ),
        say=print,
    )


def fresh_run(options: argparse.Namespace, rows: tuple[str, ...]) -> Run:
    """One plain run in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.json"
        command = [sys.executable, __file__, "--one-run", str(file), "--device", options.device]
        command += ["--weights", options.weights, "--threads", str(options.threads)]
        command += [*(word for row in rows for word in ("--row", row))]
        command += ["--cache", str(options.cache)] if options.cache else []
        subprocess.run(command, check=True, timeout=600)
        return codec.from_json(Run, json.loads(file.read_text()))


def decide(stored: list[StoredRun], fresh: list[Run], again: int, portrait: torch.Tensor) -> dict[str, Any]:
    """All decisions, under the default limits and under the narrower host limit."""
    first = next(item.run for item in stored if item.planted == 0)
    answers: dict[str, Any] = {"environment": first.environment.to_json(), "measured_again": again, "rows": []}
    for index, record in enumerate(first.records):
        latencies = [item.run.records[index].latency for item in stored if item.planted == 0]
        medians = [stats.median(latency.judged_ms) for latency in latencies if latency is not None]
        middle = stats.median(medians)
        answers["rows"].append(
            {
                "row": record.key.label(),
                "clock": "device" if latencies[0] and latencies[0].device_ms is not None else "host",
                "runs": len(medians),
                "median_ms": round(middle, 5),
                "lowest_median_percent": round(100 * (min(medians) / middle - 1), 2),
                "highest_median_percent": round(100 * (max(medians) / middle - 1), 2),
            }
        )
    for name, thresholds in SETTINGS.items():
        answers[name] = {
            "stored": same_code_decisions(all_pairs(stored), thresholds),
            "fresh": same_code_decisions([(run, first) for run in fresh], thresholds),
            "power": power_decisions(stored, thresholds),
        }
    answers["picture"] = picture_decisions(portrait, first, Thresholds())
    return answers


def _count(share: dict[str, Any]) -> str:
    return f"{share['count']} of {share['of']}"


def table(answers: dict[str, Any]) -> str:
    """Markdown of the decisions."""
    where = answers["environment"]
    machine = where["gpu"] or f"{where['cpu']} x {where['cpu_count']}, no GPU"
    lines = ["# Gate experiment", "", f"{machine}; torch {where['torch']}, TensorRT {where['tensorrt']}, "]
    lines[-1] += f"driver {where['driver']}, sadtrt {where['sadtrt_version']} ({where['commit']})."
    if answers["measured_again"]:
        lines += ["", f"{answers['measured_again']} runs were measured again because other processes were at work."]
    lines += ["", "| row | clock | runs | median ms | lowest to highest median |", "|---|---|---:|---:|---:|"]
    for row in answers["rows"]:
        spread = f"{row['lowest_median_percent']:+.1f}% to {row['highest_median_percent']:+.1f}%"
        lines.append(f"| {row['row']} | {row['clock']} | {row['runs']} | {row['median_ms']:.4g} | {spread} |")
    for name in SETTINGS:
        part = answers[name]
        lines += ["", f"## {name}", "", "| identical code | decisions | false alarms | not comparable |"]
        lines += ["|---|---:|---:|---:|"]
        for kind in ("stored", "fresh"):
            said = part[kind]
            alarms, unjudged = (
                f"{said[key]['count']} of {said[key]['of']}" for key in ("false_alarms", "not_comparable")
            )
            lines.append(f"| {kind} runs | {said['decisions']} | {alarms} | {unjudged} |")
        lines += ["", "| planted slowdown | row | caught | interval above zero | not comparable | median change |"]
        lines += ["|---:|---|---:|---:|---:|---:|"]
        for entry in part["power"]:
            caught, shown = (
                f"{entry[key]['count']} of {entry[key]['of']}" for key in ("caught", "interval_above_zero")
            )
            seen, unjudged = entry["median_change_percent"], _count(entry["not_comparable"])
            change = "-" if seen is None else f"{seen:+.1f}%"
            lines.append(
                f"| {entry['planted_percent']:g}% | {entry['row']} | {caught} | {shown} | {unjudged} | {change} |"
            )
    lines += ["", "## Picture (default limits)", "", "| planted | called worse |", "|---|---:|"]
    names = {"false_alarms": "nothing", "one_decibel_caught": "1 dB", "one_level_caught": "1 level of one pixel"}
    for key, words in names.items():
        lines.append(f"| {words} | {_count(answers['picture'][key])} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--row", action="append", help="repeatable: stage:runner:precision")
    parser.add_argument("--weights", default="seeded", help="as the suite's --weights; times do not depend on them")
    parser.add_argument("--plain", type=int, default=21, help="runs of unchanged code (21 make 210 decisions)")
    parser.add_argument("--planted", type=int, default=5, help="runs of each planted slowdown")
    parser.add_argument("--fresh", type=int, default=5, help="runs in processes of their own, at the end")
    parser.add_argument(
        "--patience", type=float, default=600.0, help="seconds to wait in all for a CPU that others leave alone"
    )
    parser.add_argument("--cache", type=Path, help="as the suite's --cache")
    parser.add_argument(
        "--threads", type=int, default=1, help="of PyTorch on a CPU: as many as cores wait for each other (default: 1)"
    )
    parser.add_argument("--out", type=Path, help="folder to write (default: results/baselines/gate-experiment-DEVICE)")
    parser.add_argument("--again", type=Path, help="a folder this wrote: decide anew on its samples")
    parser.add_argument("--one-run", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    rows = tuple(options.row or ROWS[options.device])
    out = options.again or options.out or ROOT / "results" / "baselines" / f"gate-experiment-{options.device}"
    torch.set_num_threads(options.threads)
    suite = make_suite(options)
    if options.one_run:
        write_atomically(options.one_run, json.dumps(measure_run(suite, rows).to_json()))
        return
    if options.again:
        kept = json.loads((out / "samples.json").read_text())
        stored = [StoredRun(item["planted"], codec.from_json(Run, item["run"])) for item in kept["stored"]]
        fresh = [codec.from_json(Run, item) for item in kept["fresh"]]
    else:
        stored = []
        patience = Patience(options.patience)
        levels = schedule(options.plain, options.planted, LEVELS[options.device])
        for index, level in enumerate(levels):
            stored.append(StoredRun(level, patience.measure(functools.partial(measure_run, suite, rows, level))))
            print(f"run {index + 1} of {len(levels)}, planted {100 * level:g}%", flush=True)
        fresh = [patience.measure(functools.partial(fresh_run, options, rows)) for _ in range(options.fresh)]
        out.mkdir(parents=True, exist_ok=True)
        kept = {
            "stored": [{"planted": item.planted, "run": item.run.to_json()} for item in stored],
            "fresh": [run.to_json() for run in fresh],
            "measured_again": patience.again,
        }
        write_atomically(out / "samples.json", json.dumps(kept) + "\n")
    answers = decide(stored, fresh, kept["measured_again"], suite.workload.source_image[:, :, ::2, ::2].float().cpu())
    write_atomically(out / "decisions.json", json.dumps(answers, indent=1) + "\n")
    write_atomically(out / "decisions.md", table(answers))
    print(table(answers))


if __name__ == "__main__":
    main()
