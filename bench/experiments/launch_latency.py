"""How much of a device time is the launch behind the begin event, and does a kernel in front of it take that away?

    python bench/experiments/launch_latency.py --weights fitted --optimization-level 2 --out launch-latency.json

The suite records a sample's begin event on an idle stream (measure/timing.py): the event happens at once, and the
launch that follows counts as device time. Kernels that spin for a known time, and a short row, are measured in three
ways in turn: so ("idle"); with a kernel of 100 us enqueued before the begin event, so that the host has enqueued
everything before the device gets there ("blocked"); and many calls between one pair of events, divided by their number
("in a row"), which hides every launch but the first and is the reference for the row, whose true time nobody knows.

The GPU's timer, by which the kernels spin, events and the host's clock are also compared over two seconds: where they
run at different rates, the errors of long delays are of the clocks and not of launches. The line through the errors
tells the two apart: its height at zero is the launch, its slope the clocks.

What the answer means for measure/timing.py in a next version of the benchmark: blocked takes away most of the error of
short kernels: block; the errors are alike: leave it, and state the error. Samples that the host took longer to enqueue
than the blocking kernel lasted are counted: then that kernel has to be longer (a row of many PyTorch kernels would need
one as long as the row itself).

Exit status 0 where everything was measured, 2 where the row could not be, with the reason.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from gate_rows import row_absence, row_job
from probe_kernels import ANSWERS, ProbeKernels
from spin_kernel import SpinKernel
from suite_options import add_suite_options, make_suite
from timing_agreement import Delay

from sadtrt_core.environment import read_environment
from sadtrt_core.measure import stats
from sadtrt_core.measure.timing import GPU_PLAN, LatencySampler
from sadtrt_core.records.files import write_atomically

DELAYS_US = (20, 60, 200, 1_000, 5_000)
BLOCK_US = 100
CALLS = 200
ROUNDS = 4
"""The ways are measured in turn, this often, so that a GPU that changes its state does so for all of them."""
IN_A_ROW = 20
SHORTEST_STAGE_US = 60.0
WORTH_PERCENT = 1.0
CLOCKS_S = 2.0
WAYS = ("idle", "blocked", "in a row")


class Enqueues(Protocol):
    """What is asked of a runner here."""

    stream: Any

    def execute(self) -> None: ...

    def synchronize(self) -> None: ...


@dataclass
class Taken:
    """Samples in us: what each way took, and for how long the host was enqueueing what was blocked."""

    device_us: dict[str, list[float]]
    enqueue_us: list[float]

    def figures(self) -> dict[str, Any]:
        """Median and middle half of each way, and the share of samples that came too late for the blocking kernel."""
        ways = {}
        for way, samples in self.device_us.items():
            low, middle, high = stats.quartiles(samples)
            ways[way] = {"median_us": round(middle, 3), "low_us": round(low, 3), "high_us": round(high, 3)}
        late = [enqueue > BLOCK_US for enqueue in self.enqueue_us]
        return {
            "ways": ways,
            "enqueue_us": round(stats.median(self.enqueue_us), 2),
            "too_late": round(sum(late) / len(late), 4),
        }


def measure(runner: Enqueues, block: Callable[[], None]) -> Taken:
    """All ways in turn; `block` enqueues the blocking kernel on the runner's stream."""
    taken = Taken({way: [] for way in WAYS}, [])
    LatencySampler(runner).warm_up(GPU_PLAN)  # type: ignore[arg-type]
    for _ in range(ROUNDS):
        sampler = LatencySampler(runner)  # type: ignore[arg-type]
        for _ in range(CALLS // ROUNDS):
            sampler.sample()
        taken.device_us["idle"] += [1e3 * ms for ms in sampler.device_ms]
        for _ in range(CALLS // ROUNDS):
            taken.device_us["blocked"].append(_blocked(runner, block, taken.enqueue_us))
        for _ in range(max(1, CALLS // ROUNDS // IN_A_ROW)):
            taken.device_us["in a row"].append(_between_events(runner, IN_A_ROW) / IN_A_ROW)
    return taken


def _blocked(runner: Enqueues, block: Callable[[], None], enqueue_us: list[float]) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    block()
    # From here on, the kernel may have begun.
    start = time.perf_counter()
    begin.record(runner.stream)
    runner.execute()
    end.record(runner.stream)
    enqueue_us.append((time.perf_counter() - start) * 1e6)
    runner.synchronize()
    return 1e3 * float(begin.elapsed_time(end))


def _between_events(runner: Enqueues, calls: int) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record(runner.stream)
    for _ in range(calls):
        runner.execute()
    end.record(runner.stream)
    runner.synchronize()
    return 1e3 * float(begin.elapsed_time(end))


def error_line(wanted_us: list[float], measured_us: list[float]) -> tuple[float, float]:
    """The line through the errors of delays: us at a delay of zero, and percent of the delay. Each error is weighted by
    one over its delay, as the errors of clocks are percentages.
    """
    wanted, measured = np.asarray(wanted_us), np.asarray(measured_us)
    slope, height = np.polyfit(wanted, measured - wanted, 1, w=1 / wanted)
    return float(height), 100 * float(slope)


def clock_rates(kernels: ProbeKernels, seconds: float = CLOCKS_S) -> dict[str, float]:
    """How much faster the GPU's timer and CUDA events run than the host's clock, in percent, and the timer's step."""
    stream = torch.cuda.Stream()
    answers = torch.zeros((2, ANSWERS), dtype=torch.int64, device=stream.device)
    torch.cuda.synchronize()
    events, host = [], []
    kernels.ticks(stream, answers[0], 1_000)  # The first launch loads the kernel.
    stream.synchronize()
    for place in range(2):
        event = torch.cuda.Event(enable_timing=True)
        event.record(stream)
        kernels.ticks(stream, answers[place], 1_000)
        stream.synchronize()
        host.append(time.perf_counter())
        events.append(event)
        if place == 0:
            time.sleep(seconds)
    entries, edges = answers[:, :2].cpu().numpy().T
    on_host = host[1] - host[0]
    return {
        # From the entry's count to the next one that differs.
        "globaltimer_step_ns": float((edges - entries).min()),
        "globaltimer_percent": round(100 * (float(entries[1] - entries[0]) / 1e9 / on_host - 1), 5),
        "events_percent": round(100 * (events[0].elapsed_time(events[1]) / 1e3 / on_host - 1), 5),
    }


def measure_delays(spin: SpinKernel) -> list[dict[str, Any]]:
    """Every delay in every way, with the errors of the medians; said as it goes."""
    found = []
    for delay_us in DELAYS_US:
        delay = Delay(spin, delay_us)
        block = functools.partial(spin.launch, delay.stream, 1000 * BLOCK_US)
        figures = measure(delay, block).figures()
        for way in figures["ways"].values():
            way["error_us"] = round(way["median_us"] - delay_us, 3)
        found.append({"delay_us": delay_us} | figures)
        errors = ", ".join(
            f"{name} {way['error_us']:+.1f} us ({100 * way['error_us'] / delay_us:+.2f}%, "
            f"middle half {way['high_us'] - way['low_us']:.1f} us)"
            for name, way in figures["ways"].items()
        )
        print(f"delay of {delay_us} us: {errors}{_lateness(figures)}", flush=True)
    return found


def _lateness(figures: dict[str, Any]) -> str:
    late = f", {100 * figures['too_late']:.0f}% of them too late to be blocked" if figures["too_late"] else ""
    return f"; enqueueing took {figures['enqueue_us']:.0f} us{late}"


def judge(delays: list[dict[str, Any]], clocks: dict[str, float], row: dict[str, Any] | None) -> dict[str, Any]:
    """The lines through the errors, and whether blocking is worth it."""
    wanted = [item["delay_us"] for item in delays]
    lines = {way: error_line(wanted, [item["ways"][way]["median_us"] for item in delays]) for way in WAYS}
    saved = lines["idle"][0] - lines["blocked"][0]
    limit = SHORTEST_STAGE_US * WORTH_PERCENT / 100
    worth = saved > limit and abs(lines["blocked"][0]) < abs(lines["idle"][0]) / 2
    said = [
        f"{way}: {height:+.2f} us at a delay of zero, and {slope:+.3f}% of the delay"
        for way, (height, slope) in lines.items()
    ]
    said.append(
        f"over {CLOCKS_S:g} s, the GPU's timer runs {clocks['globaltimer_percent']:+.4f}% and events "
        f"{clocks['events_percent']:+.4f}% against the host's clock; the timer moves by "
        f"{clocks['globaltimer_step_ns']:g} ns, so that a kernel spins for up to so much less than it should"
    )
    if row is not None:
        figures = row["ways"]
        said.append(f"{row['row']}: " + ", ".join(f"{way} {figures[way]['median_us']:.2f} us" for way in WAYS))
    said.append(
        f"blocking takes {saved:.2f} us off a device time, {100 * saved / SHORTEST_STAGE_US:.1f}% of a stage of "
        f"{SHORTEST_STAGE_US:g} us: "
        + ("the next version of the benchmark should block" if worth else "not worth another version of the benchmark")
    )
    rounded = {
        way: {"at_zero_us": round(zero, 4), "slope_percent": round(slope, 5)} for way, (zero, slope) in lines.items()
    }
    return {"lines": rounded, "saved_us": round(saved, 4), "block": worth, "sentences": said}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", default="warp:tensorrt:fp16-mixed", help="a short one: stage:runner:precision")
    add_suite_options(parser)
    parser.add_argument("--out", type=Path, help="write the findings as JSON")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("this needs a GPU: PyTorch sees none")
    suite = make_suite(options)
    spin = SpinKernel()
    clocks = clock_rates(ProbeKernels())
    delays = measure_delays(spin)
    row, absence = None, row_absence(suite, options.row)
    if absence is None:
        kind, job = row_job(suite, options.row)
        with kind.create(job) as active:
            active.bind(suite.inputs(job))
            stream = active.stream
            assert stream is not None  # Runners on a GPU have one.
            figures = measure(active, lambda: spin.launch(stream, 1000 * BLOCK_US)).figures()
        row = {"row": options.row} | figures
        print(f"{options.row}{_lateness(figures)}", flush=True)
    found = judge(delays, clocks, row)
    print("\n".join(found["sentences"]))
    if options.out:
        environment = read_environment(suite.device).to_json()
        measured = {"clocks": clocks, "delays": delays, "row": row, "row_absence": absence}
        write_atomically(options.out, json.dumps({"environment": environment} | measured | found, indent=1) + "\n")
    if absence is not None:
        print(f"{options.row} could not be measured: {absence}")
        sys.exit(2)


if __name__ == "__main__":
    main()
