"""Whether two whole runs may be compared: what forbids it, and what differs without forbidding it."""

from __future__ import annotations

from collections.abc import Mapping

from sadtrt_core.case import Case
from sadtrt_core.gate.samples import CLOCK_TOLERANCE, Problem
from sadtrt_core.records.schema import Environment, Record, Run, Weights, Workload

#: Options that change what a time means, and what they are where a run does not say.
TIME_OPTIONS = {
    "flush_l2": "False",
    "CUDA_LAUNCH_BLOCKING": "0",
    "threads": None,
    **dict.fromkeys(("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"), "unset"),
}
#: Of a digest, so many tell one from another.
_DIGITS = 12


def problems_of(candidate: Run, baseline: Run) -> list[tuple[str, str]]:
    """Reason code and sentence of everything that forbids comparing these two runs at all."""
    problems = []
    for name, run in (("the run", candidate), ("the baseline", baseline)):
        if not run.complete:
            problems.append(("incomplete", f"{name} was interrupted before it finished: run it again"))
        if not run.records:
            problems.append(("empty", f"{name} holds no records: run the suite"))
    if baseline.records and all(record.status != "measured" for record in baseline.records):
        problems.append(("nothing_measured", "the baseline measured nothing, so nothing can be compared with it"))
    for code, name, was, now in _identities(candidate, baseline):
        if was != now:
            sentence = f"{name} changed: {_words(was)} in the baseline, {_words(now)} in this run"
            problems.append((f"{code}_differs", sentence))
    limits = [limit for run in (baseline, candidate) if (limit := _power_limit(run)) is not None]
    if len(limits) == 2 and min(limits) < max(limits) * (1 - CLOCK_TOLERANCE):
        sentence = f"the board's power limit changed: {limits[0]:.0f} W in the baseline, {limits[1]:.0f} W in this run"
        problems.append(("power_limit_differs", sentence))
    return problems


def _power_limit(run: Run) -> float | None:
    """The most that the board could draw while any row was called back to back, in W; None where nothing tells."""
    found = (one.sustained.power_limit_w for one in run.records if one.sustained is not None)
    return max((limit for limit in found if limit is not None), default=None)


def other_measures(other: Run, baseline: Mapping[Case, Record]) -> list[tuple[str, str]]:
    """What forbids taking another run's times for the same code's: another clock, benchmark version or other ranges."""
    problems = []
    for record in other.records:
        own = baseline.get(record.key)
        # Times of a row that either did not measure are not used.
        if own is None or own.status != "measured" or record.status != "measured":
            continue
        clocks = {one.latency.device_ms is None for one in (own, record) if one.latency is not None}
        if len(clocks) > 1:
            problems.append(
                ("clock_differs", f"{record.key.label()} has device times in some runs of the baseline only")
            )
        for name, what in (("benchmark_version", "benchmark version"), ("calibration", "calibration")):
            was, now = getattr(own, name), getattr(record, name)
            if was != now:
                sentence = f"{record.key.label()} is of {what} {now or 'unknown'}, the baseline's of {was or 'unknown'}"
                problems.append((f"{name}_differs", sentence))
    return problems[:1]


def _identities(candidate: Run, baseline: Run) -> list[tuple[str, str, object, object]]:
    old, new = baseline.environment, candidate.environment
    gpus = [one.gpu and f"{one.gpu} (compute capability {one.compute_capability})" for one in (old, new)]
    tensorrt = [one.tensorrt and f"{one.tensorrt_flavour} {one.tensorrt}" for one in (old, new)]
    entries: list[tuple[str, str, object, object]] = [
        ("gpu", "the GPU", gpus[0], gpus[1]),
        ("driver", "the driver", old.driver, new.driver),
        ("tensorrt", "TensorRT", tensorrt[0], tensorrt[1]),
        ("weights", "the weights", baseline.weights, candidate.weights),
        ("size", "the picture size", baseline.workload.size, candidate.workload.size),
        ("workload", "the workload", baseline.workload, candidate.workload),
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


def another_host(candidate: Run, baseline: Run) -> Problem | None:
    """That the processors are others than the baseline's, which forbids judging host times beside device times."""
    was, now = (_processors(run.environment) for run in (baseline, candidate))
    return None if was == now else ("host_differs", f"the processors changed from {was} to {now}")


def _processors(environment: Environment) -> str:
    return f"{environment.cpu} x {environment.cpu_count}"


def _words(value: object) -> str:
    if isinstance(value, Weights):
        return f"{value.name} ({value.kind}, {value.digest[:_DIGITS]})"
    if isinstance(value, Workload):
        return f"{value.frames} frames of {value.name} ({value.size} px, {value.digest[:_DIGITS]})"
    return str(value)


def remarks_of(candidate: Run, baseline: Run) -> tuple[str, ...]:
    """What differs without forbidding the comparison, since it may be the very change under test."""
    remarks = []
    old, new = baseline.environment, candidate.environment
    for name in ("torch", "onnxruntime", "cuda", "python", "commit"):
        was, now = (getattr(one, name) or "not recorded" for one in (old, new))
        if was != now:
            remarks.append(f"{name}: {was} in the baseline, {now} now")
    for name in sorted({*baseline.options, *candidate.options}):
        was, now = (run.options.get(name, "not given") for run in (baseline, candidate))
        if was != now and name not in TIME_OPTIONS:
            remarks.append(f"option {name}: {was} in the baseline, {now} now")
    if candidate.started_utc < baseline.started_utc:
        remarks.append(f"this run is older than its baseline: {candidate.started_utc}, {baseline.started_utc}")
    if new.dirty:
        remarks.append("this run's checkout had changes that are not committed")
    return tuple(remarks)
