"""Statistics of timing samples: medians and tails, intervals over repetitions and runs, trends, steadiness."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats as scipy_stats

Samples = Sequence[float] | np.ndarray
"""Times in any one unit: a flat sequence or array."""
Repetitions = Sequence[Samples]
"""The samples of one run, repetition by repetition; one where all were taken in one stretch."""
Runs = Sequence[Repetitions]
"""Runs of the same code: other processes, or other builds of an engine."""
LEAST_RUNS = 4
"""Of fewer runs the spread between them is not estimated."""
SEGMENTS = 8
"""Into how many parts a stretch without repetitions is divided."""
ROUND_UNITS = 10
"""Into how many units the rounds of an interleaved comparison are joined."""
SLOW_FACTOR = 1.5
"""A sample is slow where it took so many times as long as usual."""
#: Of what is a number still when it is taken to the power of e.
_EXPONENT = 700.0


@dataclass(frozen=True)
class Interval:
    """A confidence interval in the unit of its samples; `coverage` is the probability it actually reaches (0 to 1).

    `units` is how many independent units it rests on, where it does on units.
    """

    low: float
    high: float
    coverage: float
    units: int = 0

    def holds(self, value: float) -> bool:
        """Whether `value` lies inside, ends included."""
        return self.low <= value <= self.high


def median(samples: Samples) -> float:
    """Middle value, or the mean of the two middle values. Raises ValueError without samples."""
    return float(np.median(_checked(samples)))


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


def units(runs: Runs) -> np.ndarray:
    """One time for each unit that may be taken for independent, in the unit of the samples.

    Samples depend on their neighbours, repetitions less, processes and builds least. So of LEAST_RUNS runs or more the
    units are the runs, each the mean of its repetitions' medians; of fewer the medians of their repetitions; where a
    run has a single one the medians of up to SEGMENTS contiguous segments, which stand for that stretch of time alone.
    Kalibera & Jones 2013 (Rigorous benchmarking in reasonable time, ISMM, 63-74): the spread of the highest level holds
    that of those below. Raises ValueError without samples.
    """
    if len(runs) >= LEAST_RUNS:
        return np.array([np.mean([median(repetition) for repetition in repetitions]) for repetitions in runs])
    return np.array([median(part) for repetitions in runs for part in _parts(repetitions)])


def _parts(repetitions: Repetitions) -> Repetitions:
    """The repetitions of a run, or the segments of a single one."""
    if len(repetitions) > 1:
        return repetitions
    (samples,) = map(_checked, repetitions)
    return np.array_split(samples, max(1, min(SEGMENTS, len(samples) // 2)))


def time_interval(times: np.ndarray, confidence: float = 0.95) -> Interval:
    """Interval of the geometric mean of units: Student's t, which few units need, on their logarithms, as for ratios.

    It stands for the time that another unit is to be expected to take. One unit is its own interval, of no coverage;
    where a unit is zero the interval is their range, likewise.
    """
    if len(times) < 2 or not times.all():
        return Interval(float(times.min()), float(times.max()), 0.0, len(times))
    logarithms = np.log(times)
    half = _t(confidence, len(times)) * float(logarithms.std(ddof=1)) / math.sqrt(len(times))
    low, high = np.exp(np.clip((logarithms.mean() - half, logarithms.mean() + half), -_EXPONENT, _EXPONENT))
    return Interval(float(low), float(high), confidence, len(times))


def ratio(candidate: np.ndarray, baseline: np.ndarray) -> float:
    """Candidate over baseline, above 1 is slower: of the geometric means of their units; infinity over a zero."""
    if not baseline.all():
        return math.inf
    return float(np.exp(np.log(candidate).mean() - np.log(baseline).mean())) if candidate.all() else 0.0


def ratio_interval(
    candidate: np.ndarray, baseline: np.ndarray, confidence: float = 0.95, paired: bool = False
) -> Interval:
    """Interval of `ratio`: Welch's t on the units' logarithms, so that either side may spread as it does; Student's on
    their differences where units of both sides are `paired`.

    Without bounds (0 to infinity) where a side has one unit, or a time of zero.
    """
    count = min(len(candidate), len(baseline))
    if count < 2 or not candidate.all() or not baseline.all():
        return Interval(0.0, math.inf, confidence, count)
    above, below = np.log(candidate), np.log(baseline)
    spread = (above - below).std() if paired else above.std() + below.std()
    if spread < 1e-9:
        # Without any spread Student's t is 0 / 0.
        exact = ratio(candidate, baseline)
        return Interval(exact, exact, confidence, count)
    test = scipy_stats.ttest_rel(above, below) if paired else scipy_stats.ttest_ind(above, below, equal_var=False)
    low, high = test.confidence_interval(confidence)
    return Interval(float(np.exp(low)), float(np.exp(high)), confidence, count)


def paired_ratio(candidate: Repetitions, baseline: Repetitions, confidence: float = 0.95) -> tuple[float, Interval]:
    """Ratio of times that were taken in turn, and its interval: t on the logarithms of the rounds' own ratios.

    Each entry holds the samples of one round. What changed from round to round changed for both, and so does not widen
    the interval. Neighbouring rounds are joined to at most ROUND_UNITS units, since a state may last for many. Raises
    ValueError for rounds that do not match.
    """
    if len(candidate) != len(baseline) or not candidate:
        raise ValueError(f"rounds should match, but there are {len(candidate)} and {len(baseline)}")
    above, below = (
        np.array([median(np.concatenate(part)) for part in _joined([np.asarray(one) for one in rounds], ROUND_UNITS)])
        for rounds in (candidate, baseline)
    )
    return ratio(above, below), ratio_interval(above, below, confidence, paired=True)


def _joined(parts: list[np.ndarray], most: int) -> list[list[np.ndarray]]:
    """The parts in at most so many groups of neighbours."""
    edges = np.linspace(0, len(parts), min(most, len(parts)) + 1).round().astype(int)
    return [parts[a:b] for a, b in itertools.pairwise(edges)]


def noise(baseline: np.ndarray, of_runs: bool, confidence: float = 0.99) -> float:
    """How far, as a fraction, the same code may lie from a baseline by what the baseline's units show.

    Where they are whole runs: where one more is to be expected, t s sqrt(1 + 1 / n) of their logarithms (a prediction
    interval, Hahn & Meeker 1991, Statistical Intervals, section 4.7). Repetitions of a run say nothing of other runs:
    then how well their mean is known, t s / sqrt(n). Infinity for one unit, or a time of zero.
    """
    if len(baseline) < 2 or not baseline.all():
        return math.inf
    spread = float(np.log(baseline).std(ddof=1)) * math.sqrt(of_runs + 1 / len(baseline))
    return float(np.expm1(_t(confidence, len(baseline)) * spread))


def rise(times: np.ndarray, significance: float = 0.05) -> float:
    """By what fraction times climb from the first to the last unit of a run, fitted; 0 where they need not be climbing.

    Theil's slope of the units (1950), where Kendall's one-sided test (1938) finds an order in them.
    """
    order = np.arange(len(times))
    # Kendall's test has no answer for times that are all the same.
    if len(times) < 3 or times.min() == times.max() or not times.min():
        return 0.0
    slope, intercept, *_ = scipy_stats.theilslopes(times, order)
    if slope <= 0 or scipy_stats.kendalltau(order, times, alternative="greater").pvalue > significance:
        return 0.0
    return float(slope * (len(times) - 1) / intercept) if intercept > 0 else math.inf


def more_above(candidate: Repetitions, baseline: Runs, threshold: float) -> float:
    """One-sided p-value of so many of a candidate's samples above `threshold`, were its share no larger than before.

    Fisher's exact test (1922). 1 where fewer than half of the candidate's repetitions (segments, of a single one) have
    any such sample: one hiccup slows many neighbours, which that test takes for independent.
    """
    parts = [_checked(repetition) for repetition in candidate]
    if len(parts) == 1:
        parts = np.array_split(parts[0], min(SEGMENTS, len(parts[0])))
    slow = [int((part > threshold).sum()) for part in parts]
    if 2 * sum(count > 0 for count in slow) < len(slow):
        return 1.0
    before = _checked([time for repetitions in baseline for repetition in repetitions for time in repetition])
    above, total = int((before > threshold).sum()), sum(map(len, parts))
    return float(scipy_stats.hypergeom.sf(sum(slow) - 1, total + len(before), sum(slow) + above, total))


def percentile(samples: Samples, percent: float) -> float:
    """The value that so many percent of the samples do not exceed, linearly interpolated between order statistics."""
    return float(np.percentile(_checked(samples), percent))


def slow_share(samples: Samples, usual: float) -> float:
    """The share (0 to 1) of samples that took longer than SLOW_FACTOR times `usual`."""
    return float((_checked(samples) > SLOW_FACTOR * usual).mean())


def changes(values: Samples, least: float) -> tuple[int, ...]:
    """Where the level of a series changes: the index of the first value of each new level.

    The segments with the least sum of squares around their means, each change costing 2 s^2 log(n) (Yao 1988,
    Statistics & Probability Letters 6, 181; found exactly as by Jackson et al. 2005, IEEE Signal Processing Letters 12,
    105). s is the deviation of neighbours (as in `quick_variation`), but at least `least`, in the unit of the values.
    """
    series = _checked(values)
    deviation = float(np.median(np.abs(np.diff(series)))) / (math.sqrt(2) * 0.6745) if len(series) > 1 else 0.0
    cost = 2 * max(deviation, least) ** 2 * math.log(max(2, len(series)))
    best, begins = [-cost], [0]
    for end in range(1, len(series) + 1):
        totals = [best[begin] + cost + float(series[begin:end].var()) * (end - begin) for begin in range(end)]
        begins.append(int(np.argmin(totals)))
        best.append(min(totals))
    found, end = [], len(series)
    while end and begins[end]:
        end = begins[end]
        found.append(end)
    return tuple(reversed(found))


def _t(confidence: float, count: int) -> float:
    """Student's t that an interval of so many units reaches to either side, in standard errors."""
    return float(scipy_stats.t.ppf((1 + confidence) / 2, count - 1))


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
