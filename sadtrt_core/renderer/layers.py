"""Building blocks shared by the keypoint detector and the generator.

Attribute names follow the entry names of SadTalker's published checkpoints, because a state dict must load strictly.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvBlock(nn.Module):
    """Convolution, batch norm, activation; (N, C, H, W) to (N, out, H, W), with a depth before H where `axes` is 3.

    `resize` "down" ends with a 2x2 mean, "up" begins with doubled height and width (nearest); the depth stays.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        axes: Literal[2, 3] = 2,
        resize: Literal["down", "up"] | None = None,
        negative_slope: float = 0.0,
    ) -> None:
        super().__init__()
        self.conv = (nn.Conv2d if axes == 2 else nn.Conv3d)(channels, out, 3, padding=1)
        self.norm = (nn.BatchNorm2d if axes == 2 else nn.BatchNorm3d)(out)
        self.volume = axes == 3
        self.resize = resize
        self.negative_slope = negative_slope

    def forward(self, x: Tensor) -> Tensor:
        if self.resize == "up":
            x = F.interpolate(x, scale_factor=(1.0, 2.0, 2.0) if self.volume else 2.0, mode="nearest")
        x = self.norm(self.conv(x))
        x = F.leaky_relu(x, self.negative_slope) if self.negative_slope else F.relu(x)
        if self.resize == "down":
            x = F.avg_pool3d(x, (1, 2, 2)) if self.volume else F.avg_pool2d(x, 2)
        return x


class ResBlock3d(nn.Module):
    """Pre-activation residual block over a volume; the shape is kept."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)
        self.norm1 = nn.BatchNorm3d(channels)
        self.norm2 = nn.BatchNorm3d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.norm1(x)))
        return x + self.conv2(F.relu(self.norm2(y)))


class SpectralConv2d(nn.Module):
    """Convolution with spectral norm (Miyato et al. 2018): weight_orig / (u^T W v), W of shape (out, rest).

    Keeps the checkpoint's entries `weight_orig`, `weight_u`, `weight_v`. `folded()` gives the plain convolution that
    inference, export and timing use. In training mode each call makes one power iteration, as spectral norm is
    defined.
    """

    weight_u: Tensor
    weight_v: Tensor

    def __init__(self, channels: int, out: int, kernel: int, bias: bool = True) -> None:
        super().__init__()
        plain = nn.Conv2d(channels, out, kernel, bias=bias)
        self.weight_orig = nn.Parameter(plain.weight.detach().clone())
        self.bias = plain.bias
        self.padding = kernel // 2
        self.register_buffer("weight_u", _random_direction(out))
        self.register_buffer("weight_v", _random_direction(channels * kernel * kernel))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight_orig / self._sigma(), self.bias, padding=self.padding)

    def _sigma(self) -> Tensor:
        matrix = self.weight_orig.flatten(1)
        # Without autocast: the norm of a whole matrix deserves more than eight bits.
        with torch.autocast(matrix.device.type, enabled=False):
            if self.training:
                with torch.no_grad():
                    self.weight_v.copy_(F.normalize(matrix.t() @ self.weight_u, dim=0))
                    self.weight_u.copy_(F.normalize(matrix @ self.weight_v, dim=0))
            # Cloned: the next call's power iteration must not change what this call's backward pass reads.
            return torch.dot(self.weight_u.clone(), matrix @ self.weight_v.clone())

    def folded(self) -> nn.Conv2d:
        """The same convolution with the norm divided out once, in double precision."""
        out, channels, kernel, _ = self.weight_orig.shape
        plain = nn.Conv2d(channels, out, kernel, padding=self.padding, bias=False)
        weight = self.weight_orig.detach().double()
        sigma = torch.dot(self.weight_u.double(), weight.flatten(1) @ self.weight_v.double())
        with torch.no_grad():
            plain.weight.copy_(weight / sigma)
        plain.bias = self.bias
        return plain.train(self.training)


def _random_direction(size: int) -> Tensor:
    """A unit vector; on the meta device one without values, because drawing there makes PyTorch import for a second."""
    empty = torch.empty(size)
    return empty if empty.is_meta else F.normalize(torch.randn(size), dim=0)


def fold_spectral_norm(module: nn.Module) -> None:
    """Replace every SpectralConv2d below `module`, on the host in float32, by its plain convolution, in place."""
    for name, child in module.named_children():
        if isinstance(child, SpectralConv2d):
            setattr(module, name, child.folded())
        else:
            fold_spectral_norm(child)


def coordinate_grid(depth: int, height: int, width: int) -> Tensor:
    """Coordinates -1..1 inclusive along each axis, (depth, height, width, 3) in the order x, y, z; float32."""
    # Always on the host: on the meta device these operators make PyTorch import for a second.
    axes = [torch.linspace(-1.0, 1.0, n, dtype=torch.float64, device="cpu") for n in (depth, height, width)]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    return torch.stack((x, y, z), dim=-1).float()
