"""Figures that are made of a drift record: over faces, over frames, in the worst tile, and whether a viewer sees it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from typing import Literal

from sadtrt_core.records.measurements import Drift, capped

#: A pixel's FLIP that a viewer can just notice. FLIP maps a filtered colour difference d (in L*a*b*, by HyAB) to
#: 0.95 d^0.7 / (0.4 * 41.3) (Andersson et al. 2020, "FLIP: A Difference Evaluator for Alternating Images"), which is
#: 0.10 at d = 2.3, the just noticeable difference of Mahy, Van Eycken and Oosterlinck (1994).
NOTICEABLE_FLIP = 0.10
#: What the worst tile has to lose after encoding beyond the codec's own loss there, in dB: an error of more than half
#: the codec's own. Noise of 42 dB, which FLIP does not notice, moved a tile by up to about that.
CODEC_LOSS_DB = 2.0
Visible = Literal["no", "not after encoding", "yes"]


def mean_error_db(values: Iterable[float | None]) -> float:
    """Decibels of the mean squared error over frames, capped: a mean of decibels hides a bad frame, this does not."""
    errors = [10 ** (-value / 10) for value in capped(values)]
    return -10 * math.log10(math.fsum(errors) / len(errors))


def worst_tile(drift: Drift) -> tuple[float, int, int, int] | None:
    """Decibels, frame, and the x and y of its first pixel; None where tiles were not measured or a frame is broken."""
    if not drift.tile_db or drift.has_non_finite:
        return None
    values = capped(drift.tile_db)
    frame = values.index(min(values))
    return (values[frame], frame, *drift.tile_at[frame])


def faces(drift: Drift) -> tuple[tuple[float, str], ...]:
    """The lowest PSNR in dB of every face's frames, and its name, the worst first.

    () where none are named or a frame is not finite.
    """
    if not drift.faces or drift.has_non_finite:
        return ()
    each, values = drift.frames_per_face, capped(drift.psnr_db)
    found = ((min(values[i * each : (i + 1) * each]), name) for i, name in enumerate(drift.faces))
    return tuple(sorted(found, key=lambda face: face[0]))


def median_face_db(drift: Drift) -> float | None:
    """Median over faces of the lowest PSNR of each, in dB; None for less than two."""
    found = faces(drift)
    return statistics.median(decibels for decibels, _ in found) if len(found) > 1 else None


def codec_loss_db(tile_encoded_db: Iterable[float | None]) -> float:
    """What a tile loses after encoding beyond the codec's own loss there, in dB: of `Drift.tile_encoded_db`."""
    own, codec = capped(tile_encoded_db)
    return codec - own


def visible(drift: Drift) -> Visible | None:
    """Whether a viewer sees the difference; None without FLIP, or without the encoded clip where that decides.

    "no": no pixel reaches NOTICEABLE_FLIP. "not after encoding": some pixel does, but after H.264 the worst tile of
    every such frame loses no more than CODEC_LOSS_DB beyond what the reference itself does. "yes": else, or a frame is
    not finite.
    """
    if drift.has_non_finite:
        return "yes"
    looked_at = [value for value in drift.flip_most if value is not None]
    if not looked_at:
        return None
    if max(looked_at) < NOTICEABLE_FLIP:
        return "no"
    if not drift.tile_encoded_db:
        return None
    return "yes" if codec_loss_db(drift.tile_encoded_db) > CODEC_LOSS_DB else "not after encoding"
