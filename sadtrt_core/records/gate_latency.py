"""Judges one row's times against its baseline's: slower only where rank test, effect, interval and noise all agree."""

from __future__ import annotations

import math

from sadtrt_core.measure import stats
from sadtrt_core.records.schema import Latency
from sadtrt_core.records.thresholds import Limits, Thresholds
from sadtrt_core.records.verdicts import Finding, Verdict

NOISE_FACTOR = 3.0
"""How many standard deviations of slow variation a change must exceed, beside the smallest effect of interest."""


def latency_tests(candidate: Latency, baseline: Latency, limits: Limits) -> list[str]:
    """Names of the metrics that `latency_findings` puts to a rank test: "device_ms", "host_ms", both or neither."""
    tests = []
    both = candidate.device_ms is not None and baseline.device_ms is not None
    if both and limits.slowdown_percent is not None:
        tests.append("device_ms")
    if limits.host_slowdown_percent is not None:
        tests.append("host_ms")
    return tests


def latency_findings(
    candidate: Latency,
    baseline: Latency,
    limits: Limits,
    thresholds: Thresholds,
    significance: float,
    others_percent: float | None = None,
) -> list[Finding]:
    """Findings on device and host time.

    `others_percent` is what other processes took of the host's processors; above `thresholds.busy_percent` host times
    say more of them than of the code, and are not judged: the row is then not comparable unless its device times are.

    A row is slower where all four hold, so that it is neither an accident of few samples nor a change nobody wants to
    hear of nor a machine that was busy:
    - the ratio of medians exceeds the smallest effect of interest;
    - it exceeds NOISE_FACTOR standard deviations of the slow variation seen inside the two runs;
    - the one-sided rank test against the baseline lengthened by half the effect falls below `significance`, which the
      caller has divided by the number of tests;
    - the 99% bootstrap interval of the ratio lies above half the effect.
    Faster is the mirror image.
    """
    if (candidate.device_ms is None) != (baseline.device_ms is None):
        without = "the candidate" if candidate.device_ms is None else "the baseline"
        return [Finding("device_ms", "not comparable", "clock_differs", f"{without} has no device times")]
    findings = []
    tests = latency_tests(candidate, baseline, limits)
    for metric in tests:
        effect = limits.slowdown_percent if metric == "device_ms" else limits.host_slowdown_percent
        assert effect is not None  # latency_tests names only metrics with a limit.
        if metric == "host_ms" and others_percent is not None and others_percent > thresholds.busy_percent:
            findings.append(_busy(others_percent, thresholds, instead="device_ms" in tests))
            continue
        new, old, remark = _judged_samples(candidate, baseline, metric)
        findings.append(_judge(metric, new, old, effect, thresholds, significance, remark))
    return findings


def _busy(others_percent: float, thresholds: Thresholds, instead: bool) -> Finding:
    sentence = (
        f"other processes took {others_percent:.0f}% of the processors, more than {thresholds.busy_percent:g}%: "
        "host time was not judged" + ("" if instead else "; measure on a quiet machine")
    )
    return Finding("host_ms", "same" if instead else "not comparable", "machine_busy", sentence)


def _judge(
    metric: str,
    new: tuple[float, ...],
    old: tuple[float, ...],
    effect: float,
    thresholds: Thresholds,
    significance: float,
    remark: str,
) -> Finding:
    name = "device time" if metric == "device_ms" else "host time"
    if not stats.median(old) or not stats.median(new):
        return Finding(metric, "not comparable", "zero_times", f"the median {name} of one run is zero")
    margin = effect / 100 / 2
    compared = stats.compare(new, old, margin)
    noise = 100 * NOISE_FACTOR * compared.slow_noise
    limit = max(effect, noise)
    change = 100 * (compared.ratio - 1)
    slower = compared.p_slower < significance and compared.interval.low > 1 + margin
    faster = compared.p_faster < significance and compared.interval.high < 1 / (1 + margin)
    shown = f"{name} {stats.median(old):.4g} to {stats.median(new):.4g} ms ({change:+.1f}%)"

    verdict: Verdict = "same"
    if stats.smallest_p(len(new), len(old)) >= significance:
        verdict, reason = "not comparable", "too_few_samples"
        shown = f"{len(new)} and {len(old)} samples of {name} are too few to show any change: take more"
    elif noise > thresholds.too_noisy_percent:
        verdict, reason = "not comparable", "too_noisy"
        shown += f", but its own slow variation could hide {noise:.0f}%: measure on a quieter machine"
    elif slower and compared.ratio > 1 + limit / 100:
        verdict, reason = "slower", "slower"
        shown += f", limit {limit:.1f}%"
    elif faster and compared.ratio < 1 / (1 + limit / 100):
        verdict, reason = "faster", "faster"
    elif abs(change) > effect:
        reason = "within_noise"
        shown += f", inside the noise of {noise:.1f}%" if noise > effect else ", not significant"
    elif slower or faster:
        reason = "below_effect"
        shown += f", below the effect of interest of {effect:g}%"
    else:
        reason = "within_limit"
    return Finding(
        metric,
        verdict,
        reason,
        shown + remark,
        baseline=stats.median(old),
        candidate=stats.median(new),
        change=change,
        limit=limit,
        low=_percent(compared.interval.low),
        high=_percent(compared.interval.high),
        p_value=compared.p_slower,
    )


def _percent(ratio: float) -> float | None:
    # A resample of a run with zeros among its times can have no finite ratio.
    return 100 * (ratio - 1) if math.isfinite(ratio) else None


def _judged_samples(
    candidate: Latency, baseline: Latency, metric: str
) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    """The samples of both to judge by, and a remark: undisturbed ones where those are at least half of each run."""
    quiet = [_undisturbed(latency, metric) for latency in (candidate, baseline)]
    every = [getattr(latency, metric) for latency in (candidate, baseline)]
    if all(2 * len(some) >= len(whole) for some, whole in zip(quiet, every, strict=True)):
        left_out = sum(map(len, every)) - sum(map(len, quiet))
        return quiet[0], quiet[1], f" ({left_out} disturbed samples left out)" if left_out else ""
    return every[0], every[1], " (most samples were disturbed by clock drops or throttling; all are judged)"


def _undisturbed(latency: Latency, metric: str) -> tuple[float, ...]:
    marked = set(latency.disturbed)
    return tuple(sample for index, sample in enumerate(getattr(latency, metric)) if index not in marked)
