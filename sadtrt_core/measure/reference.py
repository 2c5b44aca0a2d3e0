"""The frames that drift is measured against, checked before anything is judged by them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sadtrt_core.measure.drift import measure_drift
from sadtrt_core.records.schema import Drift
from sadtrt_core.runners.base import Job
from sadtrt_core.runners.pytorch import reference_frames

#: What the reference has to hold against float64, in dB: fp32 holds 110 and more, PyTorch with TF32 let in holds 90.
REFERENCE_FLOOR_DB = 100.0
_CHECKED_FRAMES = 2


@dataclass(frozen=True)
class Reference:
    """Frames of PyTorch fp32 with TF32 off, and what checking them gave.

    `frames` is (T, 3, H, W) float32 on the host. `repeatable` says that a second run gave the same bits;
    `against_float64` is the PSNR in dB of the first frames against a float64 run of the same weights.
    """

    frames: Tensor
    repeatable: bool
    against_float64: Drift

    @property
    def sound(self) -> bool:
        """Whether drift may be measured against it."""
        return self.repeatable and self.against_float64.psnr_min >= REFERENCE_FLOOR_DB


def checked_reference(job: Job, items: list[dict[str, Tensor]], meaningful: bool) -> Reference:
    """The reference for a job of the generator in fp32 and the inputs of every frame.

    `meaningful` is false under weights whose pictures say nothing about a trained renderer.
    """
    first = torch.cat(reference_frames(job, items))
    again = torch.cat(reference_frames(job, items[:_CHECKED_FRAMES]))
    exact = torch.cat(reference_frames(job, items[:_CHECKED_FRAMES], torch.float64))
    checked = first[:_CHECKED_FRAMES]
    drift = measure_drift(exact.float(), checked, meaningful=meaningful, reference_name="pytorch fp64")
    return Reference(first, bool(torch.equal(checked, again)), drift)
