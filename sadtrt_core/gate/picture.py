"""Judges one row's drift, sizes and energy against its baseline's by plain limits."""

from __future__ import annotations

import math

from sadtrt_core.gate.limits import Limits
from sadtrt_core.gate.verdicts import Finding, Verdict
from sadtrt_core.records.schema import Drift, Record, Resources

SLACK_MB = {"engine_mb": 0.5, "gpu_memory_mb": 32.0}
"""Growth that is never reported, since a few percent of a small number is an allocator's granularity."""


def non_finite_findings(drift: Drift) -> list[Finding]:
    """One finding if any frame holds a NaN or infinity, which no baseline excuses; else none."""
    if not drift.has_non_finite:
        return []
    count = sum(drift.non_finite)
    sentence = f"{count} of {len(drift.non_finite)} frames hold NaN or infinity, frame {drift.worst_frame} first"
    return [Finding("non_finite", "worse picture", "non_finite", sentence, candidate=float(count), limit=0.0)]


def drift_findings(candidate: Drift, baseline: Drift, limits: Limits) -> list[Finding]:
    """Findings on PSNR, SSIM, largest difference and flicker. Only NaN is judged where drift means nothing."""
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
    enough = math.inf if limits.psnr_enough_db is None else limits.psnr_enough_db
    findings = [
        _fall("psnr_min", "psnr_min_drop", candidate.psnr_min, baseline.psnr_min, limits.psnr_min_drop_db, enough),
        _fall(
            "psnr_mean", "psnr_mean_drop", _mean(candidate, enough), _mean(baseline, enough), limits.psnr_mean_drop_db
        ),
        _fall("ssim_min", "ssim_drop", candidate.ssim_min, baseline.ssim_min, limits.ssim_drop),
        # A rise of the largest difference is a fall of its negative.
        _fall("max_lsb", "lsb_rise", candidate.max_lsb_worst, baseline.max_lsb_worst, limits.lsb_rise, rising=True),
    ]
    if limits.flicker_drop_db is not None and baseline.flicker_min is not None:
        if candidate.flicker_min is None:
            findings.append(Finding("flicker_db", "missing", "part_missing", "flicker was not measured"))
        else:
            new, old = candidate.flicker_min, baseline.flicker_min
            findings.append(_fall("flicker_db", "flicker_drop", new, old, limits.flicker_drop_db, enough))
    return [finding for finding in findings if finding is not None]


def resource_findings(candidate: Record, baseline: Record, limits: Limits) -> list[Finding]:
    """Findings on engine size, GPU memory and energy, each where the baseline has it and its limit is not None."""
    nothing = Resources(None, None, None)
    new, old = candidate.resources or nothing, baseline.resources or nothing
    findings = []
    for metric, reason, limit in (
        ("engine_mb", "engine_growth", limits.engine_growth_percent),
        ("gpu_memory_mb", "memory_growth", limits.memory_growth_percent),
        ("energy_mj_per_frame", "energy_growth", limits.energy_growth_percent),
    ):
        before, after = getattr(old, metric), getattr(new, metric)
        if limit is None or before is None:
            continue
        if after is None:
            findings.append(Finding(metric, "missing", "part_missing", f"{metric} was not measured", baseline=before))
            continue
        growth = 100 * (after / before - 1) if before else (math.inf if after else 0.0)
        grew = growth > limit and after - before > SLACK_MB.get(metric, 0.0)
        verdict: Verdict = "heavier" if grew else "same"
        change = growth if math.isfinite(growth) else None
        sentence = f"{metric} {before:.4g} to {after:.4g} ({growth:+.1f}%, limit {limit:g}%)"
        findings.append(
            Finding(metric, verdict, reason if grew else "within_limit", sentence, before, after, change, limit)
        )
    return findings


def _fall(
    metric: str,
    reason: str,
    new: float,
    old: float,
    limit: float | None,
    enough: float = math.inf,
    rising: bool = False,
) -> Finding | None:
    if limit is None:
        return None
    change = new - old if rising else min(old, enough) - min(new, enough)
    # Differences of decimal figures such as 40.5 - 40.0 are exact only to rounding.
    worse = change > limit + 1e-9
    sentence = f"{metric} {old:.4g} to {new:.4g} (limit {limit:g})"
    verdict: Verdict = "worse picture" if worse else "same"
    return Finding(metric, verdict, reason if worse else "within_limit", sentence, old, new, change, limit)


def _mean(drift: Drift, enough: float) -> float:
    """Mean PSNR in dB with each frame capped at `enough`, so that one nearly identical frame cannot move the mean."""
    if math.isinf(enough):
        return drift.psnr_mean
    return math.fsum(enough if value is None else min(value, enough) for value in drift.psnr_db) / len(drift.psnr_db)
