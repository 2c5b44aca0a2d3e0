"""Distribution-free statistics of timing samples: medians, order-statistic intervals, rank tests, steadiness."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats as scipy_stats

Samples = Sequence[float]


@dataclass(frozen=True)
class Interval:
    """A confidence interval in the unit of its samples; `coverage` is the probability it actually reaches (0 to 1)."""

    low: float
    high: float
    coverage: float

    def holds(self, value: float) -> bool:
        """Whether `value` lies inside, ends included."""
        return self.low <= value <= self.high

    @property
    def half_width_ratio(self) -> float:
        """Half the width over the centre, dimensionless: 0.01 reads as 'known within 1%'."""
        centre = (self.low + self.high) / 2
        return (self.high - self.low) / 2 / centre if centre else math.inf


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
