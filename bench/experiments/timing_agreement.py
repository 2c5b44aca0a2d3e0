"""Do the suite's clocks agree with something that is not the suite? For a GPU.

    python bench/experiments/timing_agreement.py --weights fitted --optimization-level 2 --out agreement.json

First a kernel that spins for a set number of nanoseconds by the GPU's own timer is measured as any stage would be:
device time has to come out within 1%, host time within 1% and what a launch and a wait take. Then rows are measured
under PyTorch's profiler: the device time of their calls has to lie within 3% of the sum of the kernels that the
profiler saw in the very same calls. An engine of many short kernels may spend more than that between them: then the
time from a call's first kernel to the end of its last has to agree, and what the gaps take is told.

The GPU has to be free: processes that share it take turns of some milliseconds, which host time shows.

Exit status 0 where all agrees, 1 where something does not, 2 where something could not be checked, with the reason.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from gate_rows import row_absence, row_job
from spin_kernel import SpinKernel
from suite_options import add_suite_options, make_session
from torch.autograd import DeviceType

from sadtrt_core import stats
from sadtrt_core.environment import read_environment
from sadtrt_core.files import write_file
from sadtrt_core.measure.timing import GPU_PLAN, LatencySampler
from sadtrt_core.session import Session

DELAYS_US = (1_000, 5_000, 20_000)
DELAY_TOLERANCE = 0.01
HOST_EXTRA_US = 50.0
"""What a launch and waiting for it may add to host time: they are part of what host time measures."""
KERNELS_TOLERANCE = 0.03
CALLS = 30
HOLD = "spin_kernel"
"""PyTorch's name of the kernel that sadtrt_core/measure/blocking.py enqueues."""
ROWS = ("generator:tensorrt:fp32", "generator:tensorrt:fp16-mixed", "generator:tensorrt-enqueue:fp16-mixed")
Finding = dict[str, Any]
"""What was checked, its figures, `agrees` (None where it could not be checked) and a sentence."""


class Delay:
    """What LatencySampler uses of a runner, around one kernel that takes a known time."""

    def __init__(self, kernel: SpinKernel, microseconds: int) -> None:
        self.stream = torch.cuda.Stream()
        self._kernel, self._nanoseconds = kernel, 1000 * microseconds

    def execute(self) -> None:
        self._kernel.launch(self.stream, self._nanoseconds)

    def synchronize(self) -> None:
        self.stream.synchronize()


def check_delay(kernel: SpinKernel, microseconds: int) -> list[Finding]:
    """Device and host time of a kernel that spins for so long."""
    sampler = LatencySampler(Delay(kernel, microseconds))  # type: ignore[arg-type]
    sampler.warm_up(GPU_PLAN)
    for _ in range(CALLS):
        sampler.sample()
    findings = []
    for clock, samples, extra in (("device", sampler.device_ms, 0.0), ("host", sampler.host_ms, HOST_EXTRA_US)):
        error = stats.median(samples) * 1e3 - microseconds
        agrees = -DELAY_TOLERANCE * microseconds <= error <= DELAY_TOLERANCE * microseconds + extra
        sentence = f"{clock} time of a delay of {microseconds} us: {error:+.1f} us, {100 * error / microseconds:+.2f}%"
        findings.append(
            {"what": f"delay, {clock} time", "wanted_us": microseconds, "error_us": round(error, 3)}
            | {"agrees": agrees, "sentence": sentence}
        )
    return findings


def check_delays() -> list[Finding]:
    """Every known delay; one finding with the reason where the kernel cannot be launched."""
    try:
        kernel = SpinKernel()
    except (RuntimeError, OSError, AttributeError) as error:
        sentence = f"delays could not be checked: {error}"
        return [{"what": "delay", "agrees": None, "sentence": sentence}]
    return [finding for microseconds in DELAYS_US for finding in check_delay(kernel, microseconds)]


def check_kernels(row: str, suite: Session) -> Finding:
    """A row's device time against the profiler's kernels in the same calls."""
    if (absence := row_absence(suite, row)) is not None:
        return {"what": row, "agrees": None, "sentence": f"{row} could not be checked: {absence}"}
    kind, job = row_job(suite, row)
    with kind.create(job) as active:
        active.bind(suite.inputs(job))
        sampler = LatencySampler(active)
        sampler.warm_up(GPU_PLAN)
        for _ in range(CALLS):
            sampler.sample_device()
        unwatched_ms = stats.median(sampler.device_ms)
        sampler.device_ms.clear()
        try:
            kernels = profiled_kernels(sampler)
        except RuntimeError as error:
            return {"what": row, "agrees": None, "sentence": f"{row} could not be checked: the profiler says {error}"}
    if not kernels:
        sentence = f"{row} could not be checked: the profiler saw no kernel, so CUPTI is missing or not allowed here"
        return {"what": row, "agrees": None, "sentence": sentence}
    found = compare_with_kernels(row, sampler.device_ms, kernels, unwatched_ms) | {"late": len(sampler.late)}
    if 2 * len(sampler.late) > CALLS:
        sentence = f"{row} could not be checked: under the profiler the host was late for {len(sampler.late)} calls"
        found |= {"agrees": None, "sentence": sentence}
    return found


def profiled_kernels(sampler: LatencySampler) -> list[tuple[float, float]]:
    """Begin and end in us of everything the GPU did in CALLS samples, as PyTorch's profiler saw it."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    # The first calls under a profiler pay for its buffers; and all take the host longer, which these tell the sampler.
    with torch.profiler.profile(activities=activities, acc_events=True):
        for _ in range(CALLS):
            sampler.sample()
        torch.cuda.synchronize()
    for taken in (sampler.device_ms, sampler.host_ms, sampler.late):
        taken.clear()
    with torch.profiler.profile(activities=activities, acc_events=True) as profile:
        for _ in range(CALLS):
            sampler.sample_device()
        torch.cuda.synchronize()
    return [
        (event.time_range.start, event.time_range.end)
        for event in profile.events() or ()
        # Newer profilers list what the host waited for ("Stream Sync") among what the device did. What holds the call
        # back is before its begin event.
        if event.device_type == DeviceType.CUDA and not event.name.endswith(" Sync") and HOLD not in event.name
    ]


def compare_with_kernels(
    row: str, device_ms: list[float], kernels: list[tuple[float, float]], unwatched_ms: float
) -> Finding:
    """Whether events and kernels agree, and what the difference is made of: gaps between kernels, or kernels that
    overlap.
    """
    calls = len(device_ms)
    events = sum(device_ms) / calls
    summed = sum(end - begin for begin, end in kernels) / calls / 1e3
    busy = covered(kernels) / calls / 1e3
    span = span_ms(kernels, calls)
    difference = events / summed - 1
    agrees = abs(difference) <= KERNELS_TOLERANCE
    by_span = not agrees and span is not None and abs(events / span - 1) <= KERNELS_TOLERANCE
    sentence = (
        f"{row}: {events:.4g} ms by events, {summed:.4g} ms by {len(kernels) / calls:g} kernels a call: "
        f"{100 * difference:+.2f}% (at least one of them running: {busy:.4g} ms; without the profiler, the median call "
        f"took {unwatched_ms:.4g} ms)"
    )
    if span is not None:
        sentence += (
            f"; {span:.4g} ms from the first kernel's begin to the last one's end: {100 * (events / span - 1):+.2f}%"
        )
    if by_span:
        rest = "are gaps between kernels" if events > summed else "is time in which kernels overlap"
        sentence += f"; the clocks agree, the rest {rest}"
    return {
        "what": row,
        "events_ms": round(events, 5),
        "kernels_ms": round(summed, 5),
        "busy_ms": round(busy, 5),
        "first_to_last_ms": None if span is None else round(span, 5),
        "without_profiler_ms": round(unwatched_ms, 5),
        "kernels_a_call": len(kernels) / calls,
        "difference_percent": round(100 * difference, 3),
        "agrees_with_sum": agrees,
        "agrees": agrees or by_span,
        "sentence": sentence,
    }


def span_ms(kernels: list[tuple[float, float]], calls: int) -> float | None:
    """Mean ms from a call's first kernel's begin to the end of its last; None where calls have not equally many."""
    if len(kernels) % calls:
        return None
    ordered, each = sorted(kernels), len(kernels) // calls
    groups = [ordered[start : start + each] for start in range(0, len(ordered), each)]
    return sum(max(end for _, end in group) - group[0][0] for group in groups) / calls / 1e3


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of spans."""
    total, until = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", action="append", help="repeatable: stage:runner:precision")
    add_suite_options(parser)
    parser.add_argument("--out", type=Path, help="write the findings as JSON")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("this needs a GPU: PyTorch sees none")
    suite = make_session(options)
    environment = read_environment(suite.device).to_json()
    findings: list[Finding] = []
    for finding in itertools.chain(check_delays(), (check_kernels(row, suite) for row in options.row or ROWS)):
        word = {True: "ok", False: "WRONG", None: "NOT CHECKED"}[finding["agrees"]]
        print(f"{word}: {finding['sentence']}", flush=True)
        findings.append(finding)
        if options.out:
            write_file(options.out, json.dumps({"environment": environment, "findings": findings}, indent=1) + "\n")
    agreed = {finding["agrees"] for finding in findings}
    sys.exit(1 if False in agreed else 2 if None in agreed else 0)


if __name__ == "__main__":
    main()
