"""What the gate must say of a row whose times go one way or another, simulated as a GPU's eight repetitions."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
import pytest
from record_examples import measured, run_of

from sadtrt_core.case import Case
from sadtrt_core.gate.judge import compare_runs
from sadtrt_core.gate.latency import count_tails
from sadtrt_core.gate.limits import Thresholds
from sadtrt_core.gate.verdicts import GateResult, with_anchor
from sadtrt_core.records.measurements import Latency
from sadtrt_core.records.schema import Run

THRESHOLDS = Thresholds()
#: The same times stand for the host's as well: many decisions need them judged once only.
DEVICE_ALONE = Thresholds(limits={**THRESHOLDS.limits, "host_slowdown_percent": None})
Draw = np.random.Generator
Times = np.ndarray
"""Times of a run relative to what they are to be, (repetitions, samples)."""


def usual(draw: Draw, between_runs: float = 0.0, repetitions: int = 8) -> Times:
    """What the same code takes: 0.2% from repetition to repetition, 0.3% from sample to sample, as on an H200."""
    level = (1 + between_runs * draw.normal()) * (1 + 0.002 * draw.normal(size=(repetitions, 1)))
    return level * (1 + 0.003 * draw.normal(size=(repetitions, 100)))


def some_slow(draw: Draw, share: float, factor: float) -> Times:
    times = usual(draw)
    times[draw.random(times.shape) < share] *= factor
    return times


def climbing(draw: Draw, top: float, repetitions: int = 8) -> Times:
    times = usual(draw, repetitions=repetitions)
    return times * np.linspace(1, top, times.size).reshape(times.shape)


def neighbours_alike(draw: Draw) -> Times:
    """Samples that follow their neighbours, AR(1) of 0.9, through all repetitions."""
    noise = draw.normal(size=800)
    for index in range(1, 800):
        noise[index] = 0.9 * noise[index - 1] + np.sqrt(1 - 0.81) * noise[index]
    return 1 + 0.01 * noise.reshape(8, 100)


def state_a_repetition(draw: Draw) -> Times:
    return usual(draw) * (1 + 0.027 * (draw.random((8, 1)) < 0.5))


def state_a_run(draw: Draw) -> Times:
    return usual(draw) * (1 + 0.03 * (draw.random() < 0.5))


def above(draw: Draw) -> Times:
    """Every sample above the slowest of the baseline's usual ones, on the whole by 4%."""
    return np.maximum(1.04 * usual(draw), 1.025)


def run(times: Times, index: int = 0) -> Run:
    repetitions, samples = times.shape
    ms = tuple(float(value) for value in 4 * times.ravel())
    latency = Latency(ms, ms, 5, True, visits=tuple(range(0, repetitions * samples, samples)))
    record = measured(latency=latency, drift=None, resources=None)
    return run_of(record, started_utc=f"2025-01-31T12:00:{index:02}Z")


def judged(new: Times, *baseline: Times, thresholds: Thresholds = THRESHOLDS) -> GateResult:
    runs = [run(times, index) for index, times in enumerate((*baseline, new))]
    return compare_runs(runs[-1], runs[0], thresholds, runs[1:-1])


@pytest.mark.parametrize("level", ["slowdown_percent", "host_slowdown_percent"])
def test_a_tail_is_judged_where_the_level_is_not(level: str) -> None:
    draw = np.random.default_rng(0)
    limits = {**THRESHOLDS.limits, "slowdown_percent": None, "host_slowdown_percent": None}
    both_off = Thresholds(limits=limits)
    assert judged(1.1 * usual(draw), usual(draw), thresholds=both_off).rows[0].verdict == "same"
    for thresholds in (both_off, Thresholds(limits={**THRESHOLDS.limits, level: None})):
        (row,) = judged(some_slow(draw, 0.04, 3), usual(draw), thresholds=thresholds).rows
        assert (row.verdict, row.reason) == ("slower", "slow_tail"), row.detail
    tails = ("p99_slowdown_percent", "slow_samples_points", "host_p99_slowdown_percent", "host_slow_samples_points")
    nothing = Thresholds(limits={**limits, **dict.fromkeys(tails)})
    (row,) = judged(some_slow(draw, 0.04, 3), usual(draw), thresholds=nothing).rows
    assert row.reason == "not_judged"


def test_what_is_not_judged_makes_no_test_of_a_tail() -> None:
    one = run(usual(np.random.default_rng(0))).records[0].latency
    assert one is not None
    tests = {
        name: count_tails(one, one, THRESHOLDS.for_key(Case("generator", name, "fp16", "plugin", 1), 4.0))
        for name in ("tensorrt", "pytorch")
    }
    assert tests == {"tensorrt": 4, "pytorch": 2}, "of the host's the second has none"
    on_cpu = dataclasses.replace(one, device_ms=None)
    assert count_tails(on_cpu, on_cpu, THRESHOLDS.limits) == 0


@pytest.mark.parametrize(
    ("runner", "device_ms", "verdict"),
    [("pytorch", 0.4, "same"), ("tensorrt", 0.1, "same"), ("pytorch", 45.0, "slower"), ("tensorrt", 2.8, "slower")],
)
def test_slow_calls_of_the_host_alone_count_where_the_host_has_little_of_a_call(
    runner: str, device_ms: float, verdict: str
) -> None:
    """Of identical code up to 5% of the calls were slow where it launches each kernel, and none elsewhere."""
    draw = np.random.default_rng(0)

    def of(host: Times, index: int) -> Run:
        device = tuple(float(value) for value in device_ms * usual(draw).ravel())
        called = tuple(float(value) for value in 1.2 * device_ms * host.ravel())
        visits = tuple(range(0, 800, 100))
        latency = Latency(device, called, 5, True, visits=visits)
        case = Case("generator", runner, "fp16-mixed", "plugin", 1)
        record = measured(case, latency=latency, drift=None, resources=None)
        return run_of(record, started_utc=f"2025-01-31T12:00:{index:02}Z")

    result = compare_runs(of(some_slow(draw, 0.05, 2), 1), of(usual(draw), 0), THRESHOLDS, ())
    assert [row.verdict for row in result.rows] == [verdict], result.rows[0].detail


@pytest.mark.parametrize(
    ("scenario", "verdict", "reason"),
    [
        (usual, "same", "within_limit"),
        (lambda draw: 1.025 * usual(draw), "same", "below_effect"),
        (lambda draw: 1.05 * usual(draw), "slower", "slower"),
        (above, "slower", "slower"),
        (lambda draw: some_slow(draw, 0.02, 2), "slower", "slow_tail"),
        (lambda draw: some_slow(draw, 0.04, 3), "slower", "slow_tail"),
        (lambda draw: some_slow(draw, 0.10, 2), "slower", "slow_tail"),
        (lambda draw: some_slow(draw, 0.30, 2), "slower", "slow_tail"),
        (lambda draw: climbing(draw, 1.6), "slower", "slower"),
        (lambda draw: climbing(draw, 1.2), "slower", "slower"),
        (lambda draw: climbing(draw, 1.05), "not comparable", "climbs"),
        (lambda draw: 0.95 * usual(draw), "faster", "faster"),
    ],
    ids=[
        *("same code", "2.5% more", "5% more", "every sample above", "2% twice", "4% three times", "10% twice"),
        *("30% twice", "climbs to 1.6", "climbs to 1.2", "climbs to 1.05", "5% less"),
    ],
)
def test_each_way_times_can_go_has_its_verdict(scenario: Callable[[Draw], Times], verdict: str, reason: str) -> None:
    for seed in range(3):
        draw = np.random.default_rng(seed)
        (row,) = judged(scenario(draw), usual(draw)).rows
        assert (row.verdict, row.reason) == (verdict, reason), row.detail


def test_a_climb_over_few_repetitions_is_never_within_noise() -> None:
    """Of four an interval reaches far, but the climb itself is told, and its end is in the tail."""
    for top, verdict, reason in ((1.2, "not comparable", "climbs"), (1.6, "slower", "slow_tail")):
        draw = np.random.default_rng(1)
        (row,) = judged(climbing(draw, top, 4), usual(draw, repetitions=4)).rows
        assert (row.verdict, row.reason) == (verdict, reason)
        assert row.finding("device_ms").reason == "climbs"
        assert "times climb by" in row.detail


def test_a_baseline_that_climbs_excuses_nothing() -> None:
    draw = np.random.default_rng(1)
    (row,) = judged(1.1 * usual(draw), climbing(draw, 1.2)).rows
    assert (row.finding("device_ms").verdict, row.finding("device_ms").reason) == ("not comparable", "baseline_climbs")


def between(draw: Draw) -> Times:
    return usual(draw, between_runs=0.02)


@pytest.mark.parametrize(
    ("scenario", "baselines"),
    [(usual, 1), (neighbours_alike, 1), (state_a_repetition, 1), (state_a_run, 1), (state_a_run, 5), (between, 5)],
    ids=["independent", "neighbours alike", "state a repetition", "state a run", "of five runs", "runs 2% apart"],
)
def test_the_same_code_raises_at_most_one_alarm_in_a_hundred(scenario: Callable[[Draw], Times], baselines: int) -> None:
    draw = np.random.default_rng(2)
    alarms = 0
    for _ in range(100):
        times = [scenario(draw) for _ in range(1 + baselines)]
        alarms += judged(*times, thresholds=DEVICE_ALONE).rows[0].verdict == "slower"
    assert alarms <= 1


@pytest.mark.parametrize(
    ("slow", "usually"),
    [
        (lambda draw: some_slow(draw, 0.02, 2), usual),
        (lambda draw: 1.05 * usual(draw), usual),
        (lambda draw: 1.05 * state_a_repetition(draw), state_a_repetition),
    ],
    ids=["2% twice", "5% more", "5% more of two states"],
)
def test_planted_losses_are_caught_at_least_95_times_in_a_hundred(
    slow: Callable[[Draw], Times], usually: Callable[[Draw], Times]
) -> None:
    draw = np.random.default_rng(3)
    pairs = [(slow(draw), usually(draw)) for _ in range(100)]
    caught = sum(judged(*pair, thresholds=DEVICE_ALONE).rows[0].verdict == "slower" for pair in pairs)
    assert caught >= 95


def test_a_candidate_never_widens_its_own_limit() -> None:
    draw = np.random.default_rng(4)
    baseline, noise = usual(draw), usual(draw) * (1 + 0.1 * draw.normal(size=(8, 1)))
    limits = [judged(times, baseline).rows[0].finding("device_ms").limit for times in (usual(draw), noise, 1.3 * noise)]
    assert limits == [THRESHOLDS.limits["slowdown_percent"]] * 3
    row = judged(1.06 * noise / np.median(noise), baseline).rows[0]
    assert row.verdict != "same"


def test_runs_of_a_baseline_that_differ_widen_the_limit() -> None:
    draw = np.random.default_rng(5)
    apart = [level * usual(draw) for level in (0.97, 0.99, 1.0, 1.01, 1.03)]
    found = judged(1.05 * usual(draw), *apart).rows[0].finding("device_ms")
    assert (found.verdict, found.reason) == ("same", "within_noise")
    assert found.limit > 8
    assert "8 repetitions against 5 runs" in found.sentence


def test_an_anchor_catches_what_creeps() -> None:
    """2.5% more each release passes every time, and is 5% in all by the second."""
    draw = np.random.default_rng(6)
    releases = [1.025**number * usual(draw) for number in range(4)]
    for before, new in itertools.pairwise(releases):
        assert judged(new, before).exit_code == 0
    by_both = with_anchor(judged(releases[2], releases[1]), judged(releases[2], releases[0]), "first")
    assert by_both.exit_code == 1
    (row,) = by_both.rows
    assert (row.verdict, row.finding("device_ms").verdict) == ("slower", "same")
    assert row.finding("anchor device_ms").verdict == "slower"
    assert "against first: device time" in row.detail
    assert "by the baseline: gate: passed (1 same); by the anchor first: gate: regression" in by_both.remarks[0]
