"""The plugin's nodes in numpy, from their formulas, for onnx.reference; convolutions by PyTorch, which is faster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun


def identity(depth: int, height: int, width: int) -> np.ndarray:
    """Coordinates -1..1 inclusive, (depth, height, width, 3) in the order x, y, z."""
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in (depth, height, width)), indexing="ij")
    return np.stack((x, y, z), axis=-1)


def moved(driving: np.ndarray, source: np.ndarray, places: tuple[int, ...]) -> np.ndarray:
    """Where each motion takes a coordinate from, (N, K + 1, D, H, W, 3)."""
    offset = np.pad(source - driving, ((0, 0), (1, 0), (0, 0))).astype(np.float64)
    return identity(*places) + offset[:, :, None, None, None]


def trilinear(volume: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Samples (C, ...) of a volume (C, D, H, W) at points (..., 3) in -1..1, align_corners False, zeros outside."""
    sizes = np.array(volume.shape[:0:-1])
    position = ((points + 1) * sizes - 1) / 2
    low = np.floor(position).astype(np.int64)
    result = np.zeros((volume.shape[0], *points.shape[:-1]))
    for corner in np.ndindex(2, 2, 2):
        voxel = low + corner
        weight = np.prod(1 - np.abs(position - voxel), axis=-1)
        inside = ((voxel >= 0) & (voxel < sizes)).all(axis=-1)
        x, y, z = np.moveaxis(np.clip(voxel, 0, sizes - 1), -1, 0)
        result += np.where(inside, weight, 0) * volume[:, z, y, x]
    return result


class MotionInput(OpRun):
    def _run(self, volume: Any, driving: Any, source: Any, exponent: Any = None, plugin_version: Any = None) -> Any:
        batch, channels, *places = volume.shape
        points = moved(driving, source, tuple(places))
        result = np.zeros((batch, points.shape[1], 1 + channels, *places))

        def heat_map(keypoint: np.ndarray) -> np.ndarray:
            return np.exp(exponent * ((identity(*places) - keypoint) ** 2).sum(axis=-1))

        for n, k in np.ndindex(*points.shape[:2]):
            result[n, k, 0] = heat_map(driving[n, k - 1]) - heat_map(source[n, k - 1]) if k > 0 else 0
            result[n, k, 1:] = trilinear(volume[n], points[n, k])
        maps = result.reshape(batch, -1, *places).swapaxes(1, 2)
        return (maps.reshape(-1, *maps.shape[2:]).astype(volume.dtype),)


class MotionSum(OpRun):
    def _run(self, logits: Any, driving: Any, source: Any, floor: Any = None, plugin_version: Any = None) -> Any:
        powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
        mask = powers / powers.sum(axis=1, keepdims=True)
        mask[mask < floor] = 0
        mask = mask.reshape(len(driving), -1, *mask.shape[1:]).swapaxes(1, 2)
        return ((mask[..., None] * moved(driving, source, mask.shape[2:])).sum(axis=1).astype(np.float32),)


class SplitSum(OpRun):
    def _run(self, x: Any, bias: Any, *skip: Any, **attributes: Any) -> Any:
        said = {"depth": 1, "taps_depth": 1, "taps_height": 1, "taps_width": 1, "scale": 1, "pool": 0, "slope": 1.0}
        said["first_channel"] = 0
        said |= {name: value for name, value in attributes.items() if value is not None}
        depth, scale, taps = (
            said["depth"],
            said["scale"],
            [said[f"taps_{axis}"] for axis in ("depth", "height", "width")],
        )
        phases = min(scale, 3)
        first = said["first_channel"]
        x = x[:, first : first + int(np.prod(taps)) * phases**2 * len(bias)]
        parts = x.reshape(-1, depth, *taps, phases, phases, len(bias), *x.shape[2:]).astype(np.float64)
        along, down, across = ((size // 2, size // 2) for size in taps)
        padded = np.pad(parts, ((0, 0), along, *[(0, 0)] * 6, down, across))

        def windows(size: int) -> tuple[np.ndarray, np.ndarray]:
            """Of every row or column of the output, where x has it and in which phase."""
            cell, within = np.divmod(np.arange((size - (scale > 1)) * scale), scale)
            last = (within == scale - 1) & (scale > 1)
            return cell + last, np.where(last, phases - 1, np.minimum(within, 1))

        (rows, p), (columns, q) = (windows(size) for size in x.shape[2:])
        y = sum(
            padded[:, d : d + depth, d, i, j][:, :, p[:, None], q, :, rows[:, None] + i, columns + j]
            for d, i, j in np.ndindex(*taps)
        )
        y = (y + bias).transpose(2, 3, 4, 0, 1).reshape(-1, len(bias), len(rows), len(columns))
        y = np.where(y < 0, said["slope"] * y, y)
        if said["pool"]:
            height, width = len(rows) // 2, len(columns) // 2
            y = y[..., : height * 2, : width * 2].reshape(*y.shape[:2], height, 2, width, 2).mean(axis=(3, 5))
        return (np.concatenate((y.astype(x.dtype), *skip), axis=1),)


class SplitSumJoin(SplitSum):
    pass


class FoldDepth(OpRun):
    def _run(self, volume: Any, depth: Any = None, plugin_version: Any = None) -> Any:
        if depth:
            return (volume.reshape(-1, depth * volume.shape[1], *volume.shape[2:]),)
        batch, channels, depth, *plane = volume.shape
        return (volume.swapaxes(1, 2).reshape(batch, depth * channels, *plane),)


class PictureConv(OpRun):
    def _run(self, x: Any, weights: Any, bias: Any, plugin_version: Any = None) -> Any:
        tensors = (torch.from_numpy(array.astype(np.float64)) for array in (x, weights, bias))
        return (torch.sigmoid(F.conv2d(*tensors, padding=1)).float().numpy(),)


class GridSample3D(OpRun):
    def _run(self, volume: Any, grid: Any, **attributes: Any) -> Any:
        repeats = grid.shape[0] // volume.shape[0]
        samples = [trilinear(volume[i // repeats], points.astype(np.float64)) for i, points in enumerate(grid)]
        return (np.stack(samples).astype(volume.dtype),)


class Conv(OpRun):
    def _run(self, x: Any, weights: Any, bias: Any = None, **attributes: Any) -> Any:
        pads, spatial = attributes["pads"], x.ndim - 2
        padded = F.pad(torch.from_numpy(x.copy()), [n for i in reversed(range(spatial)) for n in pads[i::spatial]])
        convolution = F.conv3d if spatial == 3 else F.conv2d
        bias = None if bias is None else torch.from_numpy(bias.copy())
        return (convolution(padded, torch.from_numpy(weights.copy()), bias, tuple(attributes["strides"])).numpy(),)


def evaluate(
    model: onnx.ModelProto, inputs: dict[str, np.ndarray], further: Sequence[type[OpRun]] = ()
) -> list[np.ndarray]:
    """The outputs of a graph with nodes of the plugin, on the host; `further` are nodes that are not in this module."""
    operators = [MotionInput, MotionSum, SplitSum, SplitSumJoin, FoldDepth, PictureConv, GridSample3D, Conv]
    results: Any = ReferenceEvaluator(model, new_ops=[*operators, *further]).run(None, inputs)
    return list(results)
