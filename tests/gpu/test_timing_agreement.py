"""What only a GPU shows: device times agree with known delays and with the profiler's kernels, and hold no launch."""

from __future__ import annotations

import statistics
from types import SimpleNamespace

import pytest
import torch

from sadtrt_core.case import Case
from sadtrt_core.config import RunConfig
from sadtrt_core.measure.timing import GPU_PLAN, LatencySampler
from sadtrt_core.session import Session

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
SAMPLES = 40


class Spins:
    """A runner of one kernel that spins for so many cycles."""

    def __init__(self, cycles: int) -> None:
        self.cycles = cycles
        self.stream = torch.cuda.current_stream()
        self.job = SimpleNamespace(device=torch.device("cuda"))

    def execute(self) -> None:
        torch.cuda._sleep(self.cycles)

    def synchronize(self) -> None:
        self.stream.synchronize()

    def in_a_row_ms(self, calls: int) -> float:
        """Milliseconds a call of many between one pair of events: every launch but the first is hidden."""
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        self.execute()
        begin.record()
        for _ in range(calls):
            self.execute()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / calls


def device_ms(runner: object) -> float:
    sampler = LatencySampler(runner)  # type: ignore[arg-type]
    sampler.warm_up(GPU_PLAN)
    for _ in range(SAMPLES):
        sampler.sample()
    assert 2 * len(sampler.late) < SAMPLES, "most samples are launch-bound"
    return statistics.median(sampler.device_ms)


@pytest.mark.parametrize(("cycles", "tolerance"), [(2_000_000, 0.015), (10_000_000, 0.005), (40_000_000, 0.005)])
def test_a_known_delay_is_what_is_measured(cycles: int, tolerance: float) -> None:
    runner = Spins(cycles)
    device_ms(runner)  # Clocks have risen by now.
    expected = runner.in_a_row_ms(50)
    assert device_ms(runner) == pytest.approx(expected, rel=tolerance)


def test_a_launch_is_not_in_a_device_time() -> None:
    runner = Spins(40_000)
    device_ms(runner)
    assert device_ms(runner) - runner.in_a_row_ms(500) < 0.008, "an event on an idle stream would add the launch"


def test_the_generators_device_time_is_the_sum_of_its_kernels() -> None:
    session = Session(RunConfig(weights="seeded", device="cuda", frames=1))
    case = Case("generator", "pytorch", "fp32", "torch", 1)
    with session.runner(case) as runner:
        runner.bind(session.inputs(session.job(case)))
        measured = device_ms(runner)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
            for _ in range(10):
                runner.execute()
            runner.synchronize()
    kernels = sum(event.self_device_time_total for event in profiler.key_averages()) / 1e3 / 10
    assert measured == pytest.approx(kernels, rel=0.03)
