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


def test_median_and_quartiles() -> None:
    assert stats.median([3, 1, 2]) == 2
    assert stats.median([4, 1, 2, 3]) == 2.5
    assert stats.quartiles([1, 2, 3, 4, 5]) == (2, 3, 4)


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


@given(some_times, some_times)
def test_ratio_interval_is_repeatable_and_holds_the_ratio_of_constants(first: list, second: list) -> None:
    interval = stats.ratio_interval(first, second, resamples=50)
    assert interval == stats.ratio_interval(first, second, resamples=50)
    assert interval.low <= interval.high
    assert min(first) / max(second) <= interval.low * (1 + 1e-12)
    assert interval.high <= max(first) / min(second) * (1 + 1e-12)


def test_ratio_interval_covers_the_ratio() -> None:
    pairs = [(normal(1.05, 2 * seed), normal(1.0, 2 * seed + 1)) for seed in range(100)]
    held = sum(stats.ratio_interval(*pair, resamples=400).holds(1.05) for pair in pairs)
    assert held >= 88


def test_rank_test_sees_a_shift_and_only_in_its_direction() -> None:
    slow, fast = normal(1.02, 1), normal(1.0, 2)
    assert stats.rank_test(slow, fast) < 1e-6
    assert stats.rank_test(fast, slow) > 0.99
    assert stats.rank_test([1.0] * 10, [1.0] * 10) == 1.0


def test_no_samples_are_more_significant_than_complete_separation() -> None:
    assert stats.smallest_p(5, 5) > 0.001
    assert stats.smallest_p(20, 20) < 1e-6
    assert stats.smallest_p(12, 9) == pytest.approx(stats.rank_test(np.arange(100.0, 112), np.arange(9.0)))


def test_compare_asks_for_more_than_the_margin() -> None:
    candidate, baseline = normal(1.02, 1), normal(1.0, 2)
    assert stats.compare(candidate, baseline).p_slower < 1e-6
    inside = stats.compare(candidate, baseline, margin=0.05)
    assert inside.p_slower > 0.99
    assert inside.ratio == pytest.approx(1.02, abs=0.01)
    assert inside.interval.holds(inside.ratio)
    assert stats.compare(baseline, candidate).p_faster < 1e-6
    assert stats.compare(baseline, candidate, margin=0.05).p_faster > 0.99


def test_slow_variation_sees_levels_and_not_noise() -> None:
    noise = normal(10.0, 4, count=200)
    levels = noise * np.repeat([1.0, 1.1], 100)
    assert stats.slow_variation(noise) < 0.005
    assert stats.slow_variation(levels) > 0.05
    burst = noise.copy()
    burst[40:60] *= 2
    assert stats.slow_variation(burst) < 0.01
    assert stats.slow_variation([5.0, 6.0]) == 0.0


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
