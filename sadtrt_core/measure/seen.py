"""What a viewer sees of a drift: NVIDIA's FLIP of the worst frames, and what is left of it after H.264."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from sadtrt_core.errors import Unavailable
from sadtrt_core.measure.drift import TILE, decibels_of, face_boxes, measure_drift
from sadtrt_core.records.measurements import Drift, capped
from sadtrt_core.records.picture import NOTICEABLE_FLIP, codec_loss_db
from sadtrt_core.runners.clip import to_uint8

#: x264's own defaults, which most tools leave as they are. One thread: with more, other bits come out.
CODEC = {"crf": "23", "preset": "medium", "threads": "1"}
#: Frames a second of whatever is encoded here.
FRAME_RATE = 25
#: Frames of a face that are encoded at most, the first: two seconds and a half of video.
MOST_ENCODED = 64


def flip_absence() -> Unavailable | None:
    """Why FLIP cannot be computed here; None where it can."""
    missing = importlib.util.find_spec("flip_evaluator") is None
    return Unavailable("no FLIP: flip-evaluator is not installed", "pip install 'sadtrt[picture]'") if missing else None


def codec_absence() -> Unavailable | None:
    """Why nothing can be encoded here; None where it can."""
    try:
        import av
    except ImportError:
        return Unavailable("nothing was encoded: PyAV is not installed", "pip install 'sadtrt[picture]'")
    if "libx264" not in av.codecs_available:
        return Unavailable("nothing was encoded: this PyAV has no x264", "pip install 'sadtrt[picture]'")
    return None


def absences() -> tuple[str, ...]:
    """What is missing from a drift here, one sentence each."""
    return tuple(str(reason) for reason in (flip_absence(), codec_absence()) if reason is not None)


def seen_drift(
    reference: Tensor,
    candidate: Tensor,
    codec: np.ndarray | None,
    faces: Sequence[tuple[str, Tensor]],
    meaningful: bool = True,
) -> Drift:
    """`measure_drift` of frames (T, 3, H, W) in 0..1, with FLIP and what H.264 leaves of it as far as they are here.

    `faces` are the names and driving keypoints (T', 15, 3) of the faces, whose frames follow each other; `codec` is the
    reference `encoded`.
    """
    names = [name for name, _ in faces]
    boxes = face_boxes(torch.cat([keypoints for _, keypoints in faces]), reference.shape[3])
    drift = measure_drift(reference, candidate, meaningful=meaningful, faces=names, boxes=boxes)
    own = encoded(candidate, len(names))
    return _with_encoded(_with_flip(drift, reference, candidate), reference, own, codec)


def _with_flip(drift: Drift, reference: Tensor, candidate: Tensor) -> Drift:
    """The drift with FLIP of every frame that is off by a level somewhere, and of each face's frames of the lowest PSNR
    and of the worst tile.

    FLIP takes a tenth of a second a frame, and of less than a level it makes less than NOTICEABLE_FLIP. At FLIP's own
    67 pixels a degree of the eye, a screen 0.7 m away. Frames are (T, 3, H, W) in 0..1.
    """
    if flip_absence() is not None or drift.has_non_finite:
        return drift
    import flip_evaluator

    each, shown, seen = drift.frames_per_face, reference.clamp(0, 1), candidate.clamp(0, 1)
    chosen: set[int] = {index for index, error in enumerate(seen - shown) if error.abs().max() >= 1 / 255}
    for values in (capped(drift.psnr_db), capped(drift.tile_db)):
        chosen |= {values.index(min(values[i : i + each]), i) for i in range(0, len(values), each)}
    mean: list[float | None] = [None] * len(drift.psnr_db)
    most = list(mean)
    for index in sorted(chosen):
        old, new = (frames[index].permute(1, 2, 0).numpy() for frames in (shown, seen))
        errors, mean[index], _ = flip_evaluator.evaluate(old, new, "LDR", applyMagma=False)
        most[index] = float(errors.max())
    return dataclasses.replace(drift, flip=tuple(mean), flip_most=tuple(most))


def encoded(frames: Tensor, faces: int) -> np.ndarray | None:
    """The first MOST_ENCODED frames of each face after H.264, uint8 (N, H, W, 3); None where PyAV is missing.

    `frames` are (T, 3, H, W) in 0..1, those of each face a clip of their own.
    """
    if codec_absence() is not None:
        return None
    clips = to_uint8(frames).numpy().reshape(faces, -1, *frames.shape[2:], 3)
    return np.concatenate([through_h264(clip[:MOST_ENCODED]) for clip in clips])


def _with_encoded(drift: Drift, reference: Tensor, own: np.ndarray | None, codec: np.ndarray | None) -> Drift:
    """The drift with what is left of it after H.264: of each frame, and in one tile.

    That is the tile which the candidate loses most beyond the codec's own loss, of the worst tiles of those frames that
    FLIP notices; of none the worst tile of all. `own` and `codec` are the candidate and the reference (T, 3, H, W),
    both `encoded`, and each is compared with the reference as it is.
    """
    if own is None or codec is None:
        return drift
    chosen = [index for index in range(len(reference)) if index % drift.frames_per_face < MOST_ENCODED]
    raw = to_uint8(reference)[chosen].numpy()
    noticed = [
        n for n, index in enumerate(chosen) if drift.flip_most and (drift.flip_most[index] or 0) >= NOTICEABLE_FLIP
    ]
    tiles = capped(drift.tile_db)
    worst = min(range(len(chosen)), key=lambda n: tiles[chosen[n]])

    def in_tile(n: int) -> tuple[float | None, float | None]:
        x, y = drift.tile_at[chosen[n]]
        tile = (n, slice(y, y + TILE), slice(x, x + TILE))
        return _decibels(own[tile], raw[tile]), _decibels(codec[tile], raw[tile])

    return dataclasses.replace(
        drift,
        encoded_db=tuple(map(_decibels, own, raw)),
        codec_db=tuple(map(_decibels, codec, raw)),
        tile_encoded_db=max(map(in_tile, noticed or [worst]), key=codec_loss_db),
    )


def _decibels(pixels: np.ndarray, reference: np.ndarray) -> float | None:
    return decibels_of(float(np.square((pixels.astype(np.float64) - reference) / 255).mean()))


def through_h264(pixels: np.ndarray) -> np.ndarray:
    """Frames (T, H, W, 3) of uint8, both sizes even, after libx264 and back."""
    import av

    with av.open(io.BytesIO(h264(pixels, CODEC))) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def h264(pixels: np.ndarray, options: Mapping[str, str]) -> bytes:
    """An MP4 of frames (T, H, W, 3) of uint8, both sizes even, by libx264 with these options, in 4:2:0."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FRAME_RATE, options=dict(options))
        stream.height, stream.width, stream.pix_fmt = *pixels.shape[1:3], "yuv420p"
        for frame in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()
