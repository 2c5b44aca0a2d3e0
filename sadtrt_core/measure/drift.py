"""How far a candidate's frames are from the reference's: PSNR, SSIM, uint8 levels, flicker."""

from __future__ import annotations

import io
import math

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from skimage.metrics import structural_similarity
from torch import Tensor

from sadtrt_core.records.schema import Drift
from sadtrt_core.runners.clip import to_uint8


def psnr(reference: Tensor, candidate: Tensor) -> float:
    """10 log10(1 / mean squared error), peak 1.0, in dB; infinite for equal tensors, NaN for NaN. Computed in float64."""
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
        flicker_db=tuple(
            _decibels(r, c) for r, c in zip(reference.diff(dim=0), candidate.diff(dim=0), strict=True)
        ),
        meaningful=meaningful,
        reference=reference_name,
    )


def _decibels(reference: Tensor, candidate: Tensor) -> float | None:
    value = psnr(reference, candidate)
    return value if math.isfinite(value) else None


def worst_frame_pictures(reference: Tensor, candidate: Tensor, drift: Drift) -> dict[str, bytes]:
    """PNG files of the worst frame: `reference`, `candidate` and `error`, the largest difference of a channel.

    The error map's scale is labelled in uint8 levels and never below 4, so that one level does not look like a broken
    picture.
    """
    index = drift.worst_frame
    old, new = to_uint8(reference[index : index + 1])[0].numpy(), to_uint8(candidate[index : index + 1])[0].numpy()
    error = np.abs(old.astype(np.int16) - new.astype(np.int16)).max(axis=2)
    figure = Figure(figsize=(3.6, 3.2), dpi=100, layout="constrained")
    axis = figure.subplots()
    heat = axis.imshow(error, cmap="inferno", vmin=0, vmax=max(4, int(error.max())))
    figure.colorbar(heat, ax=axis, label="uint8 levels", shrink=0.8)
    value = drift.psnr_db[index]
    words = "non-finite" if drift.non_finite[index] else "identical" if value is None else f"{value:.1f} dB"
    axis.set_title(f"frame {index}: {words}, largest {int(error.max())} of 255", fontsize=8)
    axis.set_axis_off()
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    return {"reference": _png(old), "candidate": _png(new), "error": drawn.getvalue()}


def _png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
