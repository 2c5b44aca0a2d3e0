"""Sampling a volume at a deformation, as one operation that the graph export can recognise."""

from __future__ import annotations

import itertools
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


def sample_in_half(volume: Tensor, grid: Tensor) -> Tensor:
    """`sample_volume` with positions, floor and weights in half, every step rounded; features are summed in float.

    What the public GridSample3D plugin does with half tensors. The arithmetic, step by step, is that of
    plugin/grid_sample_3d and of graph/grid_sample.py for the same attribute.
    """
    repeats, sizes = grid.shape[0] // volume.shape[0], volume.shape[2:]
    rows = volume.permute(0, 2, 3, 4, 1).flatten(1, 3)
    x, y, z = grid.half().flatten(1, 3).unbind(dim=2)
    neighbours = []
    for coordinate, size in zip((z, y, x), sizes, strict=True):
        position = ((coordinate + 1) * size - 1) * 0.5
        low = position.floor()
        high = low + 1
        both = []
        for voxel, weight in ((low, high - position), (high, position - low)):
            inside = (voxel >= 0) & (voxel <= size - 1)
            both.append((torch.where(inside, voxel, 0).long(), torch.where(inside, weight, 0)))
        neighbours.append(both)
    volumes = torch.arange(grid.shape[0], device=grid.device)[:, None] // repeats
    total = torch.zeros((), device=grid.device)
    for (plane, weight_z), (line, weight_y), (column, weight_x) in itertools.product(*neighbours):
        read = rows[volumes, (plane * sizes[1] + line) * sizes[2] + column].float()
        total = total + read * (weight_z * weight_y * weight_x).float()[..., None]
    return total.to(volume.dtype).transpose(1, 2).unflatten(2, grid.shape[1:4])


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
