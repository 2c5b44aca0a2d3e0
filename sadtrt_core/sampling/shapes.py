"""The renderer's two samplers as shapes: what they read and write, and inputs like the renderer's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sadtrt_core.progress import SILENT, Reporter

#: One sampling on tensors of its own: a call enqueues it on torch's current stream and gives (N*k, C, D', H', W').
Launch = Callable[[], Tensor]
#: Makes a launch of a volume and a grid.
Launcher = Callable[[Tensor, Tensor], Launch]
DEPTH = 16
"""Slices of every volume the renderer samples."""


@dataclass(frozen=True)
class SamplingShape:
    """Volumes (volumes, channels, 16, size, size) sampled with grids (grids, 16, size, size, 3)."""

    name: str
    channels: int
    size: int
    volumes: int
    grids: int

    @property
    def repeats(self) -> int:
        """How many grids read each volume."""
        return self.grids // self.volumes

    @property
    def volume_shape(self) -> tuple[int, ...]:
        return (self.volumes, self.channels, DEPTH, self.size, self.size)

    @property
    def grid_shape(self) -> tuple[int, ...]:
        return (self.grids, DEPTH, self.size, self.size, 3)

    @property
    def samples_shape(self) -> tuple[int, ...]:
        return (self.grids, self.channels, DEPTH, self.size, self.size)

    def bytes_moved(self, feature_bytes: int) -> int:
        """Every byte once: the volumes and the grids (fp32) read, the output written."""
        voxels = self.volumes * DEPTH * self.size**2
        points = self.grids * DEPTH * self.size**2
        return voxels * self.channels * feature_bytes + points * (12 + self.channels * feature_bytes)


@dataclass(frozen=True)
class Setting:
    """What is sampled, where, and how engines are built. `dtype` is the features' type; the grid is fp32."""

    shape: SamplingShape
    dtype: torch.dtype
    device: torch.device
    cache: Path
    optimization_level: int
    report: Reporter = SILENT


def renderer_shapes(batch: int) -> tuple[SamplingShape, ...]:
    """The renderer's two samplers for `batch` frames of 256 and 512 px: motion's sixteen moved copies, and the warp."""
    frames = f"{batch} x " if batch > 1 else ""
    return tuple(
        SamplingShape(f"{frames}{grids}, {channels} channels, {4 * size} px", channels, size, batch, batch * repeats)
        for size in (64, 128)
        for grids, channels, repeats in (("16 grids", 4, 16), ("1 grid", 32, 1))
    )


def renderer_grids(shape: SamplingShape, device: torch.device, seed: int) -> Tensor:
    """Grids like the renderer's, fp32: the identity under a small rotation and shift each, plus smooth local motion."""
    generator = torch.Generator(device).manual_seed(seed)
    axes = [torch.linspace(-1, 1, size, device=device) for size in (DEPTH, shape.size, shape.size)]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    identity = torch.stack((x, y, z), dim=-1)
    turn = torch.randn((shape.grids, 3, 3), generator=generator, device=device) * 0.05
    shift = torch.randn((shape.grids, 1, 1, 1, 3), generator=generator, device=device) * 0.1
    coarse = torch.randn((shape.grids, 3, 4, 8, 8), generator=generator, device=device) * 0.03
    local = torch.nn.functional.interpolate(coarse, size=identity.shape[:3], mode="trilinear", align_corners=True)
    turned = torch.einsum("dhwi,kij->kdhwj", identity, torch.eye(3, device=device) + turn)
    return (turned + shift + local.movedim(1, -1)).contiguous()


def renderer_volume(shape: SamplingShape, dtype: torch.dtype, device: torch.device, seed: int) -> Tensor:
    """A volume of standard normal features in `dtype`."""
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(shape.volume_shape, generator=generator, device=device).to(dtype)
