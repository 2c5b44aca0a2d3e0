"""Timing without a clock to trust: the order of calls, what is kept, and how many samples are taken."""

from __future__ import annotations

import pytest

from sadtrt_core.measure import timing
from sadtrt_core.measure.timing import LatencySampler, TimingPlan, half_width


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


def measured(runner):
    """Samples as the latency benchmark takes them."""
    sampler = LatencySampler(runner)
    for _ in range(PLAN.samples(sampler.warm_up(PLAN))):
        sampler.sample()
    sampler.sample_until_known(PLAN)
    return sampler.result()


def test_warm_up_is_not_counted_and_the_wait_is(clock):
    runner = FakeRunner(clock, [9.0, 3.0, *[0.02] * 500])
    latency = measured(runner)
    assert latency.host_ms == pytest.approx([20.0] * 50)
    assert latency.device_ms is None
    assert latency.warmup_calls >= 3
    assert latency.steady


def test_slow_calls_are_sampled_as_seldom_as_allowed(clock):
    latency = measured(FakeRunner(clock, [2.0]))
    assert len(latency.host_ms) == 5


def test_a_drifting_series_is_not_called_steady(clock):
    sampler = LatencySampler(FakeRunner(clock, [0.01 * 1.05**i for i in range(60)]))
    for _ in range(50):
        sampler.sample()
    assert not sampler.result().steady


def test_sampling_goes_on_until_the_median_is_known_and_no_longer(clock):
    noisy = [0.01 * (1 + 0.1 * (-1) ** i) for i in range(400)]
    plan = TimingPlan(0, 0.0, 0.1, samples_min=10, samples_max=120, extra_seconds=100.0)
    sampler = LatencySampler(FakeRunner(clock, noisy))
    for _ in range(10):
        sampler.sample()
    assert half_width(sampler.host_ms) > 0.05
    sampler.sample_until_known(plan)
    assert len(sampler.host_ms) == 120, "as many as the plan allows, since these never settle"
    level = LatencySampler(FakeRunner(clock, [0.01]))
    for _ in range(10):
        level.sample()
    level.sample_until_known(plan)
    assert len(level.host_ms) == 10, "ten equal samples know their median"


def test_sampling_for_the_interval_stops_at_its_time_limit(clock):
    sampler = LatencySampler(FakeRunner(clock, [1.0 * (1 + 0.1 * (-1) ** i) for i in range(99)]))
    sampler.sample()
    sampler.sample_until_known(TimingPlan(0, 0.0, 1.0, samples_min=1, samples_max=90, extra_seconds=5.0))
    assert 5 <= len(sampler.host_ms) <= 8


def test_the_interval_of_too_few_samples_is_never_narrow_enough():
    assert timing.half_width([1.0] * 5) == float("inf")
    assert timing.half_width([1.0] * 6) == 0.0


def test_warm_up_lasts_its_floor_however_steady_the_times_are(clock):
    plan = TimingPlan(2, 10.0, 1.0, samples_min=1, samples_max=1, warmup_floor_seconds=1.0)
    sampler = LatencySampler(FakeRunner(clock, [0.01]))
    sampler.warm_up(plan)
    assert 1.0 <= sum(sampler.warmup_ms) / 1e3 <= 1.1


def test_the_cache_is_emptied_before_each_call_and_outside_its_time(clock):
    runner = FakeRunner(clock, [0.01])

    def flush(stream):
        runner.calls.append("flush")
        clock.now += 5.0

    sampler = LatencySampler(runner, flush)
    sampler.sample()
    sampler.sample()
    assert runner.calls == ["flush", "execute", "synchronize"] * 2
    assert sampler.host_ms == pytest.approx([10.0, 10.0])
    assert sampler.windows[1] == pytest.approx((10.01, 10.02)), "a window is when the sample ran, for telemetry"


def test_each_sample_executes_once_and_waits(clock):
    runner = FakeRunner(clock, [0.01])
    sampler = LatencySampler(runner)
    sampler.sample()
    assert runner.calls == ["execute", "synchronize"]
