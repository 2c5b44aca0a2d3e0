"""Interleaved repetitions: each case is timed several times, seconds apart, while its runner stays loaded.

A GPU may have states of speed that no sensor shows and that last for seconds (results/README.md). A case timed in one
stretch shows whichever state it met, and two runs of the same code then differ by what the GPU did. So the samples of a
case are spread over several repetitions, and its median is that of all of them. Repetitions begin at least
`TimingPlan.apart_seconds` after each other; those of other cases fill that time, and where they do not, this waits.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from sadtrt_core.errors import Unavailable
from sadtrt_core.measure.host_load import HostLoad
from sadtrt_core.measure.sensors import Sensors
from sadtrt_core.measure.telemetry import TelemetrySampler
from sadtrt_core.measure.timing import L2Flush, LatencySampler, TimingPlan
from sadtrt_core.records.measurements import Latency, Telemetry
from sadtrt_core.runners.base import StageRunner


def take_samples(sampler: LatencySampler, count: int) -> None:
    """Take so many samples."""
    for _ in range(count):
        sampler.sample()


class Repetitions:
    """The times of one activated and bound runner over all repetitions, and how GPU and host were during each."""

    def __init__(
        self,
        runner: StageRunner,
        plan: TimingPlan,
        sensors: Sensors | Unavailable,
        flush: L2Flush | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.plan = plan
        self.sampler = LatencySampler(runner, flush)
        self.watch = TelemetrySampler(sensors)
        self.host = HostLoad(reference_loop=runner.job.device.type == "cpu")
        #: What one call took at the last repetition, in seconds.
        self.call_seconds = 0.0
        #: When the last repetition began, in seconds of `clock`.
        self.began = float("-inf")
        self.done = 0
        self._clock = clock

    def repeat(self, take: Callable[[LatencySampler, int], object] = take_samples) -> None:
        """Warm up and take one repetition's samples; `take` is given the sampler, and how many to begin with."""
        plan = self.plan.repetition(self.done)
        self.began = self._clock()
        self.call_seconds = self.sampler.warm_up(plan)
        self.sampler.begin_repetition()
        with self.host, self.watch:
            take(self.sampler, plan.samples(self.call_seconds))
            self.sampler.sample_until_known(plan)
        self.done += 1

    def wait(self, sleep: Callable[[float], None] = time.sleep) -> None:
        """Wait until the next repetition may begin: no sooner than the plan's time after the last one did."""
        if (early := self.began + self.plan.apart_seconds - self._clock()) > 0:
            sleep(early)

    @property
    def complete(self) -> bool:
        """Whether the last repetition is over."""
        return self.done >= self.plan.repetitions

    def latency(self) -> Latency:
        """All samples so far, with those marked that telemetry saw disturbed."""
        return self.sampler.result(self.watch.disturbed(self.sampler.windows))

    def telemetry(self) -> Telemetry | None:
        """How GPU and host were during the repetitions so far."""
        return self.watch.telemetry(self.sampler.windows, self.host)


@dataclass(frozen=True)
class _Waiting:
    timing: Repetitions
    runner: StageRunner
    loaded: contextlib.ExitStack
    on_repeat: Callable[[], None]
    on_error: Callable[[Exception], None]


class Interleaver:
    """The cases that wait for another repetition, with their runners, oldest first.

    At most `plan.repetitions` runners are loaded at once. A case comes here after its first repetition, once those that
    wait have been repeated, and leaves, its runner closed, after its last one or when a repetition fails.
    """

    def __init__(self, plan: TimingPlan, sleep: Callable[[float], None] = time.sleep) -> None:
        self._plan, self._sleep = plan, sleep
        self._waiting: list[_Waiting] = []

    @property
    def waiting(self) -> int:
        """How many cases wait for another repetition."""
        return len(self._waiting)

    def evict(self, runner: StageRunner) -> None:
        """Repeat what waits until `runner` may be loaded beside the rest."""
        while self.waiting >= self._plan.repetitions or self._excludes(runner):
            self.repeat()

    def _excludes(self, runner: StageRunner) -> bool:
        return runner.one_at_a_time and any(waiting.runner.one_at_a_time for waiting in self._waiting)

    def keep(
        self,
        timing: Repetitions,
        runner: StageRunner,
        loaded: contextlib.ExitStack,
        on_repeat: Callable[[], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        """Take over a case after its first repetition; `loaded` frees its runner.

        `on_repeat` is called after every repetition from now on, `on_error` with the first error of one that failed.
        """
        self._waiting.append(_Waiting(timing, runner, loaded, on_repeat, on_error))
        if timing.complete:
            self._leave(self._waiting[-1])

    def repeat(self) -> None:
        """Repeat every waiting case once, the oldest first, none sooner than the plan's time after its last one.

        Whatever fails then, freeing the runner too, is told to `on_error`: it is that case's, not the running test's.
        """
        for waiting in tuple(self._waiting):
            waiting.timing.wait(self._sleep)
            failures: list[Exception] = []
            try:
                waiting.timing.repeat()
                waiting.on_repeat()
            except Exception as error:
                failures.append(error)
            if failures or waiting.timing.complete:
                try:
                    self._leave(waiting)
                except Exception as error:
                    failures.append(error)
            if failures:
                waiting.on_error(failures[0])

    def _leave(self, waiting: _Waiting) -> None:
        self._waiting.remove(waiting)
        waiting.loaded.close()

    def finish(self) -> None:
        """Repeat until every case has had its last repetition."""
        while self._waiting:
            self.repeat()

    def close(self) -> None:
        """Free every runner, without repeating any."""
        with contextlib.ExitStack() as runners:
            while self._waiting:
                runners.enter_context(self._waiting.pop().loaded)
