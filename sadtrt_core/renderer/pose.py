"""Where faces and their motion live: the canonical keypoints, and what SadTalker's 70 motion coefficients mean.

A coefficient vector is 64 expression numbers, three angles (pitch, yaw, roll in radians) and three translations; 27
neighbouring vectors in time make one input of the mapping network, the middle one being the frame's own. The stand-in
weights learn this convention, so that the same driving sequence serves the mapping stage and the generator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sadtrt_core.renderer.config import COEFFICIENT_WINDOW, COEFFICIENTS, NUM_KEYPOINTS
from sadtrt_core.renderer.keypoints import rotation_matrix, transform_keypoints

EXPRESSIONS = 64
ANGLES = slice(64, 67)
TRANSLATIONS = slice(67, 70)
#: Keypoints move by at most about this much (in units of half the picture) for expression numbers of size one.
EXPRESSION_SCALE = 0.02


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


def expression_basis() -> Tensor:
    """The fixed linear map from 64 expression numbers to 45 keypoint offsets, (64, 45)."""
    values = np.random.default_rng(20240501).standard_normal((EXPRESSIONS, 3 * NUM_KEYPOINTS))
    return torch.from_numpy(values.astype(np.float32)) * (EXPRESSION_SCALE / EXPRESSIONS**0.5)


@dataclass(frozen=True)
class Pose:
    """What a frame's coefficients say: angles (N,) in radians, translation (N, 3), expression offsets (N, 45)."""

    yaw: Tensor
    pitch: Tensor
    roll: Tensor
    translation: Tensor
    expression: Tensor

    def keypoints(self, canonical: Tensor) -> Tensor:
        """Canonical keypoints (N or 1, 15, 3) in this pose, (N, 15, 3)."""
        count = self.yaw.shape[0]
        rotation = rotation_matrix(self.yaw, self.pitch, self.roll)
        return transform_keypoints(canonical.expand(count, -1, -1), rotation, self.translation, self.expression)


def pose_of(coefficients: Tensor) -> Pose:
    """The pose in the middle of each window, from coefficients (N, 70 or more, 27)."""
    middle = coefficients[:, :, coefficients.shape[2] // 2]
    pitch, yaw, roll = middle[:, ANGLES].unbind(dim=1)
    basis = expression_basis().to(middle)
    return Pose(yaw, pitch, roll, middle[:, TRANSLATIONS], middle[:, :EXPRESSIONS] @ basis)


def windows(vectors: Tensor, coefficients: int = COEFFICIENTS) -> Tensor:
    """Coefficient vectors (T, 70) as mapping inputs (T, coefficients, 27), the ends repeated.

    Models that take more than 70 coefficients get zeros for the rest.
    """
    half = COEFFICIENT_WINDOW // 2
    index = (torch.arange(vectors.shape[0])[:, None] + torch.arange(-half, half + 1)).clamp(0, vectors.shape[0] - 1)
    padded = torch.nn.functional.pad(vectors, (0, coefficients - vectors.shape[1]))
    return padded[index].transpose(1, 2).contiguous()
