"""The forms in which PyTorch samples a volume: "so many times PyTorch" means nothing before one of them is named."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

#: Takes a volume (N, C, D, H, W) and how many grids read it.
Form = Callable[[Tensor, int], Tensor]


def as_it_is(volume: Tensor, repeats: int) -> Tensor:
    """The volume, which one grid reads."""
    return volume


def tiled(volume: Tensor, repeats: int) -> Tensor:
    """(N, C, D, H, W) to (N * repeats, C, D, H, W) in memory, each volume once for every grid, as SadTalker's code."""
    return volume[:, None].repeat(1, repeats, 1, 1, 1, 1).flatten(0, 1)


def expanded(volume: Tensor, repeats: int) -> Tensor:
    """The same tensor as a view that copies nothing, where there is one volume."""
    return volume.expand(repeats, -1, -1, -1, -1) if volume.shape[0] == 1 else tiled(volume, repeats)


def torch_launch(
    volume: Tensor,
    grid: Tensor,
    before: Form = as_it_is,
    each_call: Form = as_it_is,
    exact_coordinates: bool = False,
) -> Callable[[], Tensor]:
    """One sampling by torch.nn.functional.grid_sample; a call enqueues it on the current stream and gives the samples.

    `before` is done to the volume once, `each_call` in every call. PyTorch wants features and grid in one type: the
    grid is cast to the features' type beforehand, or, with `exact_coordinates`, the features to fp32 and the samples
    back in each call.
    """
    repeats = grid.shape[0] // volume.shape[0]
    features = before(volume, repeats)
    coordinates = grid if exact_coordinates else grid.to(volume.dtype)
    samples: Tensor | None = None

    def launch() -> Tensor:
        # Kept, so that every launch of a CUDA graph writes into memory of its own, as the other methods do.
        nonlocal samples
        cast = each_call(features.to(coordinates.dtype), repeats)
        samples = F.grid_sample(cast, coordinates, align_corners=False).to(features.dtype)
        return samples

    return launch
