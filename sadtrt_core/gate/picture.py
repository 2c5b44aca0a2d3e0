"""Judges one row's metrics that have a plain limit, such as drift, sizes and energy, against its baseline's."""

from __future__ import annotations

import math

from sadtrt_core.gate.limits import Limits
from sadtrt_core.gate.verdicts import Finding, Verdict
from sadtrt_core.records.schema import Drift, Record
from sadtrt_core.report.metrics import METRICS, Limit, Metric, Part


def non_finite_findings(drift: Drift) -> list[Finding]:
    """One finding if any frame holds a NaN or infinity, which no baseline excuses; else none."""
    if not drift.has_non_finite:
        return []
    count = sum(drift.non_finite)
    sentence = f"{count} of {len(drift.non_finite)} frames hold NaN or infinity, frame {drift.worst_frame} first"
    return [Finding("non_finite", "worse picture", "non_finite", sentence, candidate=float(count), limit=0.0)]


def drift_findings(new: Record, old: Record, limits: Limits) -> list[Finding]:
    """Findings on PSNR, SSIM, largest difference and flicker. Only NaN is judged where drift means nothing."""
    candidate, baseline = new.drift, old.drift
    if candidate is None or baseline is None:
        return non_finite_findings(candidate) if candidate else []
    if broken := non_finite_findings(candidate):
        return broken
    if candidate.reference != baseline.reference:
        sentence = f"drift was measured against {candidate.reference}, the baseline's against {baseline.reference}"
        return [Finding("drift", "not comparable", "reference_differs", sentence)]
    if len(candidate.psnr_db) != len(baseline.psnr_db):
        sentence = f"drift has {len(candidate.psnr_db)} frames, the baseline's {len(baseline.psnr_db)}"
        return [Finding("drift", "not comparable", "frames_differ", sentence)]
    if not (candidate.meaningful and baseline.meaningful):
        return [Finding("drift", "same", "not_meaningful", "drift under seeded weights is not judged")]
    if baseline.has_non_finite:
        return [Finding("drift", "same", "baseline_non_finite", "the baseline's frames held NaN, these do not")]
    return limit_findings(new, old, limits, ("drift",))


def limit_findings(candidate: Record, baseline: Record, limits: Limits, parts: tuple[Part, ...]) -> list[Finding]:
    """Findings on the metrics of these parts that have a plain limit, each where the baseline has the figure."""
    findings = []
    for metric in METRICS.values():
        how = metric.limit
        if how is None or metric.part not in parts or (limit := limits[how.key]) is None:
            continue
        name = how.name or metric.name
        old, new = (_judged(metric, how, record, limits) for record in (baseline, candidate))
        if old is None:
            continue
        if new is None:
            findings.append(Finding(name, "missing", "part_missing", f"{name} was not measured", baseline=old))
            continue
        change = _change(metric, how, new, old, limits)
        # Differences of decimal figures such as 40.5 - 40.0 are exact only to rounding.
        worse = change > limit + (0 if how.percent else 1e-9) and abs(new - old) > how.slack
        verdict: Verdict = how.verdict if worse else "same"
        reason = how.reason if worse else "within_limit"
        words = f"{change:+.1f}%, limit {limit:g}%" if how.percent else f"limit {limit:g}"
        sentence = f"{name} {old:.4g} to {new:.4g} ({words})"
        known = change if math.isfinite(change) else None
        findings.append(Finding(name, verdict, reason, sentence, old, new, known, limit))
    return findings


def _judged(metric: Metric, how: Limit, record: Record, limits: Limits) -> float | None:
    if getattr(record, metric.part) is None:
        return None
    value = metric.value(record, None) if how.value is None else how.value(record, limits)
    return None if value is None else value  # type: ignore[return-value]  # A limit is for a number.


def _change(metric: Metric, how: Limit, new: float, old: float, limits: Limits) -> float:
    """By how much `new` is worse than `old`: percent of `old`, or the difference."""
    enough = None if how.capped is None else limits[how.capped]
    if enough is not None:
        new, old = min(new, enough), min(old, enough)
    if how.percent:
        growth = 100 * (new / old - 1) if old else (math.inf if new else 0.0)
        return growth if metric.better == "lower" else -growth
    return new - old if metric.better == "lower" else old - new
