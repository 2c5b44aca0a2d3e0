"""Compares a run with a baseline, row by row, and answers with an exit code that is 0 only where all is well."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sadtrt_core.case import Case
from sadtrt_core.gate.comparable import another_host, other_measures, problems_of, remarks_of
from sadtrt_core.gate.latency import count_tails, latency_findings
from sadtrt_core.gate.limits import Limits, Thresholds
from sadtrt_core.gate.samples import Problem
from sadtrt_core.gate.verdicts import REGRESSIONS, ExitCode, Finding, GateResult, GateRow, Verdict, make_row
from sadtrt_core.records.measurements import Latency
from sadtrt_core.records.schema import Record, Run
from sadtrt_core.report.metrics import METRICS, Limit, Metric, Part


def compare_runs(candidate: Run, baseline: Run, thresholds: Thresholds, others: Sequence[Run] = ()) -> GateResult:
    """The gate's answer. `others` are further runs of the baseline's code, by which times vary from run to run.

    The answer depends on what the runs contain, not on the order of their records, and fails closed.

    Exit code 2 where the runs cannot be compared (another GPU, TensorRT, driver, weights, size or workload, an
    unfinished run, a baseline without measurements), else 1 for a regression, else 2 for rows that cannot be compared,
    else 3 for rows that the baseline measured and the candidate did not, else 0.
    """
    new = {record.key: record for record in candidate.records}
    old = {record.key: record for record in baseline.records}
    times = _baseline_times((baseline, *others))
    keys = sorted({*new, *old})
    remarks = (*remarks_of(candidate, baseline), *_idle_overrides(keys, thresholds))
    problems = problems_of(candidate, baseline)
    for other in others:
        found = [*problems_of(other, baseline), *other_measures(other, old)]
        problems += [(code, f"a further run of the baseline: {text}") for code, text in found]
    if problems:
        reason, sentence = problems[0]
        rows = tuple(make_row(key, [Finding("run", "not comparable", reason, sentence)]) for key in keys)
        return GateResult(ExitCode.NOT_COMPARABLE, rows, tuple(text for _, text in problems), remarks)
    # Each time has two tests, of its tail.
    significance = thresholds.false_alarm / max(1, _count_tests(new, old, thresholds))
    moved = another_host(candidate, baseline)
    rows = tuple(
        _judge_row(key, new.get(key), old.get(key), times.get(key, []), thresholds, significance, moved) for key in keys
    )
    code = _exit_code(rows)
    # Only a comparison of two figures has a limit.
    if code == ExitCode.PASS and all(finding.limit is None for row in rows for finding in row.findings):
        return GateResult(ExitCode.NOT_COMPARABLE, rows, ("not one figure was compared",), remarks)
    return GateResult(code, rows, (), remarks)


def _idle_overrides(keys: list[Case], thresholds: Thresholds) -> tuple[str, ...]:
    """The overrides that are for no row of either run: a name may be misspelt."""
    idle = [one for one in thresholds.overrides if not any(one.selects(key) for key in keys)]
    return tuple(f"an override of the limits is for {one}, and there is no such row" for one in idle)


def _baseline_times(runs: Sequence[Run]) -> dict[Case, list[Latency]]:
    """Every row's times, run by run; the baseline's own first, where it has them."""
    found: dict[Case, list[Latency]] = {}
    for run in runs:
        for record in run.records:
            if record.status == "measured" and record.latency is not None:
                found.setdefault(record.key, []).append(record.latency)
    return found


def _count_tests(new: dict[Case, Record], old: dict[Case, Record], thresholds: Thresholds) -> int:
    count = 0
    for key in new.keys() & old.keys():
        after, before = new[key].latency, old[key].latency
        if after is not None and before is not None:
            count += count_tails(after, before, _limits(old[key], thresholds))
    return count


def _limits(baseline: Record, thresholds: Thresholds) -> Limits:
    """The limits of a row, which may depend on how long it took in the baseline."""
    return thresholds.for_key(baseline.key, baseline.latency.device_ms_median if baseline.latency else None)


def _judge_row(
    key: Case,
    new: Record | None,
    old: Record | None,
    times: list[Latency],
    thresholds: Thresholds,
    significance: float,
    moved: Problem | None,
) -> GateRow:
    if old is None or old.status != "measured":
        return make_row(key, _without_baseline(new, old))
    if new is None:
        return make_row(key, [Finding("row", "missing", "absent", "measured in the baseline, absent from this run")])
    if (refusal := _refusal(new, old)) is not None:
        return make_row(key, [refusal, *non_finite_findings(new)])
    limits = _limits(old, thresholds)
    findings: list[Finding] = []
    for part in ("latency", "drift"):
        if getattr(old, part) is not None and getattr(new, part) is None:
            findings.append(Finding(part, "missing", "part_missing", f"{part} was measured in the baseline, not now"))
    if new.latency is not None and old.latency is not None:
        hosts = (new.telemetry, old.telemetry)
        findings += latency_findings(new.latency, times, limits, thresholds, significance, hosts, moved)
    findings += drift_findings(new, old, limits)
    findings += limit_findings(new, old, limits, ("latency", "resources", "telemetry"))
    return make_row(key, findings or [Finding("row", "same", "not_judged", "every limit of this row is switched off")])


def _refusal(new: Record, old: Record) -> Finding | None:
    """Why a record cannot be judged by one that was measured; None where it can."""
    if new.status != "measured":
        sentence = f"measured in the baseline, {new.status} in this run: {new.reason}"
        return Finding("row", "missing", new.status, sentence)
    if new.benchmark_version != old.benchmark_version:
        sentence = f"benchmark version {old.benchmark_version} in the baseline, {new.benchmark_version} now"
        return Finding("row", "not comparable", "benchmark_version", sentence)
    if new.calibration != old.calibration:
        was, now = (one.calibration or "of no known calibration" for one in (old, new))
        sentence = f"ranges {was} in the baseline, {now} now: measure both with one calibration"
        return Finding("row", "not comparable", "calibration", sentence)
    return None


def _without_baseline(new: Record | None, old: Record | None) -> list[Finding]:
    """Findings on a row that the baseline has not measured."""
    if new is None:
        assert old is not None  # A key comes from one of the two runs.
        return [Finding("row", "same", "baseline_only", f"{old.status} in the baseline, absent from this run")]
    if new.status == "measured":
        finding = Finding("row", "new", "new", "not in the baseline")
    elif old is not None and old.status == new.status:
        verdict: Verdict = "missing" if new.status == "failed" else "same"
        finding = Finding("row", verdict, f"both_{new.status}", f"{new.status} in both: {new.reason}")
    elif new.status == "skipped":
        finding = Finding("row", "same", "skipped", f"not measured in either: {new.reason}")
    else:
        sentence = f"failed, and the baseline has no measurement: {new.reason}"
        finding = Finding("row", "missing", "failed", sentence)
    return [*non_finite_findings(new), finding]


def _exit_code(rows: tuple[GateRow, ...]) -> ExitCode:
    verdicts = {finding.verdict for row in rows for finding in row.findings}
    if verdicts & REGRESSIONS:
        return ExitCode.REGRESSION
    if "not comparable" in verdicts:
        return ExitCode.NOT_COMPARABLE
    if "missing" in verdicts:
        return ExitCode.ROWS_MISSING
    return ExitCode.PASS


def non_finite_findings(record: Record) -> list[Finding]:
    """One finding if any frame has a NaN or infinity, which no baseline excuses; else none."""
    drift = record.drift
    if drift is None or not drift.has_non_finite:
        return []
    count = sum(drift.non_finite)
    sentence = f"{count} of {len(drift.non_finite)} frames hold NaN or infinity, frame {drift.worst_frame} first"
    return [Finding("non_finite", "worse picture", "non_finite", sentence, candidate=float(count), limit=0.0)]


def drift_findings(new: Record, old: Record, limits: Limits) -> list[Finding]:
    """Findings on PSNR, SSIM, largest difference and flicker. Only NaN is judged where drift means nothing."""
    candidate, baseline = new.drift, old.drift
    if (broken := non_finite_findings(new)) or candidate is None or baseline is None:
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
        doubts = (how.doubt(record) for record in (baseline, candidate)) if how.doubt is not None else ()
        if (doubt := next(filter(None, doubts), None)) is not None:
            findings.append(Finding(name, "same", "in_doubt", f"{name} was not judged: {doubt}", old, new))
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
    return value  # type: ignore[return-value]  # A limit is for a number.


def _change(metric: Metric, how: Limit, new: float, old: float, limits: Limits) -> float:
    """By how much `new` is worse than `old`: percent of `old`, or the difference."""
    enough = None if how.capped is None else limits[how.capped]
    if enough is not None:
        new, old = min(new, enough), min(old, enough)
    if how.percent:
        growth = 100 * (new / old - 1) if old else (math.inf if new else 0.0)
        return growth if metric.better == "lower" else -growth
    return new - old if metric.better == "lower" else old - new
