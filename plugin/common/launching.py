"""Calling an operator's C interface through ctypes, for the host tests and the check.py of its folder."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from sadtrt_core.errors import UserError

FEATURE_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
"""SADTRT_FLOAT32, ... of library.h."""

FP32_BOUND = 1e-5
"""Largest difference of fp32 arithmetic from fp64, relative to the largest number that goes in."""

ROUNDING = {torch.float32: 0.0, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
"""Half a unit in the last place, relative: what one rounding to the stored type may change."""


def load_library(path: Path) -> ctypes.CDLL:
    """The kernel library, or kernels compiled for the host. Raises OSError where it cannot be loaded."""
    return ctypes.CDLL(str(path))


def launch(library: ctypes.CDLL, function: str, problem: ctypes.Structure, device: torch.device) -> None:
    """Queue one launch on the device's current stream, or run it on the host. Raises UserError where it is refused."""
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else None
    message = ctypes.create_string_buffer(512)
    size = ctypes.c_int64(len(message))
    if getattr(library, function)(ctypes.byref(problem), ctypes.c_void_p(stream), message, size) != 0:
        raise UserError(message.value.decode())


def to_channels_last(volume: Tensor) -> Tensor:
    """(N, C, D, H, W) as TensorRT's kDHWC8: (N, D, H, W, C rounded up to 8), NaN in the channels that are not there."""
    missing = -volume.shape[1] % 8
    padded = torch.nn.functional.pad(volume, (0, 0, 0, 0, 0, 0, 0, missing), value=float("nan"))
    return padded.permute(0, 2, 3, 4, 1).contiguous()


def from_channels_last(volume: Tensor, channels: int) -> Tensor:
    """(N, D, H, W, C rounded up to 8) as (N, C, D, H, W), contiguous."""
    return volume[..., :channels].permute(0, 4, 1, 2, 3).contiguous()


def empty_output(shape: tuple[int, ...], like: Tensor, channels_last: bool) -> Tensor:
    """Memory for an output (N, C, D, H, W) in either layout, of NaN, so that what is not written shows."""
    batch, channels, *places = shape
    stored = (batch, *places, channels) if channels_last else shape
    return torch.full(stored, float("nan"), dtype=like.dtype, device=like.device)


def worst_share(output: Tensor, expected: Tensor, scale: float) -> float:
    """Largest difference as a share of what is allowed (at most 1 passes); infinity where one of them is NaN.

    Allowed is FP32_BOUND times `scale`, plus one rounding of the expected value to the stored type (at least one of
    the smallest normal number).
    """
    if output.shape != expected.shape:
        return float("inf")
    rounding = ROUNDING[output.dtype] * expected.abs().clamp_min(torch.finfo(output.dtype).tiny)
    share = (output.double() - expected).abs() / (FP32_BOUND * scale + rounding)
    return float(torch.where(share.isnan(), torch.full_like(share, float("inf")), share).amax())
