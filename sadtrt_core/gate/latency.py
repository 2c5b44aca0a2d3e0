"""Judges one row's times against its baseline's: slower only where rank test, effect, interval and noise all agree."""

from __future__ import annotations

import dataclasses
import math

from sadtrt_core import stats
from sadtrt_core.gate.limits import Limits, Thresholds
from sadtrt_core.gate.samples import (
    JudgedSamples,
    Problem,
    another_clock,
    another_host,
    another_speed,
    busy_host,
    fastest_of_both,
    judged_samples,
    noisy,
)
from sadtrt_core.gate.verdicts import Finding, Verdict
from sadtrt_core.records.measurements import Latency, Telemetry

SMALLEST_MS = 1e-6
"""Times below a nanosecond are none that any clock here could have measured."""
NOISE_FACTOR = 3.0
"""How many standard deviations of slow variation a change must exceed, beside the smallest effect of interest."""


def latency_tests(candidate: Latency, baseline: Latency, limits: Limits) -> dict[str, float]:
    """The metrics that `latency_findings` puts to a rank test, "device_ms" and "host_ms" as far as they are there and
    have a limit, with their smallest effects of interest in percent. Device times that include waiting for the host are
    judged by the host's limit.
    """
    both = candidate.device_ms is not None and baseline.device_ms is not None
    on_device, on_host = limits["slowdown_percent"], limits["host_slowdown_percent"]
    if on_device is not None and on_host is not None and candidate.launch_bound and baseline.launch_bound:
        on_device = max(on_device, on_host)
    effects = {
        "device_ms": on_device if both else None,
        "host_ms": on_host if both else limits["cpu_slowdown_percent"],
    }
    return {metric: effect for metric, effect in effects.items() if effect is not None}


def latency_findings(
    candidate: Latency,
    baseline: Latency,
    limits: Limits,
    thresholds: Thresholds,
    significance: float,
    hosts: tuple[Telemetry | None, Telemetry | None] = (None, None),
    processors: tuple[str, str] = ("", ""),
) -> list[Finding]:
    """Findings on device and host time.

    `hosts` is how the host was in the candidate's run and in the baseline's, `processors` what it has in the baseline's
    and in the candidate's. Device times are not comparable where the GPU's clock never came near the other run's. Host
    times are not judged where the host is another, was busy or they vary too much; without device times the row is
    then not comparable. Without device times, host times
    are judged by their fastest quarter, and only where the reference loop was as fast in both runs and most samples
    came within half the smallest effect of interest of the fastest.

    The samples of all repetitions are judged together. Rows with more repetitions in one run are not comparable, nor
    are rows that are launch-bound in one run only, or in both where the host was busy.

    A row is slower where all four are true; faster is the mirror image. Where the change is slower by the baseline's
    own noise and excused by the candidate's alone, the row is not comparable.
    - the ratio of medians exceeds the smallest effect of interest;
    - it exceeds NOISE_FACTOR standard deviations of the slow variation seen inside the two runs;
    - the one-sided rank test against the baseline lengthened by half the effect falls below `significance`, which the
      caller has divided by the number of tests;
    - the 99% bootstrap interval of the ratio lies above half the effect.
    """
    if (candidate.device_ms is None) != (baseline.device_ms is None):
        without = "the candidate" if candidate.device_ms is None else "the baseline"
        return [Finding("device_ms", "not comparable", "clock_differs", f"{without} has no device times")]
    on_device = candidate.device_ms is not None
    now, before = (max(1, len(latency.visits)) for latency in (candidate, baseline))
    if now != before:
        sentence = f"visited {before} times in the baseline and {now} times in this run: measure the shorter one again"
        return [Finding("device_ms" if on_device else "host_ms", "not comparable", "visits_differ", sentence)]
    findings = []
    beside = on_device and limits["slowdown_percent"] is not None
    busy = busy_host(*hosts, thresholds.busy_percent)
    for metric, effect in latency_tests(candidate, baseline, limits).items():
        samples, problem = judged_samples(candidate, baseline, metric), None
        if metric == "device_ms":
            problem = _launch_bound_differs(candidate, baseline) or another_clock(*hosts)
            problem = problem or (busy if candidate.launch_bound else None)
        elif on_device:
            problem = another_host(*processors) or busy
        else:
            half = effect / 100 / 2
            new, old = fastest_of_both(samples.all_new, samples.all_old)
            samples = JudgedSamples((new,), (old,), f"{samples.remark} (fastest quarter)")
            problem = busy or another_speed(*hosts, half) or noisy(new, half) or noisy(old, half)
        if problem is not None:
            findings.append(_unjudged(metric, *problem, instead=beside and metric == "host_ms"))
            continue
        finding = _judge(metric, samples, effect, thresholds, significance)
        if beside and metric == "host_ms" and finding.reason == "too_noisy":
            finding = dataclasses.replace(finding, verdict="same", sentence=f"{finding.sentence}; not judged")
        findings.append(finding)
    return findings


def _launch_bound_differs(candidate: Latency, baseline: Latency) -> Problem | None:
    if candidate.launch_bound == baseline.launch_bound:
        return None
    which = "this run" if candidate.launch_bound else "the baseline"
    return "pace_differs", f"most device times of {which} include waiting for the host, the other's do not"


def _unjudged(metric: str, reason: str, why: str, instead: bool) -> Finding:
    name = "device time" if metric == "device_ms" else "host time"
    sentence = f"{why}: {name} was not judged" + ("" if instead else "; measure on a quiet machine")
    return Finding(metric, "same" if instead else "not comparable", reason, sentence)


def _judge(
    metric: str,
    samples: JudgedSamples,
    effect: float,
    thresholds: Thresholds,
    significance: float,
) -> Finding:
    new, old, remark = samples.all_new, samples.all_old, samples.remark
    name = "device time" if metric == "device_ms" else "host time"
    if min(stats.median(old), stats.median(new)) < SMALLEST_MS:
        return Finding(metric, "not comparable", "zero_times", f"the median {name} of one run is zero")
    margin = effect / 100 / 2
    compared = stats.compare(new, old, margin)
    noise = 100 * NOISE_FACTOR * samples.slow_noise(effect)
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
    elif slower and compared.ratio > 1 + max(effect, 100 * NOISE_FACTOR * samples.baseline_noise(effect)) / 100:
        verdict, reason = "not comparable", "candidate_noisy"
        shown += f", inside the noise of {noise:.1f}%, which is this run's own: measure it again"
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
