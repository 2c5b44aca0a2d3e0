"""How far a candidate's frames are from the reference's, and the reference itself, checked before it judges."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from skimage.metrics import structural_similarity
from torch import Tensor

from sadtrt_core.errors import UserError
from sadtrt_core.progress import SILENT, Reporter
from sadtrt_core.records.measurements import PSNR_CEILING_DB, Drift
from sadtrt_core.runners.base import Job
from sadtrt_core.runners.clip import to_uint8
from sadtrt_core.runners.pytorch import reference_frames


def decibels_of(error: float) -> float | None:
    """10 log10(1 / error) of a mean squared error at peak 1.0, in dB; None for none, and for one that is not finite."""
    return -10 * math.log10(error) if 0 < error < math.inf else None


def psnr(reference: Tensor, candidate: Tensor) -> float | None:
    """PSNR at peak 1.0 in dB, in float64; None for equal tensors and where one is not finite."""
    return decibels_of((reference.double() - candidate.double()).square().mean().item())


#: Side of a tile in pixels, and how far apart tiles begin: a fault of eight pixels lies whole in some tile.
TILE, TILE_STEP = 16, 8
#: What the box around the keypoints is widened by on each side, as a share of its own width and height.
FACE_MARGIN = 0.1
#: Left, upper, right and lower edge in pixels, the last two exclusive.
Box = tuple[int, int, int, int]


def face_boxes(keypoints: Tensor, size: int) -> tuple[Box, ...]:
    """The face region of each frame: the least box around its keypoints (T, K, 3), with a margin, within the picture.

    Keypoints are x, y and z in -1..1, which the picture of `size` pixels spans.
    """
    low, high = keypoints[:, :, :2].amin(dim=1), keypoints[:, :, :2].amax(dim=1)
    margin = FACE_MARGIN * (high - low)
    edges = torch.cat(((low - margin).add(1).mul(size / 2).floor(), (high + margin).add(1).mul(size / 2).ceil()), dim=1)
    edges[:, :2] = edges[:, :2].clamp(0, size - 1)
    edges[:, 2:] = edges[:, 2:].clamp(1, size)
    return tuple((int(a), int(b), max(int(c), int(a) + 1), max(int(d), int(b) + 1)) for a, b, c, d in edges.tolist())


def measure_drift(
    reference: Tensor,
    candidate: Tensor,
    *,
    meaningful: bool = True,
    reference_name: str = "pytorch fp32",
    faces: Sequence[str] = (),
    boxes: Sequence[Box] = (),
) -> Drift:
    """Drift of frames (T, 3, H, W) in 0..1 against a reference of the same shape, frame by frame.

    PSNR is taken on float frames clipped to 0..1, as they are shown; of the whole frame, of its worst tile, and of the
    region `boxes` names for each frame, if any; that of the frames as rendered is kept beside it. SSIM (Wang et al.
    2004, scikit-image's default window) and the largest level difference are of uint8 frames. Flicker is the PSNR of
    frame-to-frame differences of clipped frames, never from one of the `faces` to the next, whose frames follow each
    other. Raises ValueError for other shapes, UserError for a reference that is not finite.
    """
    if reference.shape != candidate.shape:
        raise ValueError(
            f"frames of shape {tuple(candidate.shape)} cannot be compared with a reference of {tuple(reference.shape)}"
        )
    if worthless := broken_frames(reference):
        raise UserError(f"{reference_name} {_broken_words(worthless, len(reference))}: nothing can be judged by it")
    failed = set(broken_frames(candidate))
    broken = [index in failed for index in range(len(candidate))]
    old, new = to_uint8(reference).numpy(), to_uint8(candidate).numpy()
    levels = np.abs(old.astype(np.int16) - new.astype(np.int16)).max(axis=(1, 2, 3))
    shown, seen = reference.clamp(0, 1), candidate.clamp(0, 1)
    tiles = [_worst_tile(r, c) for r, c in zip(shown, seen, strict=True)]
    each = len(reference) // max(1, len(faces))
    moved = [
        psnr(r, c)
        for start in range(0, len(reference), each)
        for r, c in zip(shown[start : start + each].diff(dim=0), seen[start : start + each].diff(dim=0), strict=True)
    ]
    return Drift(
        psnr_db=tuple(psnr(r, c) for r, c in zip(shown, seen, strict=True)),
        ssim=tuple(
            None if bad else float(structural_similarity(r, c, channel_axis=-1, data_range=255))
            for r, c, bad in zip(old, new, broken, strict=True)
        ),
        max_lsb=tuple(int(level) for level in levels),
        non_finite=tuple(broken),
        flicker_db=tuple(moved),
        meaningful=meaningful,
        reference=reference_name,
        faces=tuple(faces),
        unclipped_db=tuple(psnr(r, c) for r, c in zip(reference, candidate, strict=True)),
        tile_db=tuple(decibels for decibels, _ in tiles),
        tile_at=tuple(place for _, place in tiles),
        face_db=tuple(
            psnr(r[:, y:lower, x:right], c[:, y:lower, x:right])
            for r, c, (x, y, right, lower) in zip(shown, seen, boxes, strict=True)
        )
        if boxes
        else (),
    )


def broken_frames(frames: Tensor) -> tuple[int, ...]:
    """Indices of the frames (T, 3, H, W) that hold NaN or infinity."""
    finite = torch.isfinite(frames).flatten(1).all(dim=1)
    return tuple((~finite).nonzero().flatten().tolist())


def _broken_words(broken: Sequence[int], frames: int) -> str:
    return f"holds NaN or infinity in {len(broken)} of {frames} frames, frame {broken[0]} first"


def _worst_tile(reference: Tensor, candidate: Tensor) -> tuple[float | None, tuple[int, int]]:
    """PSNR of a frame's worst tile, and the x and y of its first pixel; of the whole frame where it is smaller."""
    errors = (reference.double() - candidate.double()).square().mean(dim=0, keepdim=True).nan_to_num(math.inf)
    tile = (min(TILE, errors.shape[1]), min(TILE, errors.shape[2]))
    means = F.avg_pool2d(errors, tile, TILE_STEP)[0]
    row, column = divmod(int(means.argmax()), means.shape[1])
    return decibels_of(means[row, column].item()), (column * TILE_STEP, row * TILE_STEP)


def recorded_line(reference: Tensor, recorded: Tensor) -> str:
    """One sentence: how far the frames of a recorded prediction.pt are from the reference's of the same shape."""
    drift = measure_drift(reference, recorded)
    identical = drift.psnr_min >= PSNR_CEILING_DB
    words = "identical to" if identical else f"{drift.psnr_min:.1f} dB and at most {max(drift.max_lsb)} LSB from"
    line = f"the recorded prediction.pt is {words} the reference in its worst frame"
    return line if drift.psnr_min >= _SAME_MAKER_DB else f"{line}: other weights or inputs made it"


def worst_frame_picture(title: str, reference: Tensor, candidate: Tensor, drift: Drift) -> bytes:
    """A PNG of the worst frame: the reference's, the candidate's, and the largest difference of a channel.

    The error map's scale is labelled in uint8 levels and never below 4, so that one level does not look like a broken
    picture.
    """
    index = drift.worst_frame
    old, new = to_uint8(reference[index : index + 1])[0].numpy(), to_uint8(candidate[index : index + 1])[0].numpy()
    error = np.abs(old.astype(np.int16) - new.astype(np.int16)).max(axis=2)
    figure = Figure(figsize=(9.6, 3.5), dpi=100, layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    left.imshow(old)
    left.set_title(f"reference: {drift.reference}", fontsize=9)
    middle.imshow(new)
    middle.set_title(title, fontsize=9)
    heat = right.imshow(error, cmap="inferno", vmin=0, vmax=max(4, int(error.max())))
    right.set_title(f"largest difference of a channel: {int(error.max())} of 255", fontsize=9)
    figure.colorbar(heat, ax=right, label="uint8 levels", shrink=0.8)
    for axis in (left, middle, right):
        axis.set_axis_off()
    value = drift.psnr_db[index]
    words = "non-finite" if drift.non_finite[index] else "identical" if value is None else f"{value:.1f} dB"
    figure.suptitle(f"worst frame: {index} of {len(drift.psnr_db)}, {words}", fontsize=10)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    return drawn.getvalue()


#: What the same weights give in half precision is nearer than this to the reference, in dB.
_SAME_MAKER_DB = 40.0
#: PSNR that the reference needs against float64, in dB: between what fp32 and what TF32 reach.
REFERENCE_FLOOR_DB = 100.0
#: Below that, how far under the reference's own PSNR a row has to be: independent errors then move it by 0.4 dB.
_MARGIN_DB = 10.0
_CHECKED_FRAMES = 2
#: On a CPU one frame of this many pixels is checked: at full size, double precision takes minutes and 20 GB a frame.
_CPU_CHECK_SIZE = 128
#: Seconds that rendering the reference may still take before a person is told how many.
_LONG = 20.0


@dataclass(frozen=True)
class Reference:
    """Frames of PyTorch fp32 with TF32 off, and what checking them gave.

    `frames` is (T, 3, H, W) float32 on the host. `repeatable` says that a second run gave the same bits;
    `against_float64` is the PSNR in dB of what was `checked` against a float64 run of the same weights, None where a
    frame is not finite: then nothing else was checked.
    """

    frames: Tensor
    repeatable: bool
    against_float64: Drift | None
    checked: str = "the first frames"

    @property
    def good_for_db(self) -> float:
        """The highest PSNR that it can judge: any where it is sound, none where it is not finite or repeatable."""
        if self.against_float64 is None or not self.repeatable:
            return -math.inf
        own = self.against_float64.psnr_min
        return math.inf if own >= REFERENCE_FLOOR_DB else own - _MARGIN_DB

    @property
    def sound(self) -> bool:
        """Whether any drift may be measured against it."""
        return self.good_for_db == math.inf

    def warning(self, psnr_db: float) -> str | None:
        """What to say of frames that it finds `psnr_db` away; None where it is sound.

        Raises UserError where they are nearer than it can judge.
        """
        if self.sound:
            return None
        if self.repeatable and psnr_db <= self.good_for_db:
            return f"judged by a weak reference, good up to {self.good_for_db:.1f} dB: {self.sentence()}"
        up_to = f"{psnr_db:.1f} dB, only up to {self.good_for_db:.1f}" if self.repeatable else "anything"
        raise UserError(f"the reference cannot judge {up_to}: {self.sentence()}")

    def sentence(self) -> str:
        """What checking it gave, for the reader of a record or an error."""
        if self.against_float64 is None:
            return f"it {_broken_words(broken_frames(self.frames), len(self.frames))}"
        words = "repeatable" if self.repeatable else "not repeatable"
        own = f"{words}, {self.against_float64.psnr_min:.1f} dB against float64 in {self.checked}"
        return own if self.sound else f"{own} where {REFERENCE_FLOOR_DB:.0f} are needed"


def checked_reference(
    job: Job, items: list[dict[str, Tensor]], meaningful: bool, report: Reporter = SILENT
) -> Reference:
    """The reference for a job of the generator in fp32 and the inputs of every frame.

    `meaningful` is false under weights whose pictures say nothing about a trained renderer. `report` is told what takes
    long.
    """
    started = time.monotonic()
    done: list[float] = []

    def rendered(count: int) -> None:
        report.progress("reference", count, len(items))
        done.append(time.monotonic())
        # The first frame took what any first call takes.
        if count == 2 and (rest := (done[1] - done[0]) * (len(items) - 2)) > _LONG:
            report.log(f"rendering the reference: {len(items)} frames, about {rest:.0f} s to go")

    first = torch.cat(reference_frames(job, items, rendered=rendered))
    if broken_frames(first):
        return Reference(first, False, None)
    on_cpu = job.device.type == "cpu"
    some = items[: 1 if on_cpu else _CHECKED_FRAMES]
    again = torch.cat(reference_frames(job, some))
    repeatable = torch.equal(first[: len(some)], again)
    size, words = None, f"its first {len(some)} frames"
    if on_cpu:
        size, words = _CPU_CHECK_SIZE, f"a frame of {_CPU_CHECK_SIZE} pixels"
        some = [
            {**item, "source_image": F.interpolate(item["source_image"], (size, size), mode="area")} for item in some
        ]
        if time.monotonic() - started > _LONG:
            report.log(f"checking the reference in float64, on {words}: as long as a few frames")
        again = torch.cat(reference_frames(job, some, size=size))
    exact = torch.cat(reference_frames(job, some, torch.float64, size=size))
    drift = measure_drift(exact.float(), again, meaningful=meaningful, reference_name="pytorch fp64")
    return Reference(first, repeatable, drift, words)
