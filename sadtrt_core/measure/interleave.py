"""Comes back to rows: each is timed in several visits, seconds apart, while its runner stays loaded.

A GPU may have states that no sensor shows: one engine on an H200 has two, 2.7% apart in speed, each of which lasts for
seconds (README, "How far to trust the times"). A row timed in one stretch of a second shows whichever it met, and two
runs of the same code then differ by what the GPU did. So the samples of a row are spread over several visits, and its
median is that of all of them. Visits that lie closer together than a state lasts all see the same one: hence
`TimingPlan.apart_seconds`, 2 s on a GPU, from the begin of one visit to the begin of the next, so that four of them
span six. The visits to other rows fill that time; where they do not, this waits.
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


class RowTiming:
    """The times of one activated and bound runner over all visits, and how GPU and host were during each."""

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
        self.host = HostLoad(yardstick=runner.job.device.type == "cpu")
        #: What one call took at the last visit, in seconds.
        self.call_seconds = 0.0
        #: When the last visit began, in seconds of `clock`.
        self.began = float("-inf")
        self.visits = 0
        self._clock = clock

    def visit(self, take: Callable[[LatencySampler, int], object] = take_samples) -> None:
        """Warm up and take one visit's samples; `take` is given the sampler, and how many to begin with."""
        plan = self.plan.visit(self.visits)
        self.began = self._clock()
        self.call_seconds = self.sampler.warm_up(plan)
        self.sampler.begin_visit()
        with self.host, self.watch:
            take(self.sampler, plan.samples(self.call_seconds))
            self.sampler.sample_until_known(plan)
        self.visits += 1

    def wait(self, sleep: Callable[[float], None] = time.sleep) -> None:
        """Wait until the next visit may begin: no sooner than the plan's time after the last one did."""
        if (early := self.began + self.plan.apart_seconds - self._clock()) > 0:
            sleep(early)

    @property
    def complete(self) -> bool:
        """Whether the last visit is over."""
        return self.visits >= self.plan.visits

    def latency(self) -> Latency:
        """All samples so far, with those marked that telemetry saw disturbed."""
        return self.sampler.result(self.watch.disturbed(self.sampler.windows))

    def telemetry(self) -> Telemetry | None:
        """How GPU and host were during the visits so far."""
        return self.watch.telemetry(self.sampler.windows, self.host)


@dataclass(frozen=True)
class _Waiting:
    timing: RowTiming
    runner: StageRunner
    loaded: contextlib.ExitStack
    visited: Callable[[], None]
    broke: Callable[[Exception], None]


class Interleaver:
    """The rows that wait for another visit, with their runners, oldest first; at most `plan.visits` are loaded at once.

    A row comes here after its first visit, once those that wait have been visited again, and leaves, its runner closed,
    after its last one or when a visit fails.
    """

    def __init__(self, plan: TimingPlan, sleep: Callable[[float], None] = time.sleep) -> None:
        self._plan, self._sleep = plan, sleep
        self._waiting: list[_Waiting] = []

    def evict(self, runner: StageRunner) -> None:
        """Go round until `runner` may be loaded beside what waits."""
        while len(self._waiting) >= self._plan.visits or self._excludes(runner):
            self.repeat()

    def _excludes(self, runner: StageRunner) -> bool:
        return runner.one_at_a_time and any(waiting.runner.one_at_a_time for waiting in self._waiting)

    def keep(
        self,
        timing: RowTiming,
        runner: StageRunner,
        loaded: contextlib.ExitStack,
        visited: Callable[[], None],
        broke: Callable[[Exception], None],
    ) -> None:
        """Take over a row after its first visit; `loaded` frees its runner.

        `visited` is called after every visit from now on, `broke` with the first error of one that failed.
        """
        self._waiting.append(_Waiting(timing, runner, loaded, visited, broke))
        if timing.complete:
            self._leave(self._waiting[-1])

    def repeat(self) -> None:
        """Visit every waiting row once, the oldest first, none sooner than the plan's time after its last visit.

        Whatever fails then, freeing the runner too, is told to `broke`: it is that row's, not the running test's.
        """
        for waiting in tuple(self._waiting):
            waiting.timing.wait(self._sleep)
            failures: list[Exception] = []
            try:
                waiting.timing.visit()
                waiting.visited()
            except Exception as error:
                failures.append(error)
            if failures or waiting.timing.complete:
                try:
                    self._leave(waiting)
                except Exception as error:
                    failures.append(error)
            if failures:
                waiting.broke(failures[0])

    def _leave(self, waiting: _Waiting) -> None:
        self._waiting.remove(waiting)
        waiting.loaded.close()

    def finish(self) -> None:
        """Go round until every row has had its last visit."""
        while self._waiting:
            self.repeat()

    def close(self) -> None:
        """Free every runner, without visiting any again."""
        with contextlib.ExitStack() as runners:
            while self._waiting:
                runners.enter_context(self._waiting.pop().loaded)
