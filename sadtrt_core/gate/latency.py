"""Judges one row's times against its baseline's: their level, their tail, and whether they climb through the run."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sadtrt_core import stats
from sadtrt_core.gate.limits import Limits, Thresholds
from sadtrt_core.gate.samples import (
    JudgedSamples,
    Problem,
    Repetitions,
    another_clock,
    another_speed,
    busy_host,
    fastest_of_all,
    judged_samples,
    noisy,
)
from sadtrt_core.gate.verdicts import UNJUDGED, Finding, Verdict
from sadtrt_core.records.measurements import Latency, Telemetry

SMALLEST_MS = 1e-6
"""Times below a nanosecond are none that any clock here could have measured."""
FEWEST_UNITS = 3
"""Of fewer repetitions no interval is worth anything."""
NAMES = {"device_ms": "device time", "host_ms": "host time"}


def latency_tests(candidate: Latency, baseline: Latency, limits: Limits) -> dict[str, float | None]:
    """The metrics that `latency_findings` judges, "device_ms" and "host_ms" as far as they are there and have a limit,
    with their smallest effects of interest in percent, None where their tails alone have a limit. Device times that
    include waiting for the host are judged by the host's limit.
    """
    both = candidate.device_ms is not None and baseline.device_ms is not None
    on_device, on_host = limits["slowdown_percent"], limits["host_slowdown_percent"]
    if on_device is not None and on_host is not None and candidate.launch_bound and baseline.launch_bound:
        on_device = max(on_device, on_host)
    effects = {
        "device_ms": on_device if both else None,
        "host_ms": on_host if both else limits["cpu_slowdown_percent"],
    }
    tails = {metric: both and tail_limits(metric, candidate.launch_bound, limits) != (None, None) for metric in effects}
    return {metric: effect for metric, effect in effects.items() if effect is not None or tails[metric]}


def tail_limits(metric: str, launch_bound: bool, limits: Limits) -> tuple[float | None, float | None]:
    """The limits of a metric's 99th percentile and of its share of slow samples; where launch-bound, the host's."""
    whose = "" if metric == "device_ms" and not launch_bound else "host_"
    return limits[f"{whose}p99_slowdown_percent"], limits[f"{whose}slow_samples_points"]


def count_tails(candidate: Latency, baseline: Latency, limits: Limits) -> int:
    """How many tests of tails `latency_findings` may make of a row."""
    if candidate.device_ms is None or baseline.device_ms is None:
        return 0
    metrics = latency_tests(candidate, baseline, limits)
    found = [limit for metric in metrics for limit in tail_limits(metric, candidate.launch_bound, limits)]
    return sum(limit is not None for limit in found)


def latency_findings(
    candidate: Latency,
    baselines: Sequence[Latency],
    limits: Limits,
    thresholds: Thresholds,
    significance: float,
    hosts: tuple[Telemetry | None, Telemetry | None],
    moved: Problem | None,
) -> list[Finding]:
    """Findings on device and host time, by one or several runs of the baseline.

    `hosts` is how the host was in the candidate's run and in the baseline's, `moved` that its processors are others.
    Device times are not comparable where the GPU's clock never came near the other run's. Host times are not judged
    where the host is another, was busy or they vary too much; without device times the row is then not comparable.
    Without device times, host times are judged by their fastest quarter, and only where the reference loop was as fast
    in both runs and most samples came within half the smallest effect of interest of the fastest; their tails are the
    machine's, and not judged.

    Rows with repetitions in one run only are not comparable, nor are rows that are launch-bound in one run only, or in
    both where the host was busy. bench/README.md says when a level, a tail or a climb is slower.
    """
    baseline = baselines[0]
    if (candidate.device_ms is None) != (baseline.device_ms is None):
        without = "the candidate" if candidate.device_ms is None else "the baseline"
        return [Finding("device_ms", "not comparable", "clock_differs", f"{without} has no device times")]
    on_device = candidate.device_ms is not None
    now, before = (max(1, len(latency.visits)) for latency in (candidate, baseline))
    if (now > 1) != (before > 1):
        sentence = f"visited {before} times in the baseline and {now} times in this run: measure the shorter one again"
        return [Finding("device_ms" if on_device else "host_ms", "not comparable", "visits_differ", sentence)]
    findings = []
    beside = on_device and limits["slowdown_percent"] is not None
    busy = busy_host(*hosts, thresholds.busy_percent)
    for metric, effect in latency_tests(candidate, baseline, limits).items():
        every, problem = judged_samples(candidate, baselines, metric), None
        samples = every
        if metric == "device_ms":
            problem = _launch_bound_differs(candidate, baseline) or another_clock(*hosts)
            problem = problem or (busy if candidate.launch_bound else None)
        elif on_device:
            problem = moved or busy
        else:
            assert effect is not None  # Without device times no tail is judged.
            half = effect / 100 / 2
            new, *old = fastest_of_all([every.all_new, *(JudgedSamples(run, ()).all_new for run in every.old)])
            samples = JudgedSamples((new,), tuple((run,) for run in old), f"{every.remark} (fastest quarter)")
            noise = [found for run in (new, *old) if (found := noisy(run, half)) is not None]
            problem = busy or another_speed(*hosts, half) or (noise[0] if noise else None)
        problem = problem or _unfit(samples, every, math.inf if effect is None else effect, thresholds)
        if problem is not None:
            excused = beside and metric == "host_ms" and problem[0] in UNJUDGED
            findings.append(_unjudged(metric, *problem, instead=excused))
            continue
        levels = [] if effect is None else [_judge_level(metric, samples, every.new, effect)]
        findings += levels
        if on_device and not any(level.verdict == "slower" for level in levels):
            findings += tail_findings(metric, every, limits, effect or 0.0, significance, candidate.launch_bound)
    return findings


def _launch_bound_differs(candidate: Latency, baseline: Latency) -> Problem | None:
    if candidate.launch_bound == baseline.launch_bound:
        return None
    which = "this run" if candidate.launch_bound else "the baseline"
    return "pace_differs", f"most device times of {which} include waiting for the host, the other's do not"


def _unfit(samples: JudgedSamples, every: JudgedSamples, effect: float, thresholds: Thresholds) -> Problem | None:
    """Why these samples can judge nothing: there are none to speak of, or the baseline itself is too noisy or climbs.

    What a candidate varies by is no excuse for it, and is judged.
    """
    if min(stats.median(samples.all_old), stats.median(samples.all_new)) < SMALLEST_MS:
        return "zero_times", "the median time of one run is zero"
    if min(len(samples.new_units), len(samples.old_units)) < FEWEST_UNITS:
        return "too_few_samples", f"{samples.words} are too few to show any change: take more"
    noise = 100 * stats.noise(samples.old_units, samples.of_runs)
    if noise > thresholds.too_noisy_percent:
        return "too_noisy", f"the baseline's own variation could hide {noise:.0f}%"
    climb = 100 * max(stats.rise(stats.units((run,))) for run in every.old)
    if climb > effect:
        return "baseline_climbs", f"the baseline's times climb by {climb:.0f}% through its run"
    return None


def _unjudged(metric: str, reason: str, why: str, instead: bool) -> Finding:
    sentence = f"{why}: {NAMES[metric]} was not judged" + ("" if instead else "; measure on a quiet machine")
    return Finding(metric, "same" if instead else "not comparable", reason, sentence)


def _judge_level(metric: str, samples: JudgedSamples, run: Repetitions, effect: float) -> Finding:
    """The change of the level. `run` are all samples of the candidate, of which `samples` may hold the fastest."""
    new, old = samples.new_units, samples.old_units
    before, now = stats.median(samples.all_old), stats.median(samples.all_new)
    ratio, interval = stats.ratio(new, old), stats.ratio_interval(new, old, 0.99)
    limit = max(effect, 100 * stats.noise(old, samples.of_runs))
    change, climb = 100 * (ratio - 1), 100 * stats.rise(new if run is samples.new else stats.units((run,)))
    shown = f"{NAMES[metric]} {before:.4g} to {now:.4g} ms ({change:+.1f}%)"

    verdict: Verdict = "same"
    if ratio > 1 + limit / 100 and interval.low > 1:
        verdict, reason = "slower", "slower"
        shown += f", limit {limit:.1f}%"
    elif climb > effect:
        verdict, reason = "not comparable", "climbs"
        shown += f", and times climb by {climb:.0f}% through this run: measure it again"
    elif ratio > 1 + limit / 100:
        verdict, reason = "not comparable", "candidate_noisy"
        shown += ", inside the noise of this run's own repetitions: measure it again"
    elif ratio < 1 / (1 + limit / 100) and interval.high < 1:
        verdict, reason = "faster", "faster"
    elif abs(change) > effect:
        reason = "within_noise"
        shown += f", inside the baseline's noise of {limit:.1f}%" if limit > effect else ", not significant"
    elif not interval.holds(1):
        reason = "below_effect"
        shown += f", below the limit of {effect:g}%"
    else:
        reason = "within_limit"
    return Finding(
        metric,
        verdict,
        reason,
        f"{shown}; {samples.words}{samples.remark}",
        baseline=before,
        candidate=now,
        change=change,
        limit=limit,
        low=_percent(interval.low),
        high=_percent(interval.high),
    )


def tail_findings(
    metric: str, samples: JudgedSamples, limits: Limits, effect: float, significance: float, launch_bound: bool
) -> list[Finding]:
    """Findings on the 99th percentile and on the share of slow samples, each slower where it exceeds its limit and so
    many more samples of most repetitions are above what the baseline shows that `significance` excludes chance.

    What a level may change by (`effect`, in percent) its 99th percentile may too.
    """
    new, old = samples.all_new, samples.all_old
    longest, slow_points = tail_limits(metric, launch_bound, limits)
    findings = []
    name = NAMES[metric]
    if longest is not None:
        limit = max(longest, effect)
        before, now = stats.percentile(old, 99), stats.percentile(new, 99)
        change = 100 * (now / before - 1)
        p_value = stats.more_above(samples.new, samples.old, before * (1 + limit / 200))
        sentence = f"{name}'s 99th percentile {before:.4g} to {now:.4g} ms ({change:+.1f}%), limit {limit:g}%"
        slow = change > limit and p_value < significance
        findings.append(_tail(f"{metric}_p99", slow, "slow_tail", sentence, (before, now, change, limit), p_value))
    if slow_points is not None:
        usual = stats.median(old)
        before, now = (100 * stats.slow_share(times, usual) for times in (old, new))
        p_value = stats.more_above(samples.new, samples.old, stats.SLOW_FACTOR * usual)
        sentence = (
            f"{before:.1f}% to {now:.1f}% of samples took more than {stats.SLOW_FACTOR:g} times the baseline's median "
            f"{name}, limit {slow_points:g} points more"
        )
        slow = now - before > slow_points and p_value < significance
        figures = (before, now, now - before, slow_points)
        findings.append(_tail(f"{metric}_slow", slow, "slow_samples", sentence, figures, p_value))
    return findings


def _tail(
    metric: str, slow: bool, reason: str, sentence: str, figures: tuple[float, float, float, float], p_value: float
) -> Finding:
    verdict: Verdict = "slower" if slow else "same"
    return Finding(metric, verdict, reason if slow else "within_limit", sentence, *figures, p_value=p_value)


def _percent(ratio: float) -> float | None:
    # A run with zeros among its times can have no finite ratio.
    return 100 * (ratio - 1) if math.isfinite(ratio) else None
