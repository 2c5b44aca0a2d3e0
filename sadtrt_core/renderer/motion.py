"""Dense motion: from keypoints to a deformation of the appearance volume and an occlusion map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sadtrt_core.renderer.config import NUM_KEYPOINTS, RendererConfig
from sadtrt_core.renderer.layers import DownBlock3d, UpBlock3d, coordinate_grid
from sadtrt_core.renderer.sampling import sample_volume

GAUSSIAN_VARIANCE = 0.01
MASK_FLOOR = 1e-3
MOTIONS = NUM_KEYPOINTS + 1  # one for each keypoint, and one that stands still for the background


class HourglassEncoder(nn.Module):
    """Five blocks that halve height and width; returns the input and every block's output."""

    def __init__(self, width: int, width_max: int, channels: int, blocks: int) -> None:
        super().__init__()
        self.down_blocks = nn.ModuleList(
            DownBlock3d(channels if i == 0 else min(width_max, width * 2**i), min(width_max, width * 2 ** (i + 1)))
            for i in range(blocks)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = [x]
        for block in self.down_blocks:
            maps.append(block(maps[-1]))
        return maps


class HourglassDecoder(nn.Module):
    """Five blocks that double height and width, each followed by the skip of the same size."""

    def __init__(self, width: int, width_max: int, channels: int, blocks: int) -> None:
        super().__init__()
        ups = []
        for i in reversed(range(blocks)):
            doubled = 1 if i == blocks - 1 else 2
            ups.append(UpBlock3d(doubled * min(width_max, width * 2 ** (i + 1)), min(width_max, width * 2**i)))
        self.up_blocks = nn.ModuleList(ups)
        self.out_channels = width + channels
        self.conv = nn.Conv3d(self.out_channels, self.out_channels, 3, padding=1)
        self.norm = nn.BatchNorm3d(self.out_channels)

    def forward(self, maps: list[Tensor]) -> Tensor:
        x = maps[-1]
        for block, skip in zip(self.up_blocks, reversed(maps[:-1]), strict=True):
            x = torch.cat((block(x), skip), dim=1)
        return F.relu(self.norm(self.conv(x)))


class Hourglass(nn.Module):
    """Encoder and decoder with skips; (N, C, D, H, W) to (N, width + C, D, H, W)."""

    def __init__(self, width: int, width_max: int, channels: int, blocks: int = 5) -> None:
        super().__init__()
        self.encoder = HourglassEncoder(width, width_max, channels, blocks)
        self.decoder = HourglassDecoder(width, width_max, channels, blocks)
        self.out_channels = self.decoder.out_channels

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


class DenseMotion(nn.Module):
    """The motion stage's network.

    `forward(feature_3d (N, C, D, H, W), kp_driving (N, 15, 3), kp_source (N, 15, 3))` returns the deformation
    (N, D, H, W, 3), the occlusion (N, 1, H, W) and the mask (N, 16, D, H, W) of the motions.
    """

    grid: Tensor

    def __init__(self, config: RendererConfig) -> None:
        super().__init__()
        channels = MOTIONS * (config.motion_channels + 1)
        self.hourglass = Hourglass(config.motion_width, config.motion_width_max, channels)
        self.mask = nn.Conv3d(self.hourglass.out_channels, MOTIONS, 7, padding=3)
        self.compress = nn.Conv3d(config.feature_channels, config.motion_channels, 1)
        self.norm = nn.BatchNorm3d(config.motion_channels)
        self.occlusion = nn.Conv2d(self.hourglass.out_channels * config.feature_depth, 1, 7, padding=3)
        self.volume_shape = (config.feature_depth, config.feature_size, config.feature_size)
        self.register_buffer("grid", coordinate_grid(*self.volume_shape), persistent=False)

    def motions(
        self,
        kp_driving: Tensor,
        kp_source: Tensor,
        jacobian_driving: Tensor | None = None,
        jacobian_source: Tensor | None = None,
    ) -> Tensor:
        """Where each of the 16 motions takes a coordinate from: (N, 16, D, H, W, 3)."""
        # The background is a keypoint that stays at the origin: identity - 0 + 0.
        driving = F.pad(kp_driving, (0, 0, 1, 0))[:, :, None, None, None]
        source = F.pad(kp_source, (0, 0, 1, 0))[:, :, None, None, None]
        offset = self.grid - driving
        if jacobian_driving is not None and jacobian_source is not None:
            jacobian = jacobian_source @ torch.linalg.inv(jacobian_driving)
            identity = torch.eye(3, dtype=jacobian.dtype, device=jacobian.device).expand(jacobian.shape[0], 1, 3, 3)
            jacobian = torch.cat((identity, jacobian), dim=1)[:, :, None, None, None]
            offset = (jacobian @ offset[..., None])[..., 0]
        return offset + source

    def heatmaps(self, kp_driving: Tensor, kp_source: Tensor) -> Tensor:
        """Gaussian at each driving keypoint minus the one at its source, (N, 16, D, H, W); zero for the background."""

        def gaussian(keypoints: Tensor) -> Tensor:
            offset = self.grid - keypoints[:, :, None, None, None]
            return torch.exp(-0.5 / GAUSSIAN_VARIANCE * (offset * offset).sum(dim=-1))

        difference = gaussian(kp_driving) - gaussian(kp_source)
        return F.pad(difference, (0, 0, 0, 0, 0, 0, 1, 0))

    def forward(
        self,
        feature_3d: Tensor,
        kp_driving: Tensor,
        kp_source: Tensor,
        jacobian_driving: Tensor | None = None,
        jacobian_source: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        _, height, width = self.volume_shape
        volume = F.relu(self.norm(self.compress(feature_3d)))
        motions = self.motions(kp_driving, kp_source, jacobian_driving, jacobian_source)
        grids = motions.reshape(-1, *self.volume_shape, 3)
        sampled = sample_volume(volume, grids).reshape(-1, MOTIONS, volume.shape[1], *self.volume_shape)
        heatmaps = self.heatmaps(kp_driving, kp_source)[:, :, None]
        features = torch.cat((heatmaps, sampled), dim=2).reshape(
            -1, MOTIONS * (volume.shape[1] + 1), *self.volume_shape
        )
        features = self.hourglass(features)

        mask = torch.softmax(self.mask(features), dim=1)
        mask = torch.where(mask < MASK_FLOOR, 0.0, mask)
        deformation = (mask[..., None] * motions).sum(dim=1)
        maps = features.reshape(-1, self.occlusion.in_channels, height, width)
        occlusion = torch.sigmoid(self.occlusion(maps))
        return deformation, occlusion, mask
