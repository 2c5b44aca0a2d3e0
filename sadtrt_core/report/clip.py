"""The pictures of a report: the worst frames, and each row's clip.

A clip has reference, candidate and error beside each other in one H.264 MP4, which keeps the three in step.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sadtrt_core.errors import UserError
from sadtrt_core.files import read_file
from sadtrt_core.measure.seen import codec_absence, h264
from sadtrt_core.records.schema import Record, Run
from sadtrt_core.records.store import FRAMES_FOLDER
from sadtrt_core.report.tables import in_order
from sadtrt_core.report.text import decibels
from sadtrt_core.runners.clip import to_uint8

#: Frames of a clip at most, and pixels of the side of one of its three pictures.
MOST_FRAMES, MOST_PIXELS = 125, 256
#: Bytes of one clip and of all those that a report takes in, at most.
CLIP_LIMIT, REPORT_LIMIT = 500_000, 4_000_000
#: Bytes of one picture that a report takes in; a worst frame with its error map has well under a megabyte.
PICTURE_LIMIT = 4 * 1024 * 1024
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: x264's constant rate factors, tried in turn until a clip is within its limit.
_QUALITIES = (20, 26, 32, 38)
#: No frame waits for a later one, and a complete one comes often, so that a player seeks exactly and at once.
_SEEKABLE = {"preset": "veryfast", "bf": "0", "g": "8"}
#: Error in uint8 levels that is drawn black, and the one drawn white; the colours between are even in its logarithm.
FAINTEST, STRONGEST = 1 / 16, 64.0


def error_colours() -> np.ndarray:
    """The colours of errors from FAINTEST to STRONGEST, (256, 3) uint8."""
    return (matplotlib.colormaps["inferno"](np.arange(256))[:, :3] * 255).astype(np.uint8)


def error_pictures(reference: Tensor, candidate: Tensor) -> np.ndarray:
    """The largest difference of a channel, before rounding, in colours: (T, H, W, 3) uint8; NaN is the strongest.

    Both are (T, 3, H, W) in 0..1.
    """
    levels = 255 * (reference - candidate).abs().amax(dim=1).nan_to_num(nan=1.0, posinf=1.0)
    place = (levels.clamp(FAINTEST, STRONGEST) / FAINTEST).log2() / np.log2(STRONGEST / FAINTEST)
    coloured: np.ndarray = error_colours()[(255 * place).round().to(torch.uint8).numpy()]
    return coloured


def make_clip(reference: Tensor, candidate: Tensor) -> bytes:
    """An MP4 of frames (T, 3, H, W) in 0..1: reference, candidate and error side by side, MOST_FRAMES at most.

    The error is of the frames as they were rendered, not as the video shows them. Larger frames are scaled down, the
    error by its largest value. Needs PyAV (`codec_absence`).
    """
    reference, candidate = reference[:MOST_FRAMES].float(), candidate[:MOST_FRAMES].float()
    # H.264 halves the resolution of colour, so a side must be even.
    side = min(reference.shape[-1], MOST_PIXELS) // 2 * 2
    error = torch.from_numpy(error_pictures(reference, candidate)).permute(0, 3, 1, 2).float()
    pictures = [F.interpolate(frames, (side, side), mode="area") for frames in (reference, candidate)]
    shown = [to_uint8(frames).numpy() for frames in pictures]
    shown.append(F.adaptive_max_pool2d(error, (side, side)).to(torch.uint8).permute(0, 2, 3, 1).numpy())
    frames = np.concatenate(shown, axis=2)
    for quality in _QUALITIES:
        encoded = h264(frames, _SEEKABLE | {"crf": str(quality)})
        if len(encoded) <= CLIP_LIMIT:
            break
    return encoded


@dataclass(frozen=True)
class Clip:
    """A row's clip as a data URI, its worst frame's index and that frame's PSNR in words."""

    record: Record
    uri: str
    worst: int
    loss: str


def clips_of(run: Run, folder: Path) -> tuple[tuple[Clip, ...], tuple[str, ...]]:
    """The clips in a run's frames/ that a report takes in, and in words what it left out or why there are none.

    Only MP4 files of rows of the run count; links, files over CLIP_LIMIT and what would exceed REPORT_LIMIT do not.
    """
    records = {record.key.slug: record for record in in_order(run.records) if record.drift is not None}
    files = {path.stem: path for path in (folder / FRAMES_FOLDER).glob("*.mp4")}
    clips, left_out, size = [], [], 0
    for slug, record in records.items():
        if slug not in files or record.drift is None:
            continue
        data = _frame_file(files[slug], CLIP_LIMIT)
        if data[4:8] != b"ftyp" or size + len(data) > REPORT_LIMIT:
            left_out.append(f"{record.key.runner} {record.key.precision}")
            continue
        size += len(data)
        drift = record.drift
        loss = "NaN" if drift.has_non_finite else f"{decibels(drift.psnr_min)} dB"
        clips.append(Clip(record, _data_uri("video/mp4", data), drift.worst_frame, loss))
    words = []
    if left_out:
        words.append(f"Left out, over {REPORT_LIMIT / 1e6:.0f} MB together or no clip: {', '.join(left_out)}.")
    if any(len(clip.record.drift.psnr_db) > MOST_FRAMES for clip in clips if clip.record.drift):
        words.append(f"Clips hold the first {MOST_FRAMES} frames; figures are of all.")
    if not clips and records:
        words.append(f"No clips: {codec_absence() or 'this run kept none when it was measured'}.")
    return tuple(clips), tuple(words)


def frames_of(folder: Path) -> tuple[tuple[str, str], ...]:
    """Every PNG in a run's frames/ as its name, without the ending, and a data URI, by name.

    Links, files over PICTURE_LIMIT and other formats are left out.
    """
    pictures = []
    for path in sorted((folder / FRAMES_FOLDER).glob("*.png")):
        data = _frame_file(path, PICTURE_LIMIT)
        if data.startswith(PNG_SIGNATURE):
            pictures.append((path.stem, _data_uri("image/png", data)))
    return tuple(pictures)


def _frame_file(path: Path, limit: int) -> bytes:
    """A file of frames/; nothing of a link, of one over `limit` bytes and of what is no plain file."""
    try:
        return b"" if path.is_symlink() else read_file(path, limit)
    except UserError:
        return b""


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
