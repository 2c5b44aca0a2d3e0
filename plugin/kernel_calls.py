"""Calls of the sampling kernel on torch tensors that are on a GPU."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sadtrt_core.engine.sampling_kernel import SamplingKernel, SamplingMode, SamplingProblem, sampling_problem


def call(
    kernel: SamplingKernel,
    volume: torch.Tensor,
    grid: torch.Tensor,
    output: torch.Tensor,
    mode: SamplingMode,
    layout: str = "linear",
    channels: int | None = None,
    channels_per_thread: int = 0,
    wide_offsets: bool = False,
    workspace: torch.Tensor | None = None,
    packing: str = "auto",
) -> None:
    """Queue one sampling on the current stream.

    In linear layout volume is (N, C, D, H, W) and output (N*k, C, Do, Ho, Wo); in channels-last layout both end in C
    rounded up to 8, and channels says what C is. workspace is what workspace_for gave, of any type.
    """
    problem = _problem(volume, grid, mode, layout, channels, channels_per_thread, wide_offsets, packing)
    stream = torch.cuda.current_stream().cuda_stream
    lent = (0, 0) if workspace is None else (workspace.data_ptr(), workspace.nbytes)
    kernel.launch(problem, volume.data_ptr(), grid.data_ptr(), output.data_ptr(), stream, lent)


def workspace_for(
    kernel: SamplingKernel, volume: torch.Tensor, grid: torch.Tensor, mode: SamplingMode
) -> torch.Tensor | None:
    """The workspace that a sampling in linear layout can use, on the volume's device; None where none is of use."""
    size = kernel.workspace_bytes(_problem(volume, grid, mode, "linear", None, 0, False, "auto"))
    return volume.new_empty(size, dtype=torch.uint8) if size else None


def _problem(
    volume: torch.Tensor,
    grid: torch.Tensor,
    mode: SamplingMode,
    layout: str,
    channels: int | None,
    channels_per_thread: int,
    wide_offsets: bool,
    packing: str,
) -> SamplingProblem:
    if layout == "linear":
        shape = tuple(volume.shape)
    else:
        shape = (volume.shape[0], channels or volume.shape[-1], *volume.shape[1:4])
    name = str(volume.dtype).removeprefix("torch.")
    return sampling_problem(shape, tuple(grid.shape), mode, name, layout, channels_per_thread, wide_offsets, packing)


def empty_output(volume: torch.Tensor, grid: torch.Tensor, layout: str = "linear") -> torch.Tensor:
    """An output for volume and grid in the same layout, filled with NaN so that a value not written is seen."""
    points = tuple(grid.shape[1:4])
    if layout == "linear":
        return volume.new_full((grid.shape[0], volume.shape[1], *points), float("nan"))
    return volume.new_full((grid.shape[0], *points, volume.shape[-1]), float("nan"))
