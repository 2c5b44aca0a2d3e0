"""Judges one row's times against its baseline's: slower only where rank test, effect, interval and noise all agree."""

from __future__ import annotations

import math

from sadtrt_core.measure import stats
from sadtrt_core.records.gate_host import another_speed, busy_host, fastest_of_both, restless
from sadtrt_core.records.schema import Latency, Telemetry
from sadtrt_core.records.thresholds import Limits, Thresholds
from sadtrt_core.records.verdicts import Finding, Verdict

NOISE_FACTOR = 3.0
"""How many standard deviations of slow variation a change must exceed, beside the smallest effect of interest."""


def latency_tests(candidate: Latency, baseline: Latency, limits: Limits) -> dict[str, float]:
    """The metrics that `latency_findings` puts to a rank test, "device_ms" and "host_ms" as far as they are there and
    have a limit, with their smallest effects of interest in percent. Device times that include waiting for the host are
    held against the host's limit.
    """
    both = candidate.device_ms is not None and baseline.device_ms is not None
    on_device, on_host = limits.slowdown_percent, limits.host_slowdown_percent
    if on_device is not None and on_host is not None and (candidate.at_host_pace or baseline.at_host_pace):
        on_device = max(on_device, on_host)
    effects = {
        "device_ms": on_device if both else None,
        "host_ms": on_host if both else limits.cpu_slowdown_percent,
    }
    return {metric: effect for metric, effect in effects.items() if effect is not None}


def latency_findings(
    candidate: Latency,
    baseline: Latency,
    limits: Limits,
    thresholds: Thresholds,
    significance: float,
    hosts: tuple[Telemetry | None, Telemetry | None] = (None, None),
) -> list[Finding]:
    """Findings on device and host time.

    `hosts` is how the host was in the candidate's run and in the baseline's (gate_host.py). Where it was busy, host
    times are not judged; where they are all there is, the row is then not comparable. Without device times, host times
    are judged by their fastest quarter, and only where a fixed computation was as fast in both runs and most samples
    came close to the fastest, to within half the smallest effect of interest.

    The samples of all visits to a row are judged together, as its median is published.

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
    on_device = candidate.device_ms is not None
    for metric, effect in latency_tests(candidate, baseline, limits).items():
        new, old, remark = _judged_samples(candidate, baseline, metric)
        problem = None
        if metric == "host_ms":
            problem = busy_host(*hosts, thresholds.busy_percent)
            if not on_device:
                half = effect / 100 / 2
                (new, old), remark = fastest_of_both(new, old), f"{remark} (fastest quarter)"
                problem = problem or another_speed(*hosts, half) or restless(new, half) or restless(old, half)
        if problem is not None:
            findings.append(_unjudged(*problem, instead=on_device and limits.slowdown_percent is not None))
            continue
        findings.append(_judge(metric, new, old, effect, thresholds, significance, remark))
    return findings


def _unjudged(reason: str, why: str, instead: bool) -> Finding:
    sentence = f"{why}: host time was not judged" + ("" if instead else "; measure on a quiet machine")
    return Finding("host_ms", "same" if instead else "not comparable", reason, sentence)


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
    runs = (candidate, baseline)
    every = [tuple(range(len(getattr(latency, metric)))) for latency in runs]
    late = [latency.late if metric == "device_ms" else () for latency in runs]
    marked = [frozenset((*latency.disturbed, *waited)) for latency, waited in zip(runs, late, strict=True)]
    kept = [tuple(i for i in whole if i not in some) for whole, some in zip(every, marked, strict=True)]
    remark = ""
    if any(2 * len(some) < len(whole) for some, whole in zip(kept, every, strict=True)):
        kept, remark = every, " (most samples were disturbed by clock drops, throttling or a slow host; all are judged)"
    elif left_out := sum(map(len, every)) - sum(map(len, kept)):
        remark = f" ({left_out} disturbed samples left out)"
    new, old = (tuple(getattr(run, metric)[i] for i in some) for run, some in zip(runs, kept, strict=True))
    return new, old, remark
