"""Pictures, and training pairs for stand-in weights: portraits and the same portraits warped by moved keypoints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import skimage.data
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from sadtrt_core.errors import UserError
from sadtrt_core.renderer.keypoints import canonical_keypoints, rotation_matrix

#: The astronaut's face in scikit-image's picture: left, top, right, bottom in pixels.
PORTRAIT_BOX = (96, 0, 352, 256)
WARP_WIDTH = 0.22  # Standard deviation of a keypoint's pull on the picture, in units of half the picture.
BACKGROUND_PULL = 0.15  # What holds the picture still where no keypoint is near.


def portrait() -> Tensor:
    """scikit-image's astronaut, the face cut out: (3, 256, 256) in 0..1."""
    left, top, right, bottom = PORTRAIT_BOX
    return _tensor(skimage.data.astronaut()[top:bottom, left:right])


def training_pictures(portraits: Sequence[Path]) -> list[Tensor]:
    """The pictures to fit on, each (3, H, W) in 0..1: those given, or scikit-image's bundled ones, portrait first.

    Raises UserError naming a file that is not a picture.
    """
    if portraits:
        return [load_picture(path) for path in portraits]
    return [portrait(), portrait(), _tensor(skimage.data.astronaut()), _tensor(skimage.data.chelsea())]


def load_picture(path: Path, size: int | None = None) -> Tensor:
    """Any picture that Pillow opens, upright, its middle square in 0..1, scaled to (3, size, size) where one is given.

    Raises UserError.
    """
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a picture ({error}): give a PNG or JPEG file") from error
    edge = size or min(upright.size)
    return _tensor(np.asarray(ImageOps.fit(upright, (edge, edge), Image.Resampling.LANCZOS)))


def _tensor(picture: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


class PairMaker:
    """Makes batches of (source picture, driving keypoints, source keypoints, target picture) on a device."""

    def __init__(self, pictures: Sequence[Tensor], size: int, seed: int, device: torch.device) -> None:
        # Every picture at twice the size, so that a zoomed crop is still sharp.
        edge = 2 * size
        self.pictures = torch.cat([F.interpolate(p[None], (edge, edge), mode="area") for p in pictures]).to(device)
        self.size = size
        self.device = device
        self.random = torch.Generator(device=device).manual_seed(seed)
        axis = (torch.arange(size, device=device) + 0.5) * (2 / size) - 1
        self.grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)
        self.canonical = canonical_keypoints().to(device)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform random numbers on the device."""
        return torch.rand(shape, generator=self.random, device=self.device) * (high - low) + low

    def sources(self, count: int) -> Tensor:
        """Random crops, turned, mirrored and recoloured: (count, 3, size, size)."""
        index = torch.randint(len(self.pictures), (count,), generator=self.random, device=self.device)
        zoom, angle = self.uniform(0.6, 1.0, count), self.uniform(-0.25, 0.25, count)
        mirror = torch.where(self.uniform(0, 1, count) < 0.5, -1.0, 1.0)
        cos, sin = zoom * torch.cos(angle), zoom * torch.sin(angle)
        room = (1 - zoom)[:, None] * self.uniform(-1, 1, count, 2)
        matrix = torch.stack((cos * mirror, -sin, room[:, 0], sin * mirror, cos, room[:, 1]), 1).reshape(-1, 2, 3)
        grid = F.affine_grid(matrix, [count, 3, self.size, self.size], align_corners=False)
        crops = F.grid_sample(self.pictures[index], grid, padding_mode="reflection", align_corners=False)
        gain, lift = self.uniform(0.7, 1.2, count, 3, 1, 1), self.uniform(-0.1, 0.1, count, 3, 1, 1)
        return (crops * gain + lift).clamp(0, 1)

    def keypoints(self, count: int) -> tuple[Tensor, Tensor]:
        """Driving and source keypoints (count, 15, 3): half face-shaped, half anywhere; moved by a similarity."""
        anywhere = self.uniform(-0.9, 0.9, count, 15, 3)
        face = self.canonical * self.uniform(0.7, 1.2, count, 1, 1) + self.uniform(-0.2, 0.2, count, 1, 3)
        source = torch.where(self.uniform(0, 1, count, 1, 1) < 0.5, face, anywhere)
        limits = math.radians(20), math.radians(12), math.radians(10)
        yaw, pitch, roll = (self.uniform(-limit, limit, count) for limit in limits)
        moved = source @ rotation_matrix(yaw, pitch, roll).transpose(1, 2) * self.uniform(0.9, 1.1, count, 1, 1)
        jitter = 0.03 * torch.randn((count, 15, 3), generator=self.random, device=self.device)
        return moved + self.uniform(-0.12, 0.12, count, 1, 3) + jitter, source

    def warp(self, source: Tensor, kp_driving: Tensor, kp_source: Tensor) -> Tensor:
        """The source picture moved as its keypoints did: Gaussian-weighted mean of their displacements."""
        offset = self.grid[None, None] - kp_driving[:, :, None, None, :2]
        pull = torch.exp(-(offset * offset).sum(-1, keepdim=True) / (2 * WARP_WIDTH**2))
        displacement = (kp_source - kp_driving)[:, :, None, None, :2]
        field = (pull * displacement).sum(1) / (pull.sum(1) + BACKGROUND_PULL)
        return F.grid_sample(source, self.grid + field, padding_mode="border", align_corners=False)

    def batch(self, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Source, driving keypoints, source keypoints, target."""
        source = self.sources(count)
        driving, origin = self.keypoints(count)
        return source, driving, origin, self.warp(source, driving, origin)

    def moved_portraits(self, count: int) -> tuple[Tensor, Tensor]:
        """The first picture under a random similarity, and where the canonical keypoints then are (z kept)."""
        zoom, angle, shift = (
            self.uniform(0.85, 1.15, count),
            self.uniform(-0.25, 0.25, count),
            self.uniform(-0.15, 0.15, count, 2),
        )
        cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
        turn = torch.stack((cos, -sin, sin, cos), dim=1).reshape(-1, 2, 2)
        points = self.canonical.expand(count, -1, -1).clone()
        points[:, :, :2] = points[:, :, :2] @ turn.transpose(1, 2) + shift[:, None]
        back = torch.linalg.inv(turn)
        matrix = torch.cat((back, -back @ shift[:, :, None]), dim=2)
        grid = F.affine_grid(matrix, [count, 3, self.size, self.size], align_corners=False)
        pictures = F.grid_sample(
            self.pictures[:1].expand(count, -1, -1, -1), grid, padding_mode="border", align_corners=False
        )
        return (pictures * self.uniform(0.8, 1.15, count, 3, 1, 1)).clamp(0, 1), points
