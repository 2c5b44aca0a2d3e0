"""Latency of a runner: device time by CUDA events, host time with a synchronise, every raw sample kept."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from sadtrt_core import stats
from sadtrt_core.measure.blocking import BlockingKernel
from sadtrt_core.records.measurements import Latency
from sadtrt_core.runners.base import StageRunner


@dataclass(frozen=True)
class TimingPlan:
    """How long to warm up and how many samples to take.

    Warm-up runs `warmup_calls` calls and at least `warmup_floor_seconds`, then more until the times are steady
    (stats.py), for at most `warmup_seconds`. Sampling aims at `sample_seconds`, within the two limits on the
    number of samples, and goes on for up to `extra_seconds` until the 95% interval of the median is no wider than
    `half_width` (a fraction of the median) to either side.

    A case's samples are taken in so many `repetitions` (measure/interleave.py), that begin at least `apart_seconds`
    after each other; samples and seconds above are of all of them together. A repetition takes at least
    `repetition_samples` samples, and all but the first warm up for `rewarm_calls` calls and `rewarm_seconds` more.
    """

    warmup_calls: int
    warmup_seconds: float
    sample_seconds: float
    samples_min: int
    samples_max: int
    warmup_floor_seconds: float = 0.0
    extra_seconds: float = 0.0
    half_width: float = 0.01
    repetitions: int = 1
    apart_seconds: float = 0.0
    repetition_samples: int = 1
    rewarm_calls: int = 0
    rewarm_seconds: float = 0.0

    def samples(self, call_seconds: float) -> int:
        """How many samples to take at first when one call takes `call_seconds`."""
        wanted = int(self.sample_seconds / max(call_seconds, 1e-9))
        return max(self.samples_min, min(self.samples_max, wanted))

    def repetition(self, index: int) -> TimingPlan:
        """The plan of one repetition, the first being 0: its part of the samples, and how it warms up."""
        part = replace(
            self,
            repetitions=1,
            sample_seconds=self.sample_seconds / self.repetitions,
            samples_min=max(self.repetition_samples, math.ceil(self.samples_min / self.repetitions)),
            samples_max=max(self.repetition_samples, math.ceil(self.samples_max / self.repetitions)),
            extra_seconds=self.extra_seconds / self.repetitions,
        )
        if index == 0:
            return part
        # The runner has settled before: only clocks and caches have to come back.
        seconds = self.rewarm_seconds
        return replace(part, warmup_calls=self.rewarm_calls, warmup_seconds=seconds, warmup_floor_seconds=seconds)


#: A GPU settles within a second; its samples are short and many.
GPU_PLAN = TimingPlan(
    warmup_calls=10,
    warmup_seconds=1.0,
    # A 99th percentile of fewer rests on nothing, and 2% of slow samples would pass for chance.
    sample_seconds=4.0,
    samples_min=80,
    samples_max=1000,
    # Clocks rise from idle over some tens of milliseconds, longer than sixteen short calls take.
    warmup_floor_seconds=0.1,
    extra_seconds=1.0,
    # Intervals rest on repetitions: of four, two states of a GPU are often met in one of them only.
    repetitions=8,
    apart_seconds=2.0,
    # Whether times stayed level is judged repetition by repetition, which takes so many.
    repetition_samples=10,
    rewarm_calls=3,
    rewarm_seconds=0.05,
)
#: On a CPU a short stage is sampled for as long as a long one: a short disturbance would otherwise slow its whole case.
CPU_PLAN = TimingPlan(
    warmup_calls=2,
    warmup_seconds=0.5,
    sample_seconds=1.0,
    samples_min=10,
    samples_max=1000,
    extra_seconds=0.5,
)
_STEADY_WINDOW = 16


class L2Flush:
    """Overwrites a GPU's L2 cache, so that a call finds none of its data there.

    Without it a stage is timed with whatever the call before left in the cache, as in a loop over frames.
    """

    def __init__(self, device: torch.device) -> None:
        size = torch.cuda.get_device_properties(device).L2_cache_size
        # Twice the cache, since part of it may be kept for others.
        self._buffer = torch.empty(2 * size, dtype=torch.int8, device=device)

    def __call__(self, stream: torch.cuda.Stream | None) -> None:
        """Enqueue the overwriting on `stream` (PyTorch's current one for None) and wait for it."""
        with torch.cuda.stream(stream):
            self._buffer.zero_()
        torch.cuda.synchronize(self._buffer.device)


class LatencySampler:
    """Takes samples from an activated and bound runner: one call for each clock.

    A sample's host time is the host's clock from before `execute` to after `synchronize`, on an idle device. Its device
    time is of a call of its own, the time between two CUDA events recorded on the runner's stream around the work,
    behind a kernel that blocks the stream until the host has enqueued all of it (blocking.py); there is none on a CPU.
    `late` are the indices of samples in which the device was there before the host: launch-bound, their device time
    includes waiting for it. `first_call_ms` is the host time of the very first call.

    `windows` is each sample's begin and end in seconds of `time.perf_counter`, for telemetry, and `starts` the index
    of the first sample of each repetition. `flush` runs before every call, outside what is timed.
    """

    def __init__(self, runner: StageRunner, flush: L2Flush | None = None) -> None:
        self.runner = runner
        self.flush = flush
        self.host_ms: list[float] = []
        self.device_ms: list[float] = []
        self.warmup_ms: list[float] = []
        self.windows: list[tuple[float, float]] = []
        self.starts: list[int] = []
        self.late: list[int] = []
        self.first_call_ms: float | None = None
        self._blocking = BlockingKernel()
        self._began: float | None = None

    def _host_call(self) -> tuple[float, float]:
        """Run once and wait: begin and end in seconds of the host's clock."""
        runner = self.runner
        if self.flush is not None:
            self.flush(runner.stream)
        start = time.perf_counter()
        runner.execute()
        enqueued = time.perf_counter()
        runner.synchronize()
        stop = time.perf_counter()
        self._blocking.observe(enqueued - start)
        if self.first_call_ms is None:
            self.first_call_ms = 1e3 * (stop - start)
        return start, stop

    def _device_call(self, stream: torch.cuda.Stream) -> tuple[float, bool]:
        """Run once behind a blocking kernel: device time in ms, and whether the device was there before the host."""
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        if self.flush is not None:
            self.flush(stream)
        self._blocking.launch(stream)
        begin.record(stream)
        self.runner.execute()
        end.record(stream)
        late = begin.query()
        self.runner.synchronize()
        end.synchronize()
        return begin.elapsed_time(end), late

    def warm_up(self, plan: TimingPlan) -> float:
        """Run until the times are steady; returns the seconds that one call takes by then."""
        for _ in range(plan.warmup_calls):
            self._warm_call()
        # The clock starts here, because the first calls may compile, tune and load for minutes.
        start = time.perf_counter()
        while (spent := time.perf_counter() - start) < plan.warmup_seconds:
            if spent >= plan.warmup_floor_seconds and self._settled():
                break
            self._warm_call()
        return stats.median(self.warmup_ms[-max(plan.warmup_calls, _STEADY_WINDOW) :]) / 1e3

    def _warm_call(self) -> None:
        start, stop = self._host_call()
        stream = self.runner.stream
        self.warmup_ms.append((stop - start) * 1e3 if stream is None else self._device_call(stream)[0])

    def _settled(self) -> bool:
        recent = self.warmup_ms[-_STEADY_WINDOW:]
        return len(recent) == _STEADY_WINDOW and stats.is_steady(recent)

    def begin_repetition(self) -> None:
        """The samples that follow are another repetition's."""
        self.starts.append(len(self.host_ms))

    def sample(self) -> None:
        """Take one counted sample."""
        self.sample_device()
        self.sample_host()

    def sample_device(self) -> None:
        """The device's part of a sample, where there is a device; `sample_host` completes it."""
        if (stream := self.runner.stream) is not None:
            self._began = time.perf_counter()
            milliseconds, late = self._device_call(stream)
            if late:
                self.late.append(len(self.device_ms))
            self.device_ms.append(milliseconds)

    def sample_host(self) -> None:
        """The host's part of a sample. RuntimeError without the device's, where there is a device."""
        if self.runner.stream is not None and len(self.device_ms) <= len(self.host_ms):
            raise RuntimeError(
                "a sample's host part was repeated without its device part: leave out --benchmark-cprofile-loops"
            )
        start, stop = self._host_call()
        self.windows.append((start if self._began is None else self._began, stop))
        self.host_ms.append((stop - start) * 1e3)

    def sample_until_known(self, plan: TimingPlan) -> None:
        """Take more samples until this repetition's median is known as the plan wants, or its limits are reached."""
        deadline = time.perf_counter() + plan.extra_seconds
        begin = self.starts[-1] if self.starts else 0
        most = begin + plan.samples_max
        while (
            len(self.host_ms) < most
            and time.perf_counter() < deadline
            and half_width((self.device_ms or self.host_ms)[begin:]) > plan.half_width
        ):
            # Recomputing the interval after every sample would take longer than a short stage itself.
            for _ in range(min(_STEADY_WINDOW, most - len(self.host_ms))):
                self.sample()
                if time.perf_counter() >= deadline:
                    break

    def result(self, disturbed: Sequence[int] = ()) -> Latency:
        """The samples so far. `steady` says whether they stayed level from the first to the last of each repetition.

        `disturbed` are the indices of samples that telemetry saw disturbed: they are kept, and marked.
        """
        judged = self.device_ms or self.host_ms
        ends = [*self.starts[1:], len(judged)]
        return Latency(
            device_ms=tuple(self.device_ms) or None,
            host_ms=tuple(self.host_ms),
            warmup_calls=len(self.warmup_ms),
            steady=all(stats.is_steady(judged[a:b]) for a, b in zip(self.starts or [0], ends, strict=True)),
            disturbed=tuple(disturbed),
            visits=tuple(self.starts),
            late=tuple(self.late),
        )


def half_width(samples: Sequence[float]) -> float:
    """How far the 95% interval of the median reaches to its farther side, as a fraction of the median."""
    middle = stats.median(samples)
    interval = stats.median_interval(samples)
    reach = max(interval.high - middle, middle - interval.low)
    # Fewer than six samples cannot give a 95% interval, however alike they are.
    return reach / middle if middle and interval.coverage >= 0.95 else math.inf
