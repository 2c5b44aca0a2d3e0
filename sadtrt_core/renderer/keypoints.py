"""Where the face is and how it moves: keypoint detector, mapping network and the pose between them.

A vector of motion coefficients is 64 expression numbers, three angles (pitch, yaw, roll in radians) and three
translations; 27 neighbouring vectors in time make one input of the mapping network, the middle one being the frame's
own. The stand-in weights learn this meaning, so that one driving sequence serves the mapping stage and the generator.

A pose is yaw, pitch and roll (N,) in radians, translation (N, 3) and expression offsets (N, 45), in this order.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sadtrt_core.renderer.config import COEFFICIENT_WINDOW, NUM_KEYPOINTS, RendererConfig
from sadtrt_core.renderer.layers import ConvBlock, coordinate_grid

BLUR_SIGMA = 1.5
BLUR_TAPS = 13
TEMPERATURE = 0.1
PREDICTOR_BLOCKS = 5
ANGLE_BINS = 66
MAPPING_LAYERS = 3
DEGREES_TO_RADIANS = 3.14 / 180.0  # SadTalker divides by 180 and multiplies by 3.14, not by pi.
EXPRESSIONS = 64
ANGLES = slice(64, 67)
TRANSLATIONS = slice(67, 70)
#: Keypoints move by at most about this much (in units of half the picture) for expression numbers of size one.
EXPRESSION_SCALE = 0.02
Pose = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


class AntiAliasDown(nn.Module):
    """Depthwise Gaussian blur with zero padding, then every fourth pixel."""

    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        offsets = torch.arange(BLUR_TAPS, dtype=torch.float32, device="cpu") - (BLUR_TAPS - 1) / 2
        line = torch.exp(-(offsets**2) / (2 * BLUR_SIGMA**2))
        kernel = line[:, None] * line[None, :]
        self.register_buffer("weight", (kernel / kernel.sum()).expand(3, 1, -1, -1).clone())

    def forward(self, x: Tensor) -> Tensor:
        blurred = F.conv2d(x, self.weight, padding=BLUR_TAPS // 2, groups=3)
        return blurred[:, :, ::4, ::4]


class KeypointPredictor(nn.Module):
    """Image features lifted into a volume: (N, 3, H, W) to (N, out_channels, depth, H, W)."""

    def __init__(self, config: RendererConfig) -> None:
        super().__init__()
        widths = [min(config.keypoint_width_max, config.keypoint_width * 2**i) for i in range(PREDICTOR_BLOCKS + 1)]
        self.down_blocks = nn.Sequential()
        for i, pair in enumerate(itertools.pairwise([3, *widths[1:]])):
            self.down_blocks.add_module(f"down{i}", ConvBlock(*pair, resize="down"))
        size = config.feature_size // 2**PREDICTOR_BLOCKS
        self.volume_shape = (widths[-1], config.keypoint_depth, size, size)
        self.conv = nn.Conv2d(widths[-1], widths[-1] * config.keypoint_depth, 1)
        self.up_blocks = nn.Sequential()
        for i, pair in enumerate(itertools.pairwise(reversed(widths))):
            self.up_blocks.add_module(f"up{i}", ConvBlock(*pair, axes=3, resize="up"))
        self.out_channels = widths[0]

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.down_blocks(x))
        # Constant shapes but for the batch keep the exported graph free of Shape nodes.
        return self.up_blocks(x.reshape(-1, *self.volume_shape))


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


def posed_keypoints(canonical: Tensor, pose: Pose) -> Tensor:
    """R k + (0, t_y, 0) + expression for canonical keypoints k (N or 1, 15, 3); (N, 15, 3).

    Only the y of the translation is used, as SadTalker's renderer does.
    """
    yaw, pitch, roll, translation, expression = pose
    rotated = canonical @ rotation_matrix(yaw, pitch, roll).transpose(1, 2)
    only_y = F.pad(translation[:, 1:2], (1, 1))
    return rotated + only_y[:, None, :] + expression.reshape(-1, NUM_KEYPOINTS, 3)


class PosedKeypoints(nn.Module):
    """The mapping stage: coefficients (N, 70, 27) and canonical keypoints (N, 15, 3) to keypoints (N, 15, 3)."""

    def __init__(self, mapping: MappingNetwork) -> None:
        super().__init__()
        self.mapping = mapping

    def forward(self, coefficients: Tensor, kp_canonical: Tensor) -> Tensor:
        yaw, pitch, roll, translation, expression = self.mapping(coefficients)
        angles = bins_to_radians(yaw), bins_to_radians(pitch), bins_to_radians(roll)
        return posed_keypoints(kp_canonical, (*angles, translation, expression))


def canonical_keypoints() -> Tensor:
    """Fifteen points of the built-in portrait, (1, 15, 3): x right, y down, z towards the viewer; it spans -1..1."""
    points = [
        (-0.10, -0.20, 0.25),  # eyes
        (0.12, -0.20, 0.25),
        (-0.13, -0.29, 0.26),  # brows
        (0.15, -0.29, 0.26),
        (0.01, 0.00, 0.40),  # nose
        (-0.12, 0.17, 0.28),  # corners and middle of the mouth
        (0.12, 0.17, 0.28),
        (0.00, 0.20, 0.33),
        (0.00, 0.41, 0.25),  # chin and jaw
        (-0.22, 0.20, 0.05),
        (0.24, 0.20, 0.05),
        (0.01, -0.45, 0.25),  # forehead, crown and hair
        (0.02, -0.82, 0.00),
        (-0.50, -0.35, -0.10),
        (0.54, -0.35, -0.10),
    ]
    return torch.tensor(points)[None]


def pose_of(coefficients: Tensor) -> Pose:
    """The pose in the middle of each window, from coefficients (N, 70 or more, 27).

    The expression offsets are a fixed linear map of the 64 expression numbers.
    """
    middle = coefficients[:, :, coefficients.shape[2] // 2]
    pitch, yaw, roll = middle[:, ANGLES].unbind(dim=1)
    drawn = np.random.default_rng(20240501).standard_normal((EXPRESSIONS, 3 * NUM_KEYPOINTS))
    basis = torch.from_numpy(drawn.astype(np.float32)) * (EXPRESSION_SCALE / EXPRESSIONS**0.5)
    return yaw, pitch, roll, middle[:, TRANSLATIONS], middle[:, :EXPRESSIONS] @ basis.to(middle)


def windows(vectors: Tensor, coefficients: int) -> Tensor:
    """Coefficient vectors (T, 70) as mapping inputs (T, coefficients, 27), the ends repeated.

    Models that take more than 70 coefficients get zeros for the rest.
    """
    half = COEFFICIENT_WINDOW // 2
    index = (torch.arange(vectors.shape[0])[:, None] + torch.arange(-half, half + 1)).clamp(0, vectors.shape[0] - 1)
    padded = F.pad(vectors, (0, coefficients - vectors.shape[1]))
    return padded[index].transpose(1, 2).contiguous()
