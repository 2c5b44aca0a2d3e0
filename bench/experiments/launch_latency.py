"""How much of a device time is the host's launch, and does holding the device back take that out? For a GPU.

    python bench/experiments/launch_latency.py --weights fitted --optimization-level 2 --out launch-latency.json

Kernels that spin for a known time, and rows, are measured in three ways in turn: "idle", with the begin event recorded
on an idle stream, so that the launch behind it counts as device time; "held", as the suite does it, behind a kernel
that spins until the host has enqueued everything (sadtrt_core/measure/blocking.py); and "in a row", many calls between one
pair of events, divided by their number, which hides every launch but the first and is the reference for rows, whose
true time nobody knows.

The ways go round several times, with pauses in which the GPU idles: a launch takes longer for seconds at a time, and
rounds then differ in one way and not in another. The line through the errors of the known delays parts what every call
pays (its height at zero) from clocks that run at different rates (its slope: the kernels spin by another timer than
the one behind events).

Exit status 0 where everything was measured, 2 where a row could not be, with the reason.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from gate_rows import row_absence, row_job
from spin_kernel import SpinKernel
from suite_options import add_suite_options, make_session
from timing_agreement import Delay

from sadtrt_core import stats
from sadtrt_core.environment import read_environment
from sadtrt_core.files import write_file
from sadtrt_core.measure.timing import GPU_PLAN, LatencySampler

DELAYS_US = (20, 60, 200, 1_000, 5_000)
DELAY_ROUNDS = 2
ROWS = ("generator:tensorrt:fp16-mixed", "warp:tensorrt:fp16-mixed", "warp:pytorch:fp32", "generator:pytorch:fp16")
CALLS = 30
"""Samples of each way in a round."""
PAUSES_S = (0.0, 2.0, 0.2, 1.0)
WAYS = ("idle", "held", "in a row")


class Enqueues(Protocol):
    """What is asked of a runner here."""

    stream: Any

    def execute(self) -> None: ...

    def synchronize(self) -> None: ...


@dataclass
class Taken:
    """The median of each way in us, round by round, and of what enqueuing a call takes the host."""

    medians_us: dict[str, list[float]] = field(default_factory=lambda: {way: [] for way in WAYS})
    enqueue_us: list[float] = field(default_factory=list)
    late: int = 0

    def figures(self) -> dict[str, Any]:
        """Medians, and how far the slowest round of each way is above its fastest, in percent."""
        ways = {
            way: {
                "median_us": round(stats.median(rounds), 3),
                "rounds_us": [round(us, 3) for us in rounds],
                "spread_percent": round(100 * (max(rounds) / min(rounds) - 1), 3),
            }
            for way, rounds in self.medians_us.items()
        }
        late = self.late / (CALLS * len(self.enqueue_us))
        return {"ways": ways, "enqueue_us": round(stats.median(self.enqueue_us), 2), "late": round(late, 4)}


def measure(runner: Enqueues, rounds: int) -> Taken:
    """All ways in turn, as many rounds, after pauses of different lengths."""
    taken = Taken()
    LatencySampler(runner).warm_up(GPU_PLAN)  # type: ignore[arg-type]
    for number in range(rounds):
        time.sleep(PAUSES_S[number % len(PAUSES_S)])
        sampler = LatencySampler(runner)  # type: ignore[arg-type]
        sampler.warm_up(GPU_PLAN.visit(1))
        idle, enqueue = zip(*(_between_events(runner, 1) for _ in range(CALLS)), strict=True)
        for _ in range(CALLS):
            sampler.sample()
        taken.medians_us["idle"].append(stats.median(idle))
        taken.medians_us["held"].append(1e3 * stats.median(sampler.device_ms))
        taken.medians_us["in a row"].append(_between_events(runner, CALLS)[0] / CALLS)
        taken.enqueue_us.append(stats.median(enqueue))
        taken.late += len(sampler.late)
    return taken


def _between_events(runner: Enqueues, calls: int) -> tuple[float, float]:
    """Time between events around so many calls, and what enqueuing them took the host, in us."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start = time.perf_counter()
    begin.record(runner.stream)
    for _ in range(calls):
        runner.execute()
    end.record(runner.stream)
    enqueued = time.perf_counter()
    runner.synchronize()
    return 1e3 * float(begin.elapsed_time(end)), 1e6 * (enqueued - start)


def error_line(wanted_us: list[float], measured_us: list[float]) -> tuple[float, float]:
    """The line through the errors of delays: us at a delay of zero, and percent of the delay. Each error is weighted by
    one over its delay, as the errors of clocks are percentages.
    """
    wanted, measured = np.asarray(wanted_us), np.asarray(measured_us)
    slope, height = np.polyfit(wanted, measured - wanted, 1, w=1 / wanted)
    return float(height), 100 * float(slope)


def measure_delays(spin: SpinKernel) -> list[dict[str, Any]]:
    """Every delay in every way, with the errors of the medians; said as it goes."""
    found = []
    for delay_us in DELAYS_US:
        figures = measure(Delay(spin, delay_us), DELAY_ROUNDS).figures()
        for way in figures["ways"].values():
            way["error_us"] = round(way["median_us"] - delay_us, 3)
        found.append({"delay_us": delay_us} | figures)
        errors = ", ".join(
            f"{name} {way['error_us']:+.1f} us ({100 * way['error_us'] / delay_us:+.2f}%)"
            for name, way in figures["ways"].items()
        )
        print(f"delay of {delay_us} us: {errors}", flush=True)
    return found


def row_sentence(row: str, figures: dict[str, Any]) -> str:
    """One line: the times of a row and how far its rounds lie apart, way by way."""
    ways = ", ".join(
        f"{name} {way['median_us'] / 1e3:.4g} ms (rounds within {way['spread_percent']:.2f}%)"
        for name, way in figures["ways"].items()
    )
    late = f"; the device was there first in {100 * figures['late']:.0f}% of held calls" if figures["late"] else ""
    return f"{row}: {ways}; enqueuing takes {figures['enqueue_us']:.0f} us{late}"


def lines(delays: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The line through the errors of each way."""
    wanted = [item["delay_us"] for item in delays]
    found = {}
    for way in WAYS:
        zero, slope = error_line(wanted, [item["ways"][way]["median_us"] for item in delays])
        found[way] = {"at_zero_us": round(zero, 4), "slope_percent": round(slope, 5)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", action="append", help="repeatable: stage:runner:precision")
    parser.add_argument("--rounds", type=int, default=12, help="of each row")
    add_suite_options(parser)
    parser.add_argument("--out", type=Path, help="write the findings as JSON")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("this needs a GPU: PyTorch sees none")
    suite = make_session(options)
    delays = measure_delays(SpinKernel())
    found = {"environment": read_environment(suite.device).to_json(), "delays": delays, "lines": lines(delays)}
    for way, line in found["lines"].items():
        print(f"{way}: {line['at_zero_us']:+.2f} us at a delay of zero, and {line['slope_percent']:+.3f}% of the delay")
    rows: list[dict[str, Any]] = []
    missing = False
    for name in options.row or ROWS:
        if (absence := row_absence(suite, name)) is not None:
            print(f"{name} could not be measured: {absence}", flush=True)
            missing = True
            continue
        kind, job = row_job(suite, name)
        with kind.create(job) as active:
            active.bind(suite.inputs(job))
            figures = measure(active, options.rounds).figures()
        print(row_sentence(name, figures), flush=True)
        rows.append({"row": name} | figures)
        if options.out:
            write_file(options.out, json.dumps(found | {"rows": rows}, indent=1) + "\n")
    sys.exit(2 if missing else 0)


if __name__ == "__main__":
    main()
