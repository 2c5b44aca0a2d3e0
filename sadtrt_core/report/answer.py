"""What a reader wants of a run first: which precisions can be shipped, and three figures of each."""

from __future__ import annotations

from dataclasses import dataclass

from sadtrt_core.case import Case
from sadtrt_core.records.schema import Record, Run
from sadtrt_core.report.metrics import METRICS
from sadtrt_core.report.ratios import REFERENCE_PRECISION
from sadtrt_core.report.tables import WHOLE
from sadtrt_core.report.text import decibels
from sadtrt_core.runners.registry import EAGER

#: A precision can be shipped where the worst frame of the worst face has at least this PSNR, in dB.
SHIPPED_DB = 60.0
#: What "times faster" is against: a ratio's column and the column that names its row, the first that a run has.
_RATIOS = (("ratio_to_best_pytorch", "best_pytorch"), ("ratio_to_pytorch_fp32", None))


@dataclass(frozen=True)
class Answer:
    """The fastest row of one precision, and its figures in words."""

    case: Case
    faster: str
    than: str
    loss: str
    levels: str
    energy: str | None
    time: str


def answers(run: Run) -> tuple[Answer, ...]:
    """The fastest row of every precision that can be shipped, fastest first; the reference itself is none."""
    best: dict[str, tuple[float, Record]] = {}
    for record in run.records:
        drift, latency, key = record.drift, record.latency, record.key
        if key.stage != WHOLE or drift is None or latency is None or not drift.meaningful:
            continue
        if (key.runner, key.precision) == (EAGER, REFERENCE_PRECISION) or not drift.psnr_min >= SHIPPED_DB:
            continue
        time = (latency.device_ms_median or latency.host_ms_median) / key.batch
        if key.precision not in best or time < best[key.precision][0]:
            best[key.precision] = (time, record)
    return tuple(_answer(run, record, time) for time, record in sorted(best.values(), key=lambda one: one[0]))


def _answer(run: Run, record: Record, time: float) -> Answer:
    ratio, than = next(
        (
            (value, "PyTorch fp32" if who is None else METRICS[who].text(record, run))
            for name, who in _RATIOS
            if name in METRICS and isinstance(value := METRICS[name].value(record, run), float)
        ),
        (None, "PyTorch"),
    )
    energy = METRICS["energy_mj_per_frame"].value(record, run)
    levels = METRICS["max_lsb"].text(record, run)
    loss = METRICS["psnr_min"].text(record, run)
    return Answer(
        record.key,
        faster="-" if ratio is None else f"{ratio:.2f}",
        than=than,
        loss=loss if loss == "identical" else f"{loss} dB",
        levels=f"{levels} level{'' if levels == '1' else 's'} of 255",
        energy=f"{energy / 1000:.2f} J" if isinstance(energy, float) else None,
        time=f"{time:.{2 if time < 100 else 0}f} ms",
    )


def headline(run: Run) -> str:
    """The answer in a sentence."""
    found = answers(run)
    if found:
        first = found[0]
        return (
            f"{first.case.runner} {first.case.precision} renders a frame in {first.time}, {first.faster} times as fast "
            f"as {first.than}, and its worst frame keeps {first.loss}, at most {first.levels} off."
        )
    judged = [one for one in run.records if one.key.stage == WHOLE and one.drift and one.drift.meaningful]
    if judged:
        return f"No precision can be shipped: none beside the reference keeps {SHIPPED_DB:.0f} dB in its worst frame."
    return "This run has no drift that means something, so it cannot say which precision to ship."


def unshipped(run: Run) -> tuple[str, ...]:
    """Rows of the generator whose picture forbids to ship them, with their loss."""
    return tuple(
        f"{record.key.runner} {record.key.precision} ({decibels(record.drift.psnr_min)} dB)"
        for record in run.records
        if record.key.stage == WHOLE
        and record.drift is not None
        and record.drift.meaningful
        and not record.drift.psnr_min >= SHIPPED_DB
    )
