"""Do the suite's clocks agree with something that is not the suite? For a GPU; exits with 1 where they do not.

    python bench/experiments/timing_agreement.py [--row generator:tensorrt:fp16-mixed]

First a kernel that spins for a set number of nanoseconds by the GPU's own timer is measured as any stage would be:
device and host time have to come out within 1%. Then a row is measured under PyTorch's profiler: the device time of its
calls has to lie within 3% of the sum of the kernels that the profiler saw in the very same calls.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from gate_experiment import make_suite
from torch.autograd import DeviceType

from sadtrt_core.measure import stats
from sadtrt_core.measure.timing import GPU_PLAN, LatencySampler
from sadtrt_core.runners.registry import runner_named

DELAYS_US = (1_000, 5_000, 20_000)
DELAY_TOLERANCE = 0.01
KERNELS_TOLERANCE = 0.03
PROFILED_CALLS = 30
SPIN = r"""
extern "C" __global__ void spin(int microseconds) {
    unsigned long long start, now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(start));
    do {
        asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
    } while (now - start < 1000ull * microseconds);
}
"""


class Delay:
    """What LatencySampler uses of a runner, around one kernel that takes a known time."""

    def __init__(self, kernel: Any, microseconds: int) -> None:
        self.stream = torch.cuda.Stream()
        self._kernel, self._microseconds = kernel, microseconds

    def execute(self) -> None:
        self._kernel(grid=(1, 1, 1), block=(1, 1, 1), args=[self._microseconds], stream=self.stream)

    def synchronize(self) -> None:
        self.stream.synchronize()


def check_delays() -> bool:
    """Measure each known delay; whether all came out right."""
    kernel = torch.cuda._compile_kernel(SPIN, "spin")
    good = True
    for microseconds in DELAYS_US:
        sampler = LatencySampler(Delay(kernel, microseconds))  # type: ignore[arg-type]
        sampler.warm_up(GPU_PLAN)
        for _ in range(30):
            sampler.sample()
        for clock, samples in (("device", sampler.device_ms), ("host", sampler.host_ms)):
            error = stats.median(samples) * 1e3 / microseconds - 1
            right = abs(error) <= DELAY_TOLERANCE
            good &= right
            print(f"delay of {microseconds} us, {clock} time: {100 * error:+.2f}% {'ok' if right else 'WRONG'}")
    return good


def check_kernels(row: str, options: argparse.Namespace) -> bool:
    """Measure a row under the profiler; whether events and kernels agree."""
    stage, runner, precision = row.split(":")
    suite, kind = make_suite(options), runner_named(runner)
    job = suite.job(stage, kind, precision, 1)
    if (absence := kind.available(job)) is not None:
        print(f"{row} cannot run here: {absence}")
        return False
    with kind.create(job) as active:
        active.bind(suite.inputs(job))
        sampler = LatencySampler(active)
        sampler.warm_up(GPU_PLAN)
        activities = [torch.profiler.ProfilerActivity.CUDA]
        # The first calls under a profiler pay for its buffers.
        with torch.profiler.profile(activities=activities):
            sampler.sample()
        sampler.device_ms.clear()
        with torch.profiler.profile(activities=activities) as profile:
            for _ in range(PROFILED_CALLS):
                sampler.sample()
            torch.cuda.synchronize()
    kernels = [event for event in profile.events() or () if event.device_type == DeviceType.CUDA]
    if not kernels:
        print(f"{row}: the profiler saw no kernel: is CUPTI allowed here?")
        return False
    by_kernels = sum(event.self_device_time_total for event in kernels) / 1e3
    by_events = sum(sampler.device_ms)
    difference = by_events / by_kernels - 1
    right = abs(difference) <= KERNELS_TOLERANCE
    print(
        f"{row}: {by_events / PROFILED_CALLS:.4g} ms by events, {by_kernels / PROFILED_CALLS:.4g} ms by "
        f"{len(kernels) / PROFILED_CALLS:g} kernels a call: {100 * difference:+.2f}% {'ok' if right else 'WRONG'}"
    )
    if (span := _from_first_to_last_ms(kernels)) is not None:
        print(f"    {span:.4g} ms from a call's first kernel to its last: what the sum lacks of it are gaps")
    return right


def _from_first_to_last_ms(kernels: list[Any]) -> float | None:
    """Mean time in ms from a call's first kernel's start to its last one's end; None where calls differ."""
    if len(kernels) % PROFILED_CALLS:
        return None
    ordered = sorted(kernels, key=lambda event: event.time_range.start)
    each = len(ordered) // PROFILED_CALLS
    calls = [ordered[i : i + each] for i in range(0, len(ordered), each)]
    spans = [max(event.time_range.end for event in call) - call[0].time_range.start for call in calls]
    return sum(spans) / len(spans) / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", action="append", help="repeatable: stage:runner:precision")
    parser.add_argument("--weights", default="seeded", help="as the suite's --weights; times do not depend on them")
    parser.add_argument("--cache", type=Path, help="as the suite's --cache")
    options = parser.parse_args()
    options.device = "cuda"
    if not torch.cuda.is_available():
        raise SystemExit("this needs a GPU: PyTorch sees none")
    good = check_delays()
    for row in options.row or ("generator:tensorrt:fp16-mixed", "generator:tensorrt-enqueue:fp16-mixed"):
        good &= check_kernels(row, options)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
