"""How figures of drift are got from a record and written for people, for the rows of METRICS."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from sadtrt_core.records.measurements import Drift, capped
from sadtrt_core.records.picture import faces, mean_error_db, worst_tile
from sadtrt_core.records.schema import Record, Run
from sadtrt_core.report.text import decibels


def picture(cell: Callable[[Drift], str], identical: str | None, broken: str | None) -> Callable[..., str]:
    """A cell of drift, with other words for frames that are identical or hold NaN; None for the figure all the same."""

    def text(record: Record, run: Run | None) -> str:
        drift = record.drift
        if drift is None:
            return "-"
        if drift.has_non_finite and broken is not None:
            return broken.format(count=sum(drift.non_finite), frames=len(drift.non_finite))
        if not drift.has_non_finite and all(value is None for value in drift.psnr_db) and identical is not None:
            return identical
        return cell(drift)

    return text


def capped_mean(record: Record, limits: Any) -> float:
    """Mean PSNR in dB with each frame capped, so that one nearly identical frame cannot move the mean."""
    drift, enough = record.drift, limits["psnr_enough_db"]
    assert drift is not None  # The gate judges drift where both runs have it.
    return drift.psnr_mean if enough is None else math.fsum(capped(drift.psnr_db, enough)) / len(drift.psnr_db)


def of_frames(name: str, gather: Callable[[Sequence[float]], float]) -> Callable[[Drift], float | None]:
    """A figure over the values of a field, decibels capped; None where there are none, NaN with a non-finite frame."""

    def figure(drift: Drift) -> float | None:
        values = getattr(drift, name)
        return None if not values else math.nan if drift.has_non_finite else gather(capped(values))

    return figure


def largest(name: str) -> Callable[[Drift], float | None]:
    """The largest value of a field that may lack some frames."""
    return lambda drift: max((value for value in getattr(drift, name) if value is not None), default=None)


def frame_in_face(drift: Drift) -> str:
    """The worst frame, counted within its face."""
    return str(drift.worst_frame % drift.frames_per_face)


def tile_place(drift: Drift) -> str | None:
    """Where the worst tile is."""
    if (tile := worst_tile(drift)) is None:
        return None
    _, frame, x, y = tile
    return f"frame {frame} x {x} y {y}"


def tile_cell(drift: Drift) -> str:
    """Decibels and place of the worst tile."""
    if (tile := worst_tile(drift)) is None:
        return "-"
    psnr, frame, x, y = tile
    return f"{decibels(psnr)} ({frame}: {x}, {y})"


def encoded_cell(drift: Drift) -> str:
    """Decibels after encoding, and the codec's own."""
    if not drift.encoded_db:
        return "-"
    return f"{decibels(mean_error_db(drift.encoded_db))} of {decibels(mean_error_db(drift.codec_db))}"


def worst_face(drift: Drift) -> str | None:
    """Name of the face with the worst frame, where there are several."""
    found = faces(drift)
    return found[0][1] if len(found) > 1 else None
