"""How many times faster a row is than PyTorch: than strict fp32, as shipped, and the best row of no worse picture."""

from __future__ import annotations

import math
from collections.abc import Callable

from sadtrt_core import stats
from sadtrt_core.case import Case
from sadtrt_core.precision import PRECISIONS
from sadtrt_core.records.measurements import PSNR_CEILING_DB
from sadtrt_core.records.schema import Record, Run
from sadtrt_core.renderer.stages import RENDERING
from sadtrt_core.runners.registry import EAGER, RUNNERS

#: How much lower a PyTorch row's lowest PSNR may be than the row's that is compared with it.
NO_WORSE_DB = 0.5
#: The record of a run that a record is compared with, None where the run has none.
Choice = Callable[[Record, Run], Record | None]


def strict(record: Record, run: Run) -> Record | None:
    """Eager PyTorch in fp32 with TF32 off, at the record's stage and batch."""
    return next((one for one in _pytorch_rows(record, run) if is_reference(one.key)), None)


def as_shipped(record: Record, run: Run) -> Record | None:
    """Eager PyTorch with no setting changed; without a GPU that is fp32."""
    if run.environment.gpu is None:
        return strict(record, run)
    shipped = {name for name, precision in PRECISIONS.items() if precision.as_shipped}
    rows = _pytorch_rows(record, run)
    return next((one for one in rows if one.key.runner == EAGER and one.key.precision in shipped), None)


def best(record: Record, run: Run) -> Record | None:
    """The fastest PyTorch row, however it is run, whose picture is no worse than the record's by over NO_WORSE_DB.

    Strict fp32 where there is none, or where nothing is known of the record's picture.
    """
    drifts = [one for one in run.records if one.drift is not None]
    pictures = {(one.key.stage, one.key.runner, one.key.precision): _lowest_psnr(one) for one in drifts}
    way = (record.key.runner, record.key.precision)
    # All pictures are of one stage, the one that the record's own is of.
    stage = next((name for name in (record.key.stage, *RENDERING) if (name, *way) in pictures), None)

    def picture(case: Case) -> float | None:
        if is_reference(case):
            return PSNR_CEILING_DB
        return None if stage is None else pictures.get((stage, case.runner, case.precision))

    own = picture(record.key)
    if own is None:
        return strict(record, run)
    rows = [(one, picture(one.key)) for one in _pytorch_rows(record, run)]
    whole = [(one, psnr) for one, psnr in rows if psnr is not None and psnr > -math.inf]
    no_worse = [one for one, psnr in whole if psnr >= own - NO_WORSE_DB]
    return min(no_worse, key=_judged_ms, default=None) or strict(record, run)


def ratio(record: Record, run: Run | None, choice: Choice) -> float | None:
    """How many times faster the record is than the chosen one, over repetitions (`stats.ratio`).

    By device time, by host time where neither has the other. None where there is nothing to compare, where one has a
    device time and the other has not, and for a row that failed: what was timed of it is no renderer.
    """
    other = None if run is None or record.status != "measured" else choice(record, run)
    if other is None or other.latency is None or record.latency is None:
        return None
    if (other.latency.device_ms is None) != (record.latency.device_ms is None):
        return None
    found = stats.ratio(*(stats.units([one.repetitions()]) for one in (other.latency, record.latency)))
    return found if found and math.isfinite(found) else None


def ratio_words(record: Record, run: Run | None, choice: Choice) -> str:
    """The ratio for people."""
    if run is not None and choice(record, run) is record:
        return "reference"
    times = ratio(record, run, choice)
    if times is None:
        return "-"
    return f"{times:.2f}x faster" if times >= 1 else f"{1 / times:.2f}x slower"


def best_name(record: Record, run: Run | None) -> str | None:
    """Runner and precision of the best PyTorch row that the record is compared with."""
    chosen = None if run is None or record.latency is None else best(record, run)
    return None if chosen is None else f"{chosen.key.runner} {chosen.key.precision}"


def judged_stage(run: Run) -> str | None:
    """The stage that a run's answer and chart are of: that of RENDERING with the most rows whose drift means something,
    the first of several; None where no row's does.
    """
    drifts = [one.key.stage for one in run.records if one.drift is not None and one.drift.meaningful]
    return max(RENDERING, key=drifts.count) if set(RENDERING) & set(drifts) else None


def frame_time(record: Record) -> tuple[float, str]:
    """The ms of a frame where one follows the other, which is what a GPU is paid for, and the clock.

    "back to back" is without a pause (records.measurements.Sustained), "host" the median call and the wait for it where
    that was not measured. A device time would leave out what the GPU waits for the host between the kernels of a row
    that launches them one by one.
    """
    if record.sustained is not None:
        return record.sustained.ms_per_frame, "back to back"
    assert record.latency is not None  # Of every choice.
    return record.latency.host_ms_median / record.key.batch, "host"


def is_reference(case: Case) -> bool:
    """Whether the case is what drift is measured from."""
    return (case.runner, case.precision) == (EAGER, "fp32")


def _pytorch_rows(record: Record, run: Run) -> list[Record]:
    """The timed PyTorch rows of the record's stage and batch; what failed is none, whatever was timed of it before."""
    same = (record.key.stage, record.key.batch)
    timed = [one for one in run.records if one.status == "measured" and one.latency is not None]
    rows = [one for one in timed if (one.key.stage, one.key.batch) == same]
    return [one for one in rows if one.key.runner in RUNNERS and not RUNNERS[one.key.runner].graph]


def _lowest_psnr(record: Record) -> float | None:
    """Of its worst frame, in dB; None where that means nothing, minus infinity where there is no whole picture."""
    assert record.drift is not None
    if not record.drift.meaningful:
        return None
    return -math.inf if record.drift.has_non_finite else record.drift.psnr_min


def _judged_ms(record: Record) -> float:
    assert record.latency is not None
    return stats.median(record.latency.judged_ms)
