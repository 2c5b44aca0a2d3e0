"""Latency of a runner: device time by CUDA events, host time with a synchronise, every raw sample kept."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from sadtrt_core.measure import stats
from sadtrt_core.records.schema import Latency
from sadtrt_core.runners.base import StageRunner


@dataclass(frozen=True)
class TimingPlan:
    """How long to warm up and how many samples to take.

    Warm-up runs `warmup_calls` calls and then more until the times are steady (measure/stats.py), for at most
    `warmup_seconds`. Sampling aims at `sample_seconds`, within the two limits on the number of samples.
    """

    warmup_calls: int
    warmup_seconds: float
    sample_seconds: float
    samples_min: int
    samples_max: int

    def samples(self, call_seconds: float) -> int:
        """How many samples to take when one call takes `call_seconds`."""
        wanted = int(self.sample_seconds / max(call_seconds, 1e-9))
        return max(self.samples_min, min(self.samples_max, wanted))


#: A GPU settles within a second; its samples are short and many.
GPU_PLAN = TimingPlan(warmup_calls=10, warmup_seconds=1.0, sample_seconds=1.0, samples_min=30, samples_max=200)
#: On a CPU one call may take half a second, and the suite has some forty rows.
CPU_PLAN = TimingPlan(warmup_calls=2, warmup_seconds=1.0, sample_seconds=2.0, samples_min=12, samples_max=100)
_STEADY_WINDOW = 16


class LatencySampler:
    """Takes one sample a call from an activated and bound runner.

    A sample's host time is the host's clock from before `execute` to after `synchronize`. Its device time is the time
    between two CUDA events recorded on the runner's stream around the work; there is none on a CPU.
    """

    def __init__(self, runner: StageRunner) -> None:
        self.runner = runner
        self.host_ms: list[float] = []
        self.device_ms: list[float] = []
        self.warmup_ms: list[float] = []

    def _call(self) -> tuple[float, float | None]:
        runner = self.runner
        if runner.stream is None:
            start = time.perf_counter()
            runner.execute()
            runner.synchronize()
            return (time.perf_counter() - start) * 1e3, None
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start = time.perf_counter()
        begin.record(runner.stream)
        runner.execute()
        end.record(runner.stream)
        runner.synchronize()
        host = (time.perf_counter() - start) * 1e3
        end.synchronize()
        return host, begin.elapsed_time(end)

    def warm_up(self, plan: TimingPlan) -> float:
        """Run until the times are steady; returns the seconds that one call takes by then."""
        for _ in range(plan.warmup_calls):
            self._warm_call()
        # The clock starts here, because the first calls may compile, tune and load for minutes.
        deadline = time.perf_counter() + plan.warmup_seconds
        while not self._settled() and time.perf_counter() < deadline:
            self._warm_call()
        return stats.median(self.warmup_ms[-plan.warmup_calls :]) / 1e3

    def _warm_call(self) -> None:
        host, device = self._call()
        self.warmup_ms.append(host if device is None else device)

    def _settled(self) -> bool:
        recent = self.warmup_ms[-_STEADY_WINDOW:]
        return len(recent) == _STEADY_WINDOW and stats.is_steady(recent)

    def sample(self) -> None:
        """Take one counted sample."""
        host, device = self._call()
        self.host_ms.append(host)
        if device is not None:
            self.device_ms.append(device)

    def result(self) -> Latency:
        """The samples so far. `steady` says whether they stayed level from the first to the last."""
        judged = self.device_ms or self.host_ms
        return Latency(
            device_ms=tuple(self.device_ms) or None,
            host_ms=tuple(self.host_ms),
            warmup_calls=len(self.warmup_ms),
            steady=stats.is_steady(judged),
        )


def measure_latency(runner: StageRunner, plan: TimingPlan) -> Latency:
    """Warm up and sample an activated and bound runner, without pytest."""
    sampler = LatencySampler(runner)
    for _ in range(plan.samples(sampler.warm_up(plan))):
        sampler.sample()
    return sampler.result()
