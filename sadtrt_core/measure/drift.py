"""How far a candidate's frames are from the reference's, and the reference itself, checked before it judges."""

from __future__ import annotations

import io
import math
import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from skimage.metrics import structural_similarity
from torch import Tensor

from sadtrt_core.errors import UserError
from sadtrt_core.progress import SILENT, Reporter
from sadtrt_core.records.measurements import Drift
from sadtrt_core.runners.base import Job
from sadtrt_core.runners.clip import to_uint8
from sadtrt_core.runners.pytorch import reference_frames


def psnr(reference: Tensor, candidate: Tensor) -> float:
    """10 log10(1 / mean squared error) at peak 1.0, in dB, in float64; infinite for equal tensors, NaN for NaN."""
    error = (reference.double() - candidate.double()).square().mean().item()
    return math.inf if error == 0 else -10 * math.log10(error)


def measure_drift(
    reference: Tensor, candidate: Tensor, *, meaningful: bool = True, reference_name: str = "pytorch fp32"
) -> Drift:
    """Drift of frames (T, 3, H, W) in 0..1 against a reference of the same shape, frame by frame.

    PSNR is taken on the float frames, SSIM (Wang et al. 2004, scikit-image's default window) and the largest level
    difference on uint8 frames, flicker as the PSNR of frame-to-frame differences. Raises ValueError for other shapes.
    """
    if reference.shape != candidate.shape:
        raise ValueError(
            f"frames of shape {tuple(candidate.shape)} cannot be compared with a reference of {tuple(reference.shape)}"
        )
    broken = [not bool(torch.isfinite(frame).all()) for frame in candidate]
    old, new = to_uint8(reference).numpy(), to_uint8(candidate).numpy()
    levels = np.abs(old.astype(np.int16) - new.astype(np.int16)).max(axis=(1, 2, 3))
    return Drift(
        psnr_db=tuple(_decibels(r, c) for r, c in zip(reference, candidate, strict=True)),
        ssim=tuple(
            None if bad else float(structural_similarity(r, c, channel_axis=-1, data_range=255))
            for r, c, bad in zip(old, new, broken, strict=True)
        ),
        max_lsb=tuple(int(level) for level in levels),
        non_finite=tuple(broken),
        flicker_db=tuple(_decibels(r, c) for r, c in zip(reference.diff(dim=0), candidate.diff(dim=0), strict=True)),
        meaningful=meaningful,
        reference=reference_name,
    )


def _decibels(reference: Tensor, candidate: Tensor) -> float | None:
    value = psnr(reference, candidate)
    return value if math.isfinite(value) else None


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


#: PSNR that the reference needs against float64, in dB: between what fp32 and what TF32 reach.
REFERENCE_FLOOR_DB = 100.0
#: Below that, how far under the reference's own PSNR a row has to be: independent errors then move it by 0.4 dB.
_MARGIN_DB = 10.0
_CHECKED_FRAMES = 2
#: On a CPU one frame of this many pixels is checked: at full size, double precision takes minutes and 20 GB a frame.
_CPU_CHECK_SIZE = 128
#: Seconds that rendering the reference may take before a person is told how many.
_LONG = 20.0


@dataclass(frozen=True)
class Reference:
    """Frames of PyTorch fp32 with TF32 off, and what checking them gave.

    `frames` is (T, 3, H, W) float32 on the host. `repeatable` says that a second run gave the same bits;
    `against_float64` is the PSNR in dB of what was `checked` against a float64 run of the same weights.
    """

    frames: Tensor
    repeatable: bool
    against_float64: Drift
    checked: str = "the first frames"

    @property
    def good_for_db(self) -> float:
        """The highest PSNR that it can judge: any where it is sound, none where it is not repeatable."""
        if not self.repeatable:
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

    def rendered(count: int) -> None:
        report.progress("reference", count, len(items))
        rest = (time.monotonic() - started) * (len(items) - 1)
        if count == 1 and rest > _LONG:
            report.log(f"rendering the reference: {len(items)} frames, about {rest:.0f} s")

    first = torch.cat(reference_frames(job, items, rendered=rendered))
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
