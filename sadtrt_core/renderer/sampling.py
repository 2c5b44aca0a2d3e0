"""Sampling a volume at a deformation, as one operation that the graph export can recognise."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

NODE_TYPE = "GridSample3D"


class _ExportedGridSample(torch.autograd.Function):
    """Becomes one GridSample3D node in ONNX; never called outside an export."""

    @staticmethod
    def forward(ctx: Any, volume: Tensor, grid: Tensor) -> Tensor:
        return _sample(volume, grid)

    @staticmethod
    def symbolic(g: Any, volume: Any, grid: Any) -> Any:
        shape, places = volume.type().sizes(), grid.type().sizes()
        node = g.op(NODE_TYPE, volume, grid, interpolation_i=0, padding_i=0, align_corners_i=0, plugin_version_s="1")
        if shape is not None and places is not None:
            node.setType(volume.type().with_sizes([places[0], shape[1], *places[1:4]]))
        return node


def _sample(volume: Tensor, grid: Tensor) -> Tensor:
    repeats = grid.shape[0] // volume.shape[0]
    if repeats > 1:
        volume = volume[:, None].expand(-1, repeats, -1, -1, -1, -1).flatten(0, 1)
    return F.grid_sample(volume, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def sample_volume(volume: Tensor, grid: Tensor) -> Tensor:
    """Trilinear samples, zeros outside, align_corners False (SadTalker's choice, though its grid spans -1..1 inclusive).

    `volume` is (N, C, D, H, W); `grid` is (N * k, D', H', W', 3) with x, y, z in -1..1; sample i reads volume i // k.
    Returns (N * k, C, D', H', W').
    """
    if torch.onnx.is_in_onnx_export():
        return _ExportedGridSample.apply(volume, grid)
    return _sample(volume, grid)
