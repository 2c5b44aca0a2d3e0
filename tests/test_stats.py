from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from sadtrt_core import stats

some_times = st.lists(st.floats(0.001, 1e4), min_size=1, max_size=40)


def normal(median: float, seed: int, count: int = 60, spread: float = 0.01) -> np.ndarray:
    return median * (1 + spread * np.random.default_rng(seed).normal(size=count))


def test_median() -> None:
    assert stats.median([3, 1, 2]) == 2
    assert stats.median([4, 1, 2, 3]) == 2.5


@pytest.mark.parametrize("bad", [[], [[1.0]], [math.nan], [1.0, math.inf]])
def test_samples_that_are_none_are_refused(bad: list) -> None:
    with pytest.raises(ValueError, match="statistics need"):
        stats.median(bad)


def test_median_interval_has_the_tabulated_ranks() -> None:
    # Binomial(20, 1/2): P(B <= 5) = 0.0207, so the 6th and 15th values cover with 0.9586.
    interval = stats.median_interval(range(1, 21))
    assert (interval.low, interval.high) == (6, 15)
    assert interval.coverage == pytest.approx(0.9586, abs=1e-4)


def test_too_few_samples_give_their_range_with_the_coverage_it_has() -> None:
    interval = stats.median_interval([2.0, 1.0, 3.0])
    assert (interval.low, interval.high) == (1, 3)
    assert interval.coverage == pytest.approx(0.75)
    assert stats.median_interval([1.0]).coverage == 0


@given(st.integers(1, 300), st.sampled_from([0.8, 0.95, 0.99]))
def test_median_interval_is_the_narrowest_that_covers(count: int, confidence: float) -> None:
    interval = stats.median_interval(np.arange(count, dtype=float), confidence)
    rank = round(interval.low) + 1
    assert interval.high == count - rank
    if interval.coverage < confidence:
        assert rank == 1
    assert 1 - 2 * binom.cdf(rank, count, 0.5) < confidence


def test_median_interval_covers_as_often_as_it_says() -> None:
    random = np.random.default_rng(3)
    drawn = random.lognormal(0, 0.5, size=(1000, 30))
    held = sum(stats.median_interval(row).holds(1.0) for row in drawn)
    assert 0.94 <= held / 1000 <= 0.98


def repetitions(kind: str, draw: np.random.Generator, count: int = 8, samples: int = 50) -> np.ndarray:
    """Times (count, samples) of one run whose level is on the whole 1."""
    noise = draw.normal(size=(count, samples))
    if kind == "independent":
        return 1 + 0.01 * noise
    if kind == "neighbours alike":
        flat = noise.ravel()
        for index in range(1, flat.size):
            flat[index] = 0.9 * flat[index - 1] + math.sqrt(1 - 0.9**2) * flat[index]
        return 1 + 0.01 * noise
    if kind == "repetitions apart":
        return 1 + 0.01 * draw.normal(size=(count, 1)) + 0.002 * noise
    return 1 + 0.03 * ((draw.random((count, 1)) < 0.5) - 0.5) + 0.002 * noise


KINDS = ("independent", "neighbours alike", "repetitions apart", "two states")


@pytest.mark.parametrize("kind", KINDS)
def test_intervals_of_eight_repetitions_cover_whatever_samples_share(kind: str) -> None:
    """What they cover is the level that more repetitions would have; 90% is asked of 95% and 95% of 99%."""
    draw = np.random.default_rng(7)
    held = [stats.time_interval(stats.units([repetitions(kind, draw)])).holds(1.0) for _ in range(200)]
    assert sum(held) >= 180
    pairs = [(repetitions(kind, draw), repetitions(kind, draw)) for _ in range(200)]
    ratios = [stats.ratio_interval(stats.units([above]), stats.units([below]), 0.99) for above, below in pairs]
    assert sum(interval.holds(1.0) for interval in ratios) >= 190
    assert {interval.units for interval in ratios} == {8}


def test_the_units_are_the_highest_level_there_is() -> None:
    run = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    assert list(stats.units([run])) == [2.0, 5.0]
    assert list(stats.units([run, run])) == [2.0, 5.0, 2.0, 5.0], "of few runs the spread is not known"
    assert list(stats.units([run] * 4)) == [3.5] * 4
    assert list(stats.units([[np.repeat([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], 2)]])) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert len(stats.units([[np.arange(1.0, 17.0)]] * 2)) == 16, "a further run takes nothing away"
    assert stats.time_interval(stats.units([[[2.0]]])) == stats.Interval(2.0, 2.0, 0.0, 1)


def test_an_interval_of_times_holds_no_time_below_zero() -> None:
    """Segments of which one was disturbed: Student's t of the times themselves reaches below zero."""
    interval = stats.time_interval(np.array([560.0, 570.0, 580.0, 590.0, 5000.0]))
    assert 0 < interval.low < 580 < interval.high
    assert stats.time_interval(np.array([0.0, 2.0, 1.0])) == stats.Interval(0.0, 2.0, 0.0, 3)
    extreme = stats.time_interval(np.array([5e-324, 1e9]))
    assert 0 < extreme.low < extreme.high < math.inf


@given(some_times, some_times)
def test_ratio_interval_is_repeatable_and_holds_the_ratio(first: list, second: list) -> None:
    above, below = stats.units([[first]]), stats.units([[second]])
    interval = stats.ratio_interval(above, below)
    assert interval == stats.ratio_interval(above, below)
    ratio = stats.ratio(above, below)
    assert interval.low <= ratio * (1 + 1e-9)
    assert ratio <= interval.high * (1 + 1e-9)


def test_a_ratio_without_spread_is_exact_and_one_over_zero_has_no_bound() -> None:
    one, two, nothing = np.array([1.0, 1.0]), np.array([2.0, 2.0]), np.array([0.0])
    exact = stats.ratio_interval(two, one)
    assert (exact.low, exact.high, exact.units) == (pytest.approx(2.0), exact.low, 2)
    assert (stats.ratio(two, nothing), stats.ratio(nothing, two)) == (math.inf, 0.0)
    unknown = stats.ratio_interval(two[:1], one[:1])
    assert (unknown.low, unknown.high, unknown.units) == (0.0, math.inf, 1)


def test_paired_rounds_are_not_widened_by_what_changed_for_both() -> None:
    draw = np.random.default_rng(8)
    shared = np.exp(0.2 * draw.normal(size=(50, 1)))
    new, old = (level * shared * (1 + 0.01 * draw.normal(size=(50, 8))) for level in (1.05, 1.0))
    ratio, interval = stats.paired_ratio(list(new), list(old))
    assert ratio == pytest.approx(1.05, abs=0.01)
    assert interval.holds(1.05)
    assert interval.high - interval.low < 0.03
    assert interval.units == stats.ROUND_UNITS


def test_noise_of_several_runs_is_where_another_may_lie() -> None:
    draw = np.random.default_rng(9)
    alike = repetitions("independent", draw)
    assert stats.noise(stats.units([alike]), of_runs=False) < 0.01
    inside = 0
    for _ in range(200):
        *runs, another = (level * alike for level in 1 + 0.02 * draw.normal(size=6))
        units = stats.units(runs)
        inside += stats.ratio(stats.units([another]), units) <= 1 + stats.noise(units, of_runs=True)
    assert inside >= 196
    assert stats.noise(np.array([1.0]), of_runs=False) == math.inf


@pytest.mark.parametrize("top", [1.05, 1.6])
def test_a_climb_is_seen_and_noise_is_none(top: float) -> None:
    flat = repetitions("independent", np.random.default_rng(10))
    climbing = flat * np.linspace(1, top, flat.size).reshape(flat.shape)
    climb, level = stats.units([climbing]), stats.units([flat])
    assert stats.rise(climb) == pytest.approx((top - 1) * 7 / 8, rel=0.15), "from the first repetition to the last"
    assert stats.rise(level) == stats.rise(climb[::-1]) == stats.rise(np.ones(8)) == 0.0


def test_more_slow_samples_count_where_most_repetitions_have_them() -> None:
    usual = np.ones((8, 100))
    spread, burst = usual.copy(), usual.copy()
    spread[:, ::50] = 2.0
    burst[3, :16] = 2.0
    assert stats.more_above(spread, [usual], 1.5) < 1e-4
    assert stats.more_above(spread, [spread], 1.5) > 0.5
    assert stats.more_above(burst, [usual], 1.5) == 1.0, "one hiccup is no tail"
    assert stats.slow_share(spread.ravel(), 1.0) == pytest.approx(0.02)
    assert stats.percentile(range(101), 99) == 99


def test_changes_of_level_are_found_and_noise_is_none() -> None:
    draw = np.random.default_rng(11)
    series = np.repeat([4.0, 4.2, 3.5], [10, 6, 8]) + 0.01 * draw.normal(size=24)
    assert stats.changes(series, 0.02) == (10, 16)
    assert stats.changes(4 + 0.01 * draw.normal(size=40), 0.02) == ()
    assert stats.changes([4.0, 4.0, 4.0, 5.0, 5.0, 5.0], 0.02) == (3,)
    assert stats.changes([4.0], 0.02) == ()


def test_quick_variation_sees_noise_and_not_levels() -> None:
    noise = normal(10.0, 5, count=400)
    assert stats.quick_variation(noise) == pytest.approx(0.01, rel=0.2)
    assert stats.quick_variation(noise * np.linspace(1, 2, 400)) == pytest.approx(0.01, rel=0.25)
    assert stats.quick_variation([1.0]) == 0.0


def test_steady_means_no_segment_stands_apart() -> None:
    flat = normal(10.0, 6, count=80)
    assert stats.is_steady(flat)
    warming = flat * np.concatenate([np.linspace(1.5, 1.0, 20), np.ones(60)])
    assert not stats.is_steady(warming)
    assert stats.is_steady(warming[20:])
    assert not stats.is_steady(flat * np.linspace(1.0, 1.1, 80))
    assert not stats.is_steady(flat[:7])
    assert stats.is_steady([0.0] * 8)


def test_noise_alone_does_not_make_samples_unsteady() -> None:
    steady = sum(stats.is_steady(normal(10.0, seed, count=20, spread=0.1)) for seed in range(100))
    assert steady >= 85
