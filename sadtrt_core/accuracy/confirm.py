"""Plans as engines: which of those that a search found is the fastest that holds the budget in the shipped runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sadtrt_core.accuracy.findings import Budget, Loss
from sadtrt_core.engine.parallel import build_all
from sadtrt_core.errors import UserError
from sadtrt_core.measure.interleave import Repetitions
from sadtrt_core.precision import Precision
from sadtrt_core.progress import SILENT, Reporter
from sadtrt_core.records.measurements import Drift, Latency
from sadtrt_core.runners.base import Job
from sadtrt_core.runners.registry import RunnerKind
from sadtrt_core.runners.tensorrt import engine_job
from sadtrt_core.session import Session
from sadtrt_core.stats import median, time_interval, units

#: Medians that lie closer together than this are called the same: two engines are timed one after the other.
_SAME_TIME = 0.01
#: Pictures that lie closer together than this are called equally good, in dB.
_SAME_DB = 0.1


@dataclass(frozen=True)
class Confirmed:
    """What a precision costs in a runner: drift over all frames, median latency of the generator at batch 1 in ms.

    The median is of all repetitions, since engines are timed one after the other and a GPU may have states of seconds.
    `half_width` is how well that is known (`how_well_known`), as a fraction of it; `notes` are the runner's.
    """

    precision: Precision
    drift: Drift
    latency_ms: float
    half_width: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def loss(self) -> Loss:
        """The worst of the drift's frames."""
        return Loss.of(self.drift)

    def __str__(self) -> str:
        return f"{self.latency_ms:.3f} ms, {self.loss}"


def confirm_all(
    session: Session, kind: RunnerKind, precisions: Sequence[Precision], reporter: Reporter = SILENT
) -> list[Confirmed]:
    """Every precision in the runner, one after the other; on a GPU engines are built before that, several at a time.

    `reporter` hears each result, and why one could not be built, which is then left out. Raises UserError where the
    runner cannot serve.
    """
    jobs = [_job(session, kind, precision) for precision in precisions]
    failed: dict[str, str] = {}
    if session.on_gpu:
        reporter.log(f"building {len(jobs)} engines, at most {session.options.jobs} at a time")
        failures = build_all([engine_job(job) for job in jobs], session.options.jobs, reporter)
        failed = {job.precision.name: why for job, why in zip(jobs, failures, strict=True) if why is not None}
    confirmed = []
    for precision in precisions:
        if precision.name in failed:
            reporter.log(f"{precision.name}: not built: {failed[precision.name]}")
            continue
        confirmed.append(confirm(session, kind, precision))
        reporter.log("; ".join((f"{precision.name}: {confirmed[-1]}", *confirmed[-1].notes)))
    return confirmed


def _job(session: Session, kind: RunnerKind, precision: Precision) -> Job:
    ranges = session.calibration if precision.quantize is not None else None
    job = session.job(session.case("generator", kind.name, "fp32"))
    job = replace(job, precision=precision, calibration=ranges)
    absence = kind.available(job)
    if absence is not None:
        raise UserError(f"{kind.name} cannot confirm the plan: {absence}")
    return job


def confirm(session: Session, kind: RunnerKind, precision: Precision) -> Confirmed:
    """Render the whole sequence and time the generator in a precision; builds an engine where the runner needs one.

    Raises UserError with the reason where the runner cannot serve.
    """
    with kind.create(_job(session, kind, precision)) as active:
        drift = session.drift(active.frames(session.frame_inputs()))
        timing = Repetitions(active, session.timing_plan, session.sensors)
        while not timing.complete:
            timing.wait()
            timing.repeat()
        latency = timing.latency()
        notes = active.notes if latency.steady else (*active.notes, "its times did not stay level")
    return Confirmed(precision, drift, median(latency.judged_ms), how_well_known(latency), notes)


def how_well_known(latency: Latency) -> float:
    """How far the 95% interval of a time reaches to either side, as a fraction; 1 where that cannot be told.

    Over repetitions, as in tables and gate: single samples depend on one another, and many of them seem to know better.
    """
    interval = time_interval(units([latency.repetitions()]))
    middle = (interval.low + interval.high) / 2
    return (interval.high - middle) / middle if interval.coverage and middle else 1.0


def fastest(confirmed: Sequence[Confirmed], budget: Budget) -> Confirmed:
    """The fastest that holds the budget, or the one nearest to it where none does."""
    holding = [item for item in confirmed if budget.met_by(item.loss)]
    if holding:
        return min(holding, key=lambda item: item.latency_ms)
    return max(confirmed, key=lambda item: item.loss.decibels)


def verdict(name: str, plan: Confirmed, builtin: Confirmed) -> str:
    """One sentence: whether a plan called `name` or a built-in precision is faster, at what quality, and what follows.

    The plan should take the built-in's place only where it is faster and its picture no worse.
    """
    ratio = plan.latency_ms / builtin.latency_ms
    same = abs(ratio - 1) <= max(_SAME_TIME, plan.half_width + builtin.half_width)
    speed = "as fast as" if same else f"{abs(1 - ratio):.1%} {'faster' if ratio < 1 else 'slower'} than"
    no_worse = plan.loss.decibels >= builtin.loss.decibels - _SAME_DB and plan.loss.max_lsb <= builtin.loss.max_lsb
    wins = ratio < 1 and not same and no_worse
    what = "should give way to it" if wins else "stays"
    return f"{name} ({plan}) is {speed} the built-in {builtin.precision.name} ({builtin}), which {what}"
