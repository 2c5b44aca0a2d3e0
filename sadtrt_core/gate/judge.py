"""Compares a run with a baseline, row by row, and answers with an exit code that is 0 only where all is well."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sadtrt_core.case import Case
from sadtrt_core.gate.latency import latency_findings, latency_tests
from sadtrt_core.gate.limits import Limits, Thresholds
from sadtrt_core.gate.verdicts import REGRESSIONS, ExitCode, Finding, GateResult, GateRow, Verdict, make_row
from sadtrt_core.records.measurements import Drift, Latency
from sadtrt_core.records.schema import Environment, Record, Run
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
    remarks = (*_remarks(candidate, baseline), *_idle_overrides(keys, thresholds))
    problems = _problems(candidate, baseline)
    for other in others:
        problems += [(code, f"a further run of the baseline: {text}") for code, text in _problems(other, baseline)]
    if problems:
        reason, sentence = problems[0]
        rows = tuple(make_row(key, [Finding("run", "not comparable", reason, sentence)]) for key in keys)
        return GateResult(int(ExitCode.NOT_COMPARABLE), rows, tuple(text for _, text in problems), remarks)
    # Each time has two tests, of its tail.
    significance = thresholds.false_alarm / max(1, 2 * _count_tests(new, old, thresholds))
    processors = (_processors(baseline.environment), _processors(candidate.environment))
    rows = tuple(
        _judge_row(key, new.get(key), old.get(key), times.get(key, []), thresholds, significance, processors)
        for key in keys
    )
    code = _exit_code(rows)
    if code == ExitCode.PASS and not _anything_compared(rows):
        return GateResult(int(ExitCode.NOT_COMPARABLE), rows, ("not one figure was compared",), remarks)
    return GateResult(int(code), rows, (), remarks)


def _problems(candidate: Run, baseline: Run) -> list[tuple[str, str]]:
    """Reason code and sentence of everything that forbids comparing these two runs at all."""
    problems = []
    for name, run in (("the run", candidate), ("the baseline", baseline)):
        if not run.complete:
            problems.append(("incomplete", f"{name} was interrupted before it finished: run it again"))
        if not run.records:
            problems.append(("empty", f"{name} holds no records: run the suite"))
    if baseline.records and not any(_is_judged(record) for record in baseline.records):
        problems.append(("nothing_measured", "the baseline measured nothing, so nothing can be compared with it"))
    for code, name, was, now in _identities(candidate, baseline):
        if was != now:
            problems.append((f"{code}_differs", f"{name} changed: {was} in the baseline, {now} in this run"))
    return problems


def _identities(candidate: Run, baseline: Run) -> list[tuple[str, str, object, object]]:
    old, new = baseline.environment, candidate.environment
    entries: list[tuple[str, str, object, object]] = [
        ("gpu", "the GPU", _gpu_words(old), _gpu_words(new)),
        ("driver", "the driver", old.driver, new.driver),
        (
            "tensorrt",
            "TensorRT",
            f"{old.tensorrt_flavour} {old.tensorrt}" if old.tensorrt else None,
            f"{new.tensorrt_flavour} {new.tensorrt}" if new.tensorrt else None,
        ),
        ("weights", "the weights", _words(baseline.weights), _words(candidate.weights)),
        ("size", "the picture size", baseline.workload.size, candidate.workload.size),
        ("workload", "the workload", _words(baseline.workload), _words(candidate.workload)),
    ]
    if old.gpu is None and new.gpu is None:
        # Without a GPU it is the processor that sets the times.
        entries.append(("cpu", "the processor", _processors(old), _processors(new)))
    for name, usual in TIME_OPTIONS.items():
        was, now = (run.options.get(name, usual) for run in (baseline, candidate))
        # What an older run does not tell, and has no usual value, is not known to differ.
        if was is not None and now is not None:
            entries.append((name, f"option {name}", was, now))
    return entries


def _processors(environment: Environment) -> str:
    return f"{environment.cpu} x {environment.cpu_count}"


#: Options that change what a time means, and what they are where a run does not say.
TIME_OPTIONS = {
    "flush_l2": "False",
    "CUDA_LAUNCH_BLOCKING": "0",
    "NVIDIA_TF32_OVERRIDE": "unset",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "unset",
    "threads": None,
}


def _gpu_words(environment: Environment) -> str | None:
    return environment.gpu and f"{environment.gpu} (compute capability {environment.compute_capability})"


def _words(value: object) -> str:
    return " ".join(str(item) for item in vars(value).values())


def _remarks(candidate: Run, baseline: Run) -> tuple[str, ...]:
    """What differs without forbidding the comparison, since it may be the very change under test."""
    remarks = []
    old, new = baseline.environment, candidate.environment
    for name in ("torch", "onnxruntime", "cuda", "python", "commit"):
        if getattr(old, name) != getattr(new, name):
            remarks.append(f"{name}: {getattr(old, name)} in the baseline, {getattr(new, name)} now")
    for name in sorted({*baseline.options, *candidate.options}):
        was, now = baseline.options.get(name), candidate.options.get(name)
        if was != now and name not in TIME_OPTIONS:
            remarks.append(f"option {name}: {was} in the baseline, {now} now")
    if candidate.started_utc < baseline.started_utc:
        remarks.append(f"this run is older than its baseline: {candidate.started_utc}, {baseline.started_utc}")
    if new.dirty:
        remarks.append("this run's checkout had changes that are not committed")
    return tuple(remarks)


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


def _is_judged(record: Record) -> bool:
    return record.status == "measured"


def _count_tests(new: dict[Case, Record], old: dict[Case, Record], thresholds: Thresholds) -> int:
    count = 0
    for key in new.keys() & old.keys():
        after, before = new[key].latency, old[key].latency
        if after is not None and before is not None:
            count += len(latency_tests(after, before, _limits(old[key], thresholds)))
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
    processors: tuple[str, str],
) -> GateRow:
    if old is None or not _is_judged(old):
        return make_row(key, _without_baseline(new, old))
    if new is None:
        return make_row(key, [Finding("row", "missing", "absent", "measured in the baseline, absent from this run")])
    broken = non_finite_findings(new.drift) if new.drift else []
    if not _is_judged(new):
        sentence = f"measured in the baseline, {new.status} in this run: {new.reason}"
        return make_row(key, [Finding("row", "missing", new.status, sentence), *broken])
    if new.benchmark_version != old.benchmark_version:
        sentence = f"benchmark version {old.benchmark_version} in the baseline, {new.benchmark_version} now"
        return make_row(key, [Finding("row", "not comparable", "benchmark_version", sentence), *broken])
    if new.calibration != old.calibration and None not in (new.calibration, old.calibration):
        sentence = f"ranges {old.calibration} in the baseline, {new.calibration} now: another calibration"
        return make_row(key, [Finding("row", "not comparable", "calibration", sentence), *broken])
    limits = _limits(old, thresholds)
    findings: list[Finding] = []
    for part in ("latency", "drift"):
        if getattr(old, part) is not None and getattr(new, part) is None:
            findings.append(Finding(part, "missing", "part_missing", f"{part} was measured in the baseline, not now"))
    if new.latency is not None and old.latency is not None:
        hosts = (new.telemetry, old.telemetry)
        findings += latency_findings(new.latency, times, limits, thresholds, significance, hosts, processors)
    findings += drift_findings(new, old, limits)
    findings += limit_findings(new, old, limits, ("latency", "resources", "telemetry"))
    return make_row(key, findings or [Finding("row", "same", "not_judged", "every limit of this row is switched off")])


def _without_baseline(new: Record | None, old: Record | None) -> list[Finding]:
    """Findings on a row that the baseline has not measured."""
    if new is None:
        assert old is not None  # A key comes from one of the two runs.
        return [Finding("row", "same", "baseline_only", f"{old.status} in the baseline, absent from this run")]
    findings = non_finite_findings(new.drift) if new.drift else []
    if new.status == "measured":
        return [*findings, Finding("row", "new", "new", "not in the baseline")]
    if old is not None and old.status == new.status:
        verdict: Verdict = "missing" if new.status == "failed" else "same"
        return [*findings, Finding("row", verdict, f"both_{new.status}", f"{new.status} in both: {new.reason}")]
    if new.status == "skipped":
        return [*findings, Finding("row", "same", "skipped", f"not measured in either: {new.reason}")]
    return [
        *findings,
        Finding("row", "missing", "failed", f"failed, and the baseline has no measurement: {new.reason}"),
    ]


def _exit_code(rows: tuple[GateRow, ...]) -> ExitCode:
    verdicts = {finding.verdict for row in rows for finding in row.findings}
    if verdicts & REGRESSIONS:
        return ExitCode.REGRESSION
    if "not comparable" in verdicts:
        return ExitCode.NOT_COMPARABLE
    if "missing" in verdicts:
        return ExitCode.ROWS_MISSING
    return ExitCode.PASS


def _anything_compared(rows: tuple[GateRow, ...]) -> bool:
    # Only a comparison of two figures has a limit.
    return any(finding.limit is not None for row in rows for finding in row.findings)


def non_finite_findings(drift: Drift) -> list[Finding]:
    """One finding if any frame has a NaN or infinity, which no baseline excuses; else none."""
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
