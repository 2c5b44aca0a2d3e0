"""Distribution-free statistics of timing samples: medians, order-statistic intervals, rank tests, steadiness."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats as scipy_stats

Samples = Sequence[float] | np.ndarray
"""Times in any one unit: a flat sequence or array."""


@dataclass(frozen=True)
class Interval:
    """A confidence interval in the unit of its samples; `coverage` is the probability it actually reaches (0 to 1)."""

    low: float
    high: float
    coverage: float

    def holds(self, value: float) -> bool:
        """Whether `value` lies inside, ends included."""
        return self.low <= value <= self.high


def median(samples: Samples) -> float:
    """Middle value, or the mean of the two middle values. Raises ValueError without samples."""
    return float(np.median(_checked(samples)))


def quartiles(samples: Samples) -> tuple[float, float, float]:
    """First quartile, median and third quartile, linearly interpolated between order statistics."""
    low, middle, high = np.percentile(_checked(samples), [25, 50, 75])
    return float(low), float(middle), float(high)


def median_interval(samples: Samples, confidence: float = 0.95) -> Interval:
    """Distribution-free confidence interval of the median from two order statistics.

    For n independent samples the number below the true median is Binomial(n, 1/2), so [x(k), x(n+1-k)] covers it with
    probability 1 - 2 P(B <= k-1); k is the largest with at least `confidence` (David & Nagaraja, Order Statistics,
    3rd ed., section 7.1). Fewer than six samples cannot reach 95%: then the whole range, with the coverage it has.
    """
    ordered = np.sort(_checked(samples))
    count = len(ordered)
    tail = (1 - confidence) / 2
    # scipy's quantile is the smallest m with P(B <= m) >= tail, so P(B <= m - 1) < tail: m is the k wanted.
    rank = max(1, int(scipy_stats.binom.ppf(tail, count, 0.5)))
    coverage = 1 - 2 * float(scipy_stats.binom.cdf(rank - 1, count, 0.5))
    return Interval(float(ordered[rank - 1]), float(ordered[count - rank]), max(0.0, coverage))


def _checked(samples: Samples) -> np.ndarray:
    values = np.asarray(samples, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"statistics need a flat, non-empty list of samples but got the shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("statistics need finite samples but got NaN or infinity")
    return values


@dataclass(frozen=True)
class Comparison:
    """How candidate samples compare with baseline samples; ratios are candidate over baseline, above 1 is slower.

    `interval` is a bootstrap interval of the ratio of medians; `p_slower` and `p_faster` are one-sided rank-test
    probabilities of samples like these if the candidate were not slower (faster) by more than the margin asked for.
    """

    ratio: float
    interval: Interval
    p_slower: float
    p_faster: float


def compare(candidate: Samples, baseline: Samples, margin: float = 0.0, confidence: float = 0.99) -> Comparison:
    """Ratio of medians, its interval and the rank tests; `margin` is a fraction (0.015: 1.5%) of the baseline."""
    reference = _checked(baseline)
    return Comparison(
        ratio=median_ratio(candidate, baseline),
        interval=ratio_interval(candidate, baseline, confidence),
        p_slower=rank_test(candidate, reference * (1 + margin)),
        p_faster=rank_test(reference / (1 + margin), candidate),
    )


def median_ratio(candidate: Samples, baseline: Samples) -> float:
    """Median of the candidate over the median of the baseline; infinity where the baseline's is zero."""
    below = median(baseline)
    return median(candidate) / below if below else math.inf


def ratio_interval(
    candidate: Samples, baseline: Samples, confidence: float = 0.95, resamples: int = 1000, seed: int = 20250131
) -> Interval:
    """Percentile interval of the ratio of medians by a circular block bootstrap, the same on every call.

    Timing samples are correlated with their neighbours, so blocks of about n^(1/3) neighbours are drawn instead of
    single samples (Kuensch 1989, Annals of Statistics 17, 1217; Politis & Romano 1992 for the circle).
    """
    random = np.random.default_rng(seed)
    above = _bootstrap_medians(_checked(candidate), resamples, random)
    below = _bootstrap_medians(_checked(baseline), resamples, random)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratios = np.where(below > 0, above / below, np.inf)
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(ratios, [tail, 100 - tail], method="nearest")
    return Interval(float(low), float(high), confidence)


def interleaved_ratio(
    candidate: Sequence[Samples],
    baseline: Sequence[Samples],
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 20250131,
) -> tuple[float, Interval]:
    """Ratio of medians of samples that were taken in turn, and its bootstrap interval, the same on every call.

    Each entry holds the samples of one round, equally many a round. Whole rounds are drawn for both sides together:
    what changed from round to round changed for both, and so does not widen the interval. Raises ValueError for
    rounds that do not match.
    """
    above, below = (np.asarray(rounds, dtype=np.float64) for rounds in (candidate, baseline))
    if above.ndim != 2 or below.ndim != 2 or len(above) != len(below) or not above.size or not below.size:
        raise ValueError(f"rounds should match, equally many samples in each, but are {above.shape} and {below.shape}")
    drawn = np.random.default_rng(seed).integers(0, len(above), size=(resamples, len(above)))
    medians = [np.median(rows[drawn].reshape(resamples, -1), axis=1) for rows in (above, below)]
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(medians[0] / medians[1], [tail, 100 - tail], method="nearest")
    return median_ratio(above.ravel(), below.ravel()), Interval(float(low), float(high), confidence)


def rank_test(larger: Samples, smaller: Samples) -> float:
    """One-sided Mann-Whitney p-value: small where `larger` tends to exceed `smaller`.

    Normal approximation with the correction for ties (Mann & Whitney 1947, Annals of Mathematical Statistics 18, 50).
    """
    above, below = _checked(larger), _checked(smaller)
    if above.min() == above.max() == below.min() == below.max():
        return 1.0  # All tied: no evidence, where the approximation divides by zero.
    return float(scipy_stats.mannwhitneyu(above, below, alternative="greater", method="asymptotic").pvalue)


def smallest_p(count: int, other: int) -> float:
    """The p-value of `rank_test` when every sample of one run exceeds every sample of the other: none is smaller."""
    return rank_test(np.arange(other, other + count, dtype=np.float64), np.arange(other, dtype=np.float64))


def slow_variation(samples: Samples, segments: int = 8) -> float:
    """Relative standard deviation (dimensionless) of the medians of contiguous segments, by their interquartile range.

    This sees what a rank test of independent samples cannot: levels that shift in the course of a run, by heat,
    clocks or neighbours. A normal distribution's quartiles lie 1.349 standard deviations apart. Below two samples a
    segment there are fewer segments; below four samples the answer is 0.
    """
    values = _checked(samples)
    segments = min(segments, len(values) // 2)
    centre = float(np.median(values))
    if segments < 2 or centre == 0:
        return 0.0
    medians = [float(np.median(part)) for part in np.array_split(values, segments)]
    low, _, high = quartiles(medians)
    return (high - low) / 1.349 / centre


def quick_variation(samples: Samples) -> float:
    """Relative standard deviation (dimensionless) from sample to sample, blind to slow trends.

    The median absolute difference of neighbours over sqrt(2) * 0.6745, which is its expectation for independent normal
    samples of unit deviation (the successive differences of von Neumann 1941, made robust). 0 below two samples.
    """
    values = _checked(samples)
    centre = float(np.median(values))
    if len(values) < 2 or centre == 0:
        return 0.0
    return float(np.median(np.abs(np.diff(values)))) / (math.sqrt(2) * 0.6745) / centre


def is_steady(samples: Samples, tolerance: float = 0.02, segments: int = 4) -> bool:
    """Whether the medians of contiguous segments all lie within `tolerance` (a fraction) of the overall median.

    Where samples are so noisy that a segment's median cannot be known that well, three standard errors of it are
    allowed instead: 1.2533 s / sqrt(n) for the median of n normal samples (Kendall & Stuart, vol. 1). Fewer than two
    samples a segment are never called steady.
    """
    values = _checked(samples)
    centre = float(np.median(values))
    if len(values) < 2 * segments:
        return False
    if centre == 0:
        return bool((values == 0).all())
    standard_error = 1.2533 * quick_variation(values) / math.sqrt(len(values) // segments)
    allowed = max(tolerance, 3 * standard_error)
    parts = np.array_split(values, segments)
    return all(abs(float(np.median(part)) / centre - 1) <= allowed for part in parts)


def _bootstrap_medians(values: np.ndarray, resamples: int, random: np.random.Generator) -> np.ndarray:
    count = len(values)
    block = max(1, round(count ** (1 / 3)))
    starts = random.integers(0, count, size=(resamples, math.ceil(count / block)))
    picked = (starts[:, :, None] + np.arange(block)) % count
    return np.median(values[picked.reshape(resamples, -1)[:, :count]], axis=1)
