"""The GridSample3D kernel without TensorRT, as plugin/grid_sample_3d/grid_sample_3d.h describes a launch of it."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sadtrt_core.engine.kernels import FEATURE_TYPES, KernelLaunch, workspace_bytes

FUNCTION = "sadtrt_grid_sample_3d"
#: Numbers of the struct's fields by the words for them; those of the modes are torch.nn.functional.grid_sample's.
NUMBERS: dict[str, dict[Any, int]] = {
    "feature_type": FEATURE_TYPES,
    "layout": {"linear": 0, "channels_last": 1},
    "interpolation": {"bilinear": 0, "nearest": 1},
    "padding": {"zeros": 0, "border": 1, "reflection": 2},
    "packing": {"auto": 0, "never": 1, "always": 2},
}
_POINTERS = ("volume", "grid", "output", "workspace")
_VOLUME_SIZES = ("volume_batch", "channels", "depth", "height", "width")
_GRID_SIZES = ("grid_batch", "out_depth", "out_height", "out_width")
_CHOICES = ("feature_type", "layout", "interpolation", "padding", "align_corners")
_TUNING = ("channels_per_thread", "wide_offsets", "packing", "half_coordinates")


class SamplingProblem(ctypes.Structure):
    """The struct SadtrtGridSample3D: pointers are integers, sizes count elements."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_int64) for name in ("workspace_bytes", *_VOLUME_SIZES, *_GRID_SIZES)),
        *((name, ctypes.c_int32) for name in (*_CHOICES, *_TUNING)),
    ]


def sampling_problem(
    volume_shape: tuple[int, ...],
    grid_shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    layout: str = "linear",
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    packing: str = "auto",
    wide_offsets: bool = False,
    channels_per_thread: int = 0,
    half_coordinates: bool = False,
) -> SamplingProblem:
    """Describe one launch; the pointers are left empty.

    volume_shape is (N, C, D, H, W) and grid_shape (N*k, D', H', W', 3) whatever the layout in memory; `mode`,
    `padding_mode` and `align_corners` are those of torch.nn.functional.grid_sample. Raises ValueError for shapes of
    another rank and for unknown words; sizes are checked by the library.
    """
    if len(volume_shape) != 5 or len(grid_shape) != 5 or grid_shape[-1] != 3:
        raise ValueError(
            f"a volume (N, C, D, H, W) and a grid (N*k, D', H', W', 3) are expected, not {tuple(volume_shape)} and "
            f"{tuple(grid_shape)}"
        )
    words = {
        "feature_type": dtype,
        "layout": layout,
        "interpolation": mode,
        "padding": padding_mode,
        "packing": packing,
    }
    for field, word in words.items():
        if word not in NUMBERS[field]:
            raise ValueError(f"{field} {word!r} is unknown: expected one of {', '.join(map(str, NUMBERS[field]))}")
    return SamplingProblem(
        **dict(zip(_VOLUME_SIZES, volume_shape, strict=True)),
        **dict(zip(_GRID_SIZES, grid_shape[:-1], strict=True)),
        **{field: NUMBERS[field][word] for field, word in words.items()},
        align_corners=int(align_corners),
        wide_offsets=int(wide_offsets),
        channels_per_thread=channels_per_thread,
        half_coordinates=int(half_coordinates),
    )


def kernel_launch(
    kernels: ctypes.CDLL,
    volume: Tensor,
    grid: Tensor,
    workspace: Tensor | None = None,
    device: torch.device | str | None = None,
    **choices: Any,
) -> KernelLaunch:
    """One sampling with memory of its own; a call queues it on torch's current stream and gives the samples.

    `volume` is (N, C, D, H, W), `grid` (N*k, D', H', W', 3) in fp32, the samples (N*k, C, D', H', W') in the volume's
    type; `choices` are `sampling_problem`'s. In layout "channels_last" the volume is laid out beforehand, as in an
    engine whose other layers use it too. Packing "never" does without a workspace; else one of the size that is of use
    is lent, or `workspace`. Tensors are made where `volume` is and copied to `device`, where that is given; samples
    that the kernel does not write are NaN.
    """
    device = volume.device if device is None else device
    problem = sampling_problem(tuple(volume.shape), tuple(grid.shape), volume.dtype, **choices)
    channels, points = volume.shape[1], grid.shape[1:4]
    if choices.get("layout") == "channels_last":
        # TensorRT's kDHWC8: (N, D, H, W, C rounded up to 8).
        volume = F.pad(volume.movedim(1, -1), (0, -channels % 8))
        output = volume.new_full((grid.shape[0], *points, volume.shape[-1]), float("nan")).to(device)
        samples = output[..., :channels].movedim(-1, 1)
    else:
        output = samples = volume.new_full((grid.shape[0], channels, *points), float("nan")).to(device)
    tensors = {"volume": volume.contiguous().to(device), "grid": grid.contiguous().to(device), "output": output}
    size = workspace_bytes(kernels, FUNCTION, problem) if choices.get("packing") != "never" else 0
    if workspace is None and size:
        workspace = torch.empty(size, dtype=torch.uint8, device=device)
    if workspace is not None:
        problem.workspace_bytes = workspace.nbytes
        tensors["workspace"] = workspace
    return KernelLaunch(kernels, FUNCTION, problem, samples, **tensors)
