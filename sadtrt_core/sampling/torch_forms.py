"""The forms in which PyTorch samples a volume: "so many times PyTorch" means nothing before one of them is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sadtrt_core.sampling.shapes import SamplingShape


def tiled(volume: Tensor, repeats: int) -> Tensor:
    """(N, C, D, H, W) to (N * repeats, C, D, H, W) in memory, each volume once for every grid, as SadTalker's code."""
    return volume[:, None].repeat(1, repeats, 1, 1, 1, 1).flatten(0, 1)


def expanded(volume: Tensor, repeats: int) -> Tensor:
    """The same tensor as a view that copies nothing, where there is one volume."""
    return volume.expand(repeats, -1, -1, -1, -1) if volume.shape[0] == 1 else tiled(volume, repeats)


class TorchLaunch:
    """One sampling by torch.nn.functional.grid_sample; a call enqueues it on the current stream and gives the samples.

    PyTorch wants features and grid in one type. The grid is cast to the features' type beforehand, or, where the
    coordinates are to stay fp32, the features to fp32 and the samples back in each call.
    """

    def __init__(self, form: TorchForm, volume: Tensor, grid: Tensor) -> None:
        self._repeats = grid.shape[0] // volume.shape[0]
        self._form, self._volume = form, form.before(volume, self._repeats)
        self._grid = grid if form.exact_coordinates else grid.to(volume.dtype)
        self._samples: Tensor | None = None

    def __call__(self) -> Tensor:
        volume = self._volume.to(self._grid.dtype)
        samples = F.grid_sample(self._form.each_call(volume, self._repeats), self._grid, align_corners=False)
        # Kept, so that every launch of a CUDA graph writes into memory of its own, as the other methods do.
        self._samples = samples.to(self._volume.dtype)
        return self._samples


def _as_it_is(volume: Tensor, repeats: int) -> Tensor:
    return volume


def _many_grids(shape: SamplingShape, dtype: torch.dtype) -> bool:
    return shape.repeats > 1


@dataclass(frozen=True)
class TorchForm:
    """One form. `before` is done to the volume once, `each_call` in every call; both take it and the grids a volume.

    `exact_coordinates` is False where the grid is rounded to the features' type. `applies` says for which shapes and
    types it is a form of its own.
    """

    name: str
    before: Callable[[Tensor, int], Tensor] = _as_it_is
    each_call: Callable[[Tensor, int], Tensor] = _as_it_is
    exact_coordinates: bool = False
    applies: Callable[[SamplingShape, torch.dtype], bool] = _many_grids


ONE_GRID = TorchForm("PyTorch", applies=lambda shape, dtype: shape.repeats == 1)
TILES_EACH_CALL = TorchForm("PyTorch, tiles in each call", each_call=tiled)
"""As SadTalker's own code does it."""
TILED_BEFORE = TorchForm("PyTorch, tiled before", before=tiled)
EXPANDED = TorchForm(
    "PyTorch, expanded view",
    each_call=expanded,
    applies=lambda shape, dtype: shape.repeats > 1 and shape.volumes == 1,
)
FP32_COORDINATES = TorchForm(
    "PyTorch, fp32 coordinates",
    each_call=expanded,
    exact_coordinates=True,
    applies=lambda shape, dtype: dtype != torch.float32,
)
"""The form as accurate as the kernel in half: all else rounds the coordinates."""

TORCH_FORMS = (ONE_GRID, TILES_EACH_CALL, TILED_BEFORE, EXPANDED, FP32_COORDINATES)
