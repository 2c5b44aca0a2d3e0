"""What a reader wants of a run first: which precisions can be shipped, and three figures of each."""

from __future__ import annotations

from dataclasses import dataclass

from sadtrt_core.case import Case
from sadtrt_core.records.measurements import Drift
from sadtrt_core.records.schema import Record, Run, energy_problem
from sadtrt_core.report.metrics import METRICS
from sadtrt_core.report.ratios import best, frame_time, is_reference, judged_stage, ratio, strict
from sadtrt_core.report.text import decibels

#: A precision can be shipped where the worst frame of the worst face has at least this PSNR, in dB.
SHIPPED_DB = 60.0


@dataclass(frozen=True)
class Answer:
    """The fastest row of one precision, and its figures in words; None for what was not measured."""

    case: Case
    faster: str | None
    than: str
    loss: str
    levels: str
    energy: str | None
    time: str


def answers(run: Run) -> tuple[Answer, ...]:
    """The fastest row of every precision that can be shipped, fastest first.

    The reference itself is none, nor is a row that failed, whatever was measured of it before.
    """
    fastest: dict[str, tuple[float, Record]] = {}
    for record, drift in _judged(run):
        latency, key = record.latency, record.key
        if record.status != "measured" or latency is None or is_reference(key) or not drift.psnr_min >= SHIPPED_DB:
            continue
        # Not by a device's time, which leaves out what the GPU waits for the host.
        time, _ = frame_time(record)
        if key.precision not in fastest or time < fastest[key.precision][0]:
            fastest[key.precision] = (time, record)
    return tuple(_answer(run, record) for _, record in sorted(fastest.values(), key=lambda one: one[0]))


def _answer(run: Run, record: Record) -> Answer:
    assert record.latency is not None  # Of every answer.
    time = (record.latency.device_ms_median or record.latency.host_ms_median) / record.key.batch
    faster, than = _times_faster(run, record)
    energy = METRICS["energy_mj_per_frame"].value(record, run)
    doubt = "" if energy_problem(record) is None else ", in doubt"
    levels = METRICS["max_lsb"].text(record, run)
    loss = METRICS["psnr_min"].text(record, run)
    return Answer(
        record.key,
        faster=None if faster is None else f"{faster:.2f}",
        than=than,
        loss=loss if loss == "identical" else f"{loss} dB",
        levels=f"{levels} level{'' if levels == '1' else 's'} of 255",
        energy=f"{energy / 1000:.2f} J{doubt}" if isinstance(energy, float) else None,
        time=f"{time:.{2 if time < 100 else 0}f} ms",
    )


def _times_faster(run: Run, record: Record) -> tuple[float | None, str]:
    """How many times faster, and than what: the best PyTorch of no worse picture, or fp32 where it is that itself."""
    for choice in (best, strict):
        other = choice(record, run)
        times = None if other is None or other is record else ratio(record, run, choice)
        if other is not None and times is not None:
            return times, f"{other.key.runner} {other.key.precision}"
    return None, "PyTorch"


def headline(run: Run) -> str:
    """The answer in a sentence."""
    found = answers(run)
    if found:
        first = found[0]
        faster = "" if first.faster is None else f", {first.faster} times as fast as {first.than}"
        return (
            f"{first.case.runner} {first.case.precision} renders a frame in {first.time}{faster}, and its worst frame "
            f"keeps {first.loss}, at most {first.levels} off."
        )
    if _judged(run):
        return f"No precision can be shipped: none beside the reference keeps {SHIPPED_DB:.0f} dB in its worst frame."
    return "This run has no drift that means something, so it cannot say which precision to ship."


def unshipped(run: Run) -> tuple[str, ...]:
    """Rows whose picture forbids to ship them, with their loss."""
    return tuple(
        f"{record.key.runner} {record.key.precision} ({decibels(drift.psnr_min)} dB)"
        for record, drift in _judged(run)
        if not drift.psnr_min >= SHIPPED_DB
    )


def _judged(run: Run) -> list[tuple[Record, Drift]]:
    """The rows of the run's judged stage whose drift means something, and that drift."""
    stage = judged_stage(run)
    rows = [(one, one.drift) for one in run.records if one.key.stage == stage]
    return [(record, drift) for record, drift in rows if drift is not None and drift.meaningful]
