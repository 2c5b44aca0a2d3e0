"""Where the face is and how it moves: keypoint detector, mapping network and the pose between them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sadtrt_core.renderer.config import NUM_KEYPOINTS, RendererConfig
from sadtrt_core.renderer.layers import DownBlock2d, UpBlock3d, coordinate_grid

BLUR_SIGMA = 1.5
BLUR_TAPS = 13
TEMPERATURE = 0.1
ANGLE_BINS = 66
MAPPING_LAYERS = 3
DEGREES_TO_RADIANS = 3.14 / 180.0  # SadTalker divides by 180 and multiplies by 3.14, not by pi.


class AntiAliasDown(nn.Module):
    """Depthwise Gaussian blur with zero padding, then every fourth pixel."""

    weight: Tensor

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        offsets = torch.arange(BLUR_TAPS, dtype=torch.float32) - (BLUR_TAPS - 1) / 2
        line = torch.exp(-(offsets**2) / (2 * BLUR_SIGMA**2))
        kernel = line[:, None] * line[None, :]
        self.register_buffer("weight", (kernel / kernel.sum()).expand(channels, 1, -1, -1).clone())

    def forward(self, x: Tensor) -> Tensor:
        blurred = F.conv2d(x, self.weight, padding=BLUR_TAPS // 2, groups=self.weight.shape[0])
        return blurred[:, :, ::4, ::4]


class KeypointPredictor(nn.Module):
    """Image features lifted into a volume: (N, 3, H, W) to (N, out_channels, depth, H, W)."""

    def __init__(self, config: RendererConfig, blocks: int = 5) -> None:
        super().__init__()
        widths = [min(config.keypoint_width_max, config.keypoint_width * 2**i) for i in range(blocks + 1)]
        self.down_blocks = nn.Sequential()
        for i in range(blocks):
            self.down_blocks.add_module(f"down{i}", DownBlock2d(3 if i == 0 else widths[i], widths[i + 1]))
        self.lifted = widths[-1]
        self.depth = config.keypoint_depth
        self.lifted_size = config.feature_size // 2**blocks
        self.conv = nn.Conv2d(widths[-1], self.lifted * self.depth, 1)
        self.up_blocks = nn.Sequential()
        for i in range(blocks):
            self.up_blocks.add_module(f"up{i}", UpBlock3d(widths[blocks - i], widths[blocks - i - 1]))
        self.out_channels = widths[0]

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.down_blocks(x))
        # Constant shapes but for the batch keep the exported graph free of Shape nodes.
        x = x.reshape(-1, self.lifted, self.depth, self.lifted_size, self.lifted_size)
        return self.up_blocks(x)


class KeypointDetector(nn.Module):
    """Source image (N, 3, H, W) in 0..1 to canonical keypoints (N, 15, 3): x, y, z in -1..1."""

    grid: Tensor

    def __init__(self, config: RendererConfig) -> None:
        super().__init__()
        self.predictor = KeypointPredictor(config)
        self.kp = nn.Conv3d(self.predictor.out_channels, NUM_KEYPOINTS, 3, padding=1)
        self.down = AntiAliasDown()
        grid = coordinate_grid(config.keypoint_depth, config.feature_size, config.feature_size)
        self.register_buffer("grid", grid.reshape(-1, 3), persistent=False)

    def forward(self, source_image: Tensor) -> Tensor:
        logits = self.kp(self.predictor(self.down(source_image))).reshape(-1, NUM_KEYPOINTS, self.grid.shape[0])
        heatmap = torch.softmax(logits / TEMPERATURE, dim=2)
        return heatmap @ self.grid


class MappingNetwork(nn.Module):
    """Motion coefficients (N, 70, 27) to pose and expression heads.

    Returns yaw, pitch, roll as (N, 66) bins, translation (N, 3) and expression (N, 45).
    """

    def __init__(self, config: RendererConfig) -> None:
        super().__init__()
        width = config.mapping_width
        self.first = nn.Sequential(nn.Conv1d(config.coefficients, width, 7))
        for i in range(MAPPING_LAYERS):
            block = nn.Sequential(nn.LeakyReLU(0.1), nn.Conv1d(width, width, 3, dilation=3))
            setattr(self, f"encoder{i}", block)
        self.fc_roll = nn.Linear(width, ANGLE_BINS)
        self.fc_pitch = nn.Linear(width, ANGLE_BINS)
        self.fc_yaw = nn.Linear(width, ANGLE_BINS)
        self.fc_t = nn.Linear(width, 3)
        self.fc_exp = nn.Linear(width, 3 * NUM_KEYPOINTS)

    def forward(self, coefficients: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        x = self.first(coefficients)
        for i in range(MAPPING_LAYERS):
            x = getattr(self, f"encoder{i}")(x) + x[:, :, 3:-3]
        x = x.mean(dim=2)
        return self.fc_yaw(x), self.fc_pitch(x), self.fc_roll(x), self.fc_t(x), self.fc_exp(x)


def bins_to_radians(bins: Tensor) -> Tensor:
    """Expected angle of (N, 66) logits: softmax expectation times 3 degrees minus 99, in SadTalker's radians; (N,)."""
    index = torch.arange(ANGLE_BINS, device=bins.device, dtype=bins.dtype)
    degrees = (torch.softmax(bins, dim=1) * index).sum(dim=1) * 3.0 - 99.0
    return degrees * DEGREES_TO_RADIANS


def rotation_matrix(yaw: Tensor, pitch: Tensor, roll: Tensor) -> Tensor:
    """Rotation pitch(x) @ yaw(y) @ roll(z) for angles (N,) in radians; (N, 3, 3)."""
    # Arithmetic instead of zeros_like, which would export as a fill of unknown type and length.
    zero = yaw * 0.0
    one = zero + 1.0

    def matrix(*entries: Tensor) -> Tensor:
        return torch.stack(entries, dim=1).reshape(-1, 3, 3)

    cos, sin = torch.cos, torch.sin
    about_x = matrix(one, zero, zero, zero, cos(pitch), -sin(pitch), zero, sin(pitch), cos(pitch))
    about_y = matrix(cos(yaw), zero, sin(yaw), zero, one, zero, -sin(yaw), zero, cos(yaw))
    about_z = matrix(cos(roll), -sin(roll), zero, sin(roll), cos(roll), zero, zero, zero, one)
    return about_x @ about_y @ about_z


def transform_keypoints(canonical: Tensor, rotation: Tensor, translation: Tensor, expression: Tensor) -> Tensor:
    """R k + (0, t_y, 0) + expression: canonical (N, 15, 3), rotation (N, 3, 3), translation (N, 3), expression (N, 45).

    Only the y of the translation is used, as SadTalker's renderer does.
    """
    rotated = canonical @ rotation.transpose(1, 2)
    only_y = F.pad(translation[:, 1:2], (1, 1))
    return rotated + only_y[:, None, :] + expression.reshape(-1, NUM_KEYPOINTS, 3)


class PosedKeypoints(nn.Module):
    """The mapping stage: coefficients (N, 70, 27) and canonical keypoints (N, 15, 3) to keypoints (N, 15, 3)."""

    def __init__(self, mapping: MappingNetwork) -> None:
        super().__init__()
        self.mapping = mapping

    def forward(self, coefficients: Tensor, kp_canonical: Tensor) -> Tensor:
        yaw, pitch, roll, translation, expression = self.mapping(coefficients)
        rotation = rotation_matrix(bins_to_radians(yaw), bins_to_radians(pitch), bins_to_radians(roll))
        return transform_keypoints(kp_canonical, rotation, translation, expression)
