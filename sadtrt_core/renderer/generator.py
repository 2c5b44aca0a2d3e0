"""The generator: appearance encoder, dense motion, warp and SPADE decoder."""

from __future__ import annotations

import itertools
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sadtrt_core.renderer.config import NUM_KEYPOINTS, RendererConfig
from sadtrt_core.renderer.layers import ConvBlock, ResBlock3d, SpectralConv2d, coordinate_grid
from sadtrt_core.renderer.sampling import sample_volume

RESIDUAL_BLOCKS = 6
LEAK = 0.2
HOURGLASS_BLOCKS = 5
GAUSSIAN_VARIANCE = 0.01
MASK_FLOOR = 1e-3
MOTIONS = NUM_KEYPOINTS + 1  # one for each keypoint, and one that stands still for the background


class HourglassEncoder(nn.Module):
    """Blocks that halve height and width; returns the input (N, C, D, H, W) and every block's output."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        self.down_blocks = nn.ModuleList(ConvBlock(*pair, axes=3, resize="down") for pair in itertools.pairwise(widths))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = [x]
        for block in self.down_blocks:
            maps.append(block(maps[-1]))
        return maps


class HourglassDecoder(nn.Module):
    """Blocks that double height and width, each followed by the skip of the same size: (N, out_channels, D, H, W)."""

    def __init__(self, widths: list[int], channels: int) -> None:
        super().__init__()
        # Every block but the first reads the skip as well.
        read = [widths[-1], *(2 * width for width in widths[-2:0:-1])]
        pairs = zip(read, widths[-2::-1], strict=True)
        self.up_blocks = nn.ModuleList(ConvBlock(*pair, axes=3, resize="up") for pair in pairs)
        self.out_channels = widths[0] + channels
        self.conv = nn.Conv3d(self.out_channels, self.out_channels, 3, padding=1)
        self.norm = nn.BatchNorm3d(self.out_channels)

    def forward(self, maps: list[Tensor]) -> Tensor:
        x = maps[-1]
        for block, skip in zip(self.up_blocks, reversed(maps[:-1]), strict=True):
            x = torch.cat((block(x), skip), dim=1)
        return F.relu(self.norm(self.conv(x)))


class DenseMotion(nn.Module):
    """The motion stage's network.

    `forward(feature_3d (N, C, D, H, W), kp_driving (N, 15, 3), kp_source (N, 15, 3))` returns the deformation
    (N, D, H, W, 3), the occlusion (N, 1, H, W) and the mask (N, 16, D, H, W) of the motions.
    """

    grid: Tensor

    def __init__(self, config: RendererConfig) -> None:
        super().__init__()
        channels = MOTIONS * (config.motion_channels + 1)
        widths = [min(config.motion_width_max, config.motion_width * 2**i) for i in range(HOURGLASS_BLOCKS + 1)]
        encoder, decoder = HourglassEncoder([channels, *widths[1:]]), HourglassDecoder(widths, channels)
        self.hourglass = nn.Sequential(OrderedDict(encoder=encoder, decoder=decoder))
        self.mask = nn.Conv3d(decoder.out_channels, MOTIONS, 7, padding=3)
        self.compress = nn.Conv3d(config.feature_channels, config.motion_channels, 1)
        self.norm = nn.BatchNorm3d(config.motion_channels)
        self.occlusion = nn.Conv2d(decoder.out_channels * config.feature_depth, 1, 7, padding=3)
        self.volume_shape = (config.feature_depth, config.feature_size, config.feature_size)
        self.register_buffer("grid", coordinate_grid(*self.volume_shape), persistent=False)
        self.sampler = sample_volume

    def _gaussians(self, keypoints: Tensor) -> Tensor:
        """One for each keypoint, (N, 15, D, H, W)."""
        offset = self.grid - keypoints[:, :, None, None, None]
        return torch.exp(-0.5 / GAUSSIAN_VARIANCE * (offset * offset).sum(dim=-1))

    def forward(self, feature_3d: Tensor, kp_driving: Tensor, kp_source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        _, height, width = self.volume_shape
        volume = F.relu(self.norm(self.compress(feature_3d)))
        # Where each motion takes a coordinate from. The background is a keypoint that stays at the origin.
        driving = F.pad(kp_driving, (0, 0, 1, 0))[:, :, None, None, None]
        source = F.pad(kp_source, (0, 0, 1, 0))[:, :, None, None, None]
        motions = self.grid - driving + source
        sampled = self.sampler(volume, motions.reshape(-1, *self.volume_shape, 3))
        sampled = sampled.reshape(-1, MOTIONS, volume.shape[1], *self.volume_shape)
        # The background's heatmap is zero.
        heatmaps = F.pad(self._gaussians(kp_driving) - self._gaussians(kp_source), (0, 0, 0, 0, 0, 0, 1, 0))
        features = torch.cat((heatmaps[:, :, None], sampled), dim=2)
        features = self.hourglass(features.reshape(-1, MOTIONS * (volume.shape[1] + 1), *self.volume_shape))

        mask = torch.softmax(self.mask(features), dim=1)
        mask = torch.where(mask < MASK_FLOOR, 0.0, mask)
        deformation = (mask[..., None] * motions).sum(dim=1)
        occlusion = torch.sigmoid(self.occlusion(features.reshape(-1, self.occlusion.in_channels, height, width)))
        return deformation, occlusion, mask


class Spade(nn.Module):
    """Instance norm modulated by a map (Park et al. 2019): norm(x) * (1 + gamma(map)) + beta(map)."""

    def __init__(self, channels: int, map_channels: int, hidden: int) -> None:
        super().__init__()
        self.mlp_shared = nn.Sequential(nn.Conv2d(map_channels, hidden, 3, padding=1), nn.ReLU())
        self.mlp_gamma = nn.Conv2d(hidden, channels, 3, padding=1)
        self.mlp_beta = nn.Conv2d(hidden, channels, 3, padding=1)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        hidden = self.mlp_shared(modulation)
        return F.instance_norm(x) * (1 + self.mlp_gamma(hidden)) + self.mlp_beta(hidden)


class SpadeBlock(nn.Module):
    """Residual block of two SPADE convolutions; a learned shortcut where the width changes."""

    def __init__(self, channels: int, out: int, map_channels: int, hidden: int) -> None:
        super().__init__()
        middle = min(channels, out)
        self.conv_0 = SpectralConv2d(channels, middle, 3)
        self.conv_1 = SpectralConv2d(middle, out, 3)
        self.norm_0 = Spade(channels, map_channels, hidden)
        self.norm_1 = Spade(middle, map_channels, hidden)
        self.learned_shortcut = channels != out
        if self.learned_shortcut:
            self.conv_s = SpectralConv2d(channels, out, 1, bias=False)
            self.norm_s = Spade(channels, map_channels, hidden)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        shortcut = self.conv_s(self.norm_s(x, modulation)) if self.learned_shortcut else x
        y = self.conv_0(F.leaky_relu(self.norm_0(x, modulation), LEAK))
        y = self.conv_1(F.leaky_relu(self.norm_1(y, modulation), LEAK))
        return shortcut + y


class SpadeDecoder(nn.Module):
    """Warped map (N, C, H/4, W/4) to frame (N, 3, H, W) in 0..1; the map also modulates every block."""

    def __init__(self, config: RendererConfig) -> None:
        super().__init__()
        channels, hidden = config.warped_channels, config.spade_hidden
        wide = 2 * channels
        self.fc = nn.Conv2d(channels, wide, 3, padding=1)
        for i in range(RESIDUAL_BLOCKS):
            setattr(self, f"G_middle_{i}", SpadeBlock(wide, wide, channels, hidden))
        self.up_0 = SpadeBlock(wide, channels, channels, hidden)
        self.up_1 = SpadeBlock(channels, config.generator_width, channels, hidden)
        self.conv_img = nn.Conv2d(config.generator_width, 3, 3, padding=1)

    def forward(self, feature_map: Tensor) -> Tensor:
        x = self.fc(feature_map)
        for i in range(RESIDUAL_BLOCKS):
            x = getattr(self, f"G_middle_{i}")(x, feature_map)
        for block in (self.up_0, self.up_1):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            feature_map = F.interpolate(feature_map, scale_factor=2.0, mode="nearest")
            x = block(x, feature_map)
        return torch.sigmoid(self.conv_img(F.leaky_relu(x, LEAK)))


class Generator(nn.Module):
    """SadTalker's face renderer: source image and keypoints to a frame.

    `forward(source_image (N, 3, H, W) in 0..1, kp_driving (N, 15, 3), kp_source (N, 15, 3))` returns the frame
    (N, 3, H, W) in 0..1. Each of its four parts is also a stage that is timed, exported and built by itself.
    """

    def __init__(self, config: RendererConfig) -> None:
        super().__init__()
        width, width_max = config.generator_width, config.generator_width_max
        widths = [min(width_max, width * 2**i) for i in range(3)]
        self.first = ConvBlock(3, widths[0])
        self.down_blocks = nn.ModuleList(ConvBlock(*pair, resize="down") for pair in itertools.pairwise(widths))
        volume_channels = config.feature_channels * config.feature_depth
        size = config.feature_size
        self.volume_shape = (config.feature_channels, config.feature_depth, size, size)
        self.map_shape = (volume_channels, size, size)
        self.second = nn.Conv2d(widths[2], volume_channels, 1)
        self.resblocks_3d = nn.Sequential()
        for i in range(RESIDUAL_BLOCKS):
            self.resblocks_3d.add_module(f"3dr{i}", ResBlock3d(config.feature_channels))
        self.dense_motion_network = DenseMotion(config)
        self.third = ConvBlock(volume_channels, widths[2], negative_slope=0.01)
        self.fourth = nn.Conv2d(widths[2], widths[2], 1)
        self.decoder = SpadeDecoder(config)
        self.sampler = sample_volume

    def set_picture_size(self, size: int) -> None:
        """Render pictures of `size` pixels, at least 128, from now on: only shapes and the grid depend on it."""
        edge, motion = size // 4, self.dense_motion_network
        self.volume_shape = (*self.volume_shape[:2], edge, edge)
        self.map_shape = (self.map_shape[0], edge, edge)
        motion.volume_shape = (motion.volume_shape[0], edge, edge)
        motion.grid = coordinate_grid(*motion.volume_shape).to(motion.grid)

    def appearance(self, source_image: Tensor) -> Tensor:
        """Source image (N, 3, H, W) to the appearance volume (N, channels, depth, H/4, W/4)."""
        x = self.first(source_image)
        for block in self.down_blocks:
            x = block(x)
        return self.resblocks_3d(self.second(x).reshape(-1, *self.volume_shape))

    def warp(self, feature_3d: Tensor, deformation: Tensor, occlusion: Tensor) -> Tensor:
        """The volume sampled at the deformation (N, D, H/4, W/4, 3) and flattened to a map (N, C, H/4, W/4)."""
        x = self.sampler(feature_3d, deformation).reshape(-1, *self.map_shape)
        return self.fourth(self.third(x)) * occlusion

    def frame(self, feature_3d: Tensor, kp_driving: Tensor, kp_source: Tensor) -> Tensor:
        """The appearance volume and keypoints (N, 15, 3) to the frame (N, 3, H, W): all but `appearance`."""
        deformation, occlusion, _ = self.dense_motion_network(feature_3d, kp_driving, kp_source)
        return self.decoder(self.warp(feature_3d, deformation, occlusion))

    def forward(self, source_image: Tensor, kp_driving: Tensor, kp_source: Tensor) -> Tensor:
        return self.frame(self.appearance(source_image), kp_driving, kp_source)
