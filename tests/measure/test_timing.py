"""Timing without a clock to trust: the order of calls, what is kept, and how many samples are taken."""

from __future__ import annotations

import pytest

from sadtrt_core.measure import timing
from sadtrt_core.measure.timing import LatencySampler, TimingPlan, measure_latency


class FakeRunner:
    """Takes a known time for each call on a clock that only it moves."""

    stream = None

    def __init__(self, clock, seconds):
        self.clock, self.seconds, self.calls = clock, list(seconds), []

    def execute(self):
        self.calls.append("execute")

    def synchronize(self):
        # The work is done only when waited for: a timer that does not synchronise would see none of it.
        self.calls.append("synchronize")
        self.clock.now += self.seconds.pop(0) if len(self.seconds) > 1 else self.seconds[0]


class Clock:
    now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(timing, "time", made)
    return made


PLAN = TimingPlan(warmup_calls=3, warmup_seconds=10.0, sample_seconds=1.0, samples_min=5, samples_max=50)


def test_warm_up_is_not_counted_and_the_wait_is(clock):
    runner = FakeRunner(clock, [9.0, 3.0, *[0.02] * 500])
    latency = measure_latency(runner, PLAN)
    assert latency.host_ms == pytest.approx([20.0] * 50)
    assert latency.device_ms is None
    assert latency.warmup_calls >= 3
    assert latency.steady


def test_slow_calls_are_sampled_as_seldom_as_allowed(clock):
    latency = measure_latency(FakeRunner(clock, [2.0]), PLAN)
    assert len(latency.host_ms) == 5


def test_a_drifting_series_is_not_called_steady(clock):
    sampler = LatencySampler(FakeRunner(clock, [0.01 * 1.05**i for i in range(60)]))
    for _ in range(50):
        sampler.sample()
    assert not sampler.result().steady


def test_each_sample_executes_once_and_waits(clock):
    runner = FakeRunner(clock, [0.01])
    sampler = LatencySampler(runner)
    sampler.sample()
    assert runner.calls == ["execute", "synchronize"]
