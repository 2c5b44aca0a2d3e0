"""The generator: appearance encoder, warp and SPADE decoder around the dense motion network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sadtrt_core.renderer.config import RendererConfig
from sadtrt_core.renderer.layers import ConvBlock2d, DownBlock2d, ResBlock3d, SpectralConv2d
from sadtrt_core.renderer.motion import DenseMotion
from sadtrt_core.renderer.sampling import sample_volume

RESIDUAL_BLOCKS = 6
LEAK = 0.2


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
    (N, 3, H, W) in 0..1. Jacobians (N, 15, 3, 3) are optional. The four parts are methods of their own, because each
    is a stage that is timed, exported and built by itself.
    """

    def __init__(self, config: RendererConfig) -> None:
        super().__init__()
        self.config = config
        width, width_max = config.generator_width, config.generator_width_max
        widths = [min(width_max, width * 2**i) for i in range(3)]
        self.first = ConvBlock2d(3, widths[0])
        self.down_blocks = nn.ModuleList(DownBlock2d(widths[i], widths[i + 1]) for i in range(2))
        volume_channels = config.feature_channels * config.feature_depth
        self.second = nn.Conv2d(widths[2], volume_channels, 1)
        self.resblocks_3d = nn.Sequential()
        for i in range(RESIDUAL_BLOCKS):
            self.resblocks_3d.add_module(f"3dr{i}", ResBlock3d(config.feature_channels))
        self.dense_motion_network = DenseMotion(config)
        self.third = ConvBlock2d(volume_channels, widths[2], negative_slope=0.01)
        self.fourth = nn.Conv2d(widths[2], widths[2], 1)
        self.decoder = SpadeDecoder(config)

    def appearance(self, source_image: Tensor) -> Tensor:
        """Source image (N, 3, H, W) to the appearance volume (N, channels, depth, H/4, W/4)."""
        x = self.first(source_image)
        for block in self.down_blocks:
            x = block(x)
        size = self.config.feature_size
        x = self.second(x).reshape(-1, self.config.feature_channels, self.config.feature_depth, size, size)
        return self.resblocks_3d(x)

    def warp(self, feature_3d: Tensor, deformation: Tensor, occlusion: Tensor) -> Tensor:
        """The volume sampled at the deformation (N, D, H/4, W/4, 3) and flattened to a map (N, C, H/4, W/4)."""
        x = sample_volume(feature_3d, deformation)
        size = self.config.feature_size
        x = x.reshape(-1, self.config.feature_channels * self.config.feature_depth, size, size)
        return self.fourth(self.third(x)) * occlusion

    def forward(
        self,
        source_image: Tensor,
        kp_driving: Tensor,
        kp_source: Tensor,
        jacobian_driving: Tensor | None = None,
        jacobian_source: Tensor | None = None,
    ) -> Tensor:
        feature_3d = self.appearance(source_image)
        deformation, occlusion, _ = self.dense_motion_network(
            feature_3d, kp_driving, kp_source, jacobian_driving, jacobian_source
        )
        return self.decoder(self.warp(feature_3d, deformation, occlusion))
