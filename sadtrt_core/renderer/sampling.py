"""Sampling a volume at a deformation, as one operation that the graph export can recognise."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

NODE_TYPE = "GridSample3D"


class _ExportedGridSample(torch.autograd.Function):
    """Becomes one GridSample3D node in ONNX; never called outside an export.

    The static sizes travel as attributes, because no shape inference knows a custom node: `volume_shape` is
    (C, D, H, W), `grid_shape` is (D', H', W'), `repeats` is how many grids read each volume.
    """

    @staticmethod
    def forward(ctx: Any, volume: Tensor, grid: Tensor, *sizes: Any) -> Tensor:
        return _sample(volume, grid)

    @staticmethod
    def symbolic(g: Any, volume: Any, grid: Any, volume_shape: list[int], grid_shape: list[int], repeats: int) -> Any:
        node = g.op(
            NODE_TYPE,
            volume,
            grid,
            interpolation_i=0,
            padding_i=0,
            align_corners_i=0,
            plugin_version_s="1",
            volume_shape_i=volume_shape,
            grid_shape_i=grid_shape,
            repeats_i=repeats,
        )
        return node.setType(volume.type().with_sizes([None, volume_shape[0], *grid_shape]))


def _sample(volume: Tensor, grid: Tensor) -> Tensor:
    repeats = grid.shape[0] // volume.shape[0]
    if repeats > 1:
        volume = volume[:, None].expand(-1, repeats, -1, -1, -1, -1).flatten(0, 1)
    return F.grid_sample(volume, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def sample_volume(volume: Tensor, grid: Tensor) -> Tensor:
    """Trilinear samples, zeros outside, align_corners False, though SadTalker's grid spans -1..1 inclusive.

    `volume` is (N, C, D, H, W); `grid` is (N * k, D', H', W', 3) with x, y, z in -1..1; sample i reads volume i // k.
    Returns (N * k, C, D', H', W').
    """
    if torch.onnx.is_in_onnx_export():
        volume_shape, grid_shape = [int(n) for n in volume.shape[1:]], [int(n) for n in grid.shape[1:4]]
        repeats = int(grid.shape[0]) // int(volume.shape[0])
        return _ExportedGridSample.apply(volume, grid, volume_shape, grid_shape, repeats)
    return _sample(volume, grid)
