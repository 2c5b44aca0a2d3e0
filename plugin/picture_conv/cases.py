"""What PictureConv's kernel is checked on and timed at: random maps, and the renderer's last convolution."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from plugin.common.launching import FP32_BOUND, Checked, kind_of, worst_share
from plugin.common.timing import Timing
from sadtrt_core.engine.kernels import FEATURE_TYPES, KernelLaunch

_SIZES = ("batch", "channels", "height", "width")
#: Channels of the renderer's last map, which has the picture's height and width.
CHANNELS = 64


class Problem(ctypes.Structure):
    """SadtrtPictureConv of picture_conv.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("input", "weights", "bias", "output")),
        *((name, ctypes.c_int64) for name in _SIZES),
        *((name, ctypes.c_int32) for name in ("feature_type", "channels_last")),
    )


@dataclass(frozen=True)
class Case:
    """A map (N, C, H, W) of any type and layout, weights (3, C, 3, 3) and a bias (3), both fp32."""

    map: Tensor
    weights: Tensor
    bias: Tensor
    channels_last: bool = False

    @property
    def kind(self) -> str:
        return kind_of(self.map, self.channels_last, "last convolution")

    def __str__(self) -> str:
        return f"{tuple(self.map.shape)}, {self.kind}"


def picture_launch(kernels: ctypes.CDLL, case: Case) -> KernelLaunch:
    """A case's launch, whose memory is taken once; it gives (N, 3, H, W)."""
    batch, _, height, width = case.map.shape
    output = torch.full((batch, 3, height, width), float("nan"), device=case.map.device)
    layout = torch.channels_last if case.channels_last else torch.contiguous_format
    problem = Problem(
        **dict(zip(_SIZES, case.map.shape, strict=True)),
        feature_type=FEATURE_TYPES[case.map.dtype],
        channels_last=case.channels_last,
    )
    stored = case.map.contiguous(memory_format=layout)
    tensors = {"input": stored, "weights": case.weights, "bias": case.bias, "output": output}
    return KernelLaunch(kernels, "sadtrt_picture_conv", problem, output, **tensors)


def in_torch(map_: Tensor, weights: Tensor, bias: Tensor) -> tuple[Tensor]:
    return (torch.sigmoid(F.conv2d(map_, weights, bias, padding=1)),)


def worst_excess(case: Case, output: Tensor) -> float:
    """Largest difference from PyTorch in fp64 as a share of what is allowed."""
    map_, weights, bias = (tensor.double() for tensor in (case.map, case.weights, case.bias))
    (expected,) = in_torch(map_, weights, bias)
    largest = F.conv2d(map_.abs(), weights.abs(), bias.abs(), padding=1)
    return worst_share(output, expected, FP32_BOUND * (1 + largest))


def timings() -> Iterator[Timing]:
    """The renderer's last convolution at 256 px."""
    shape = (1, CHANNELS, 256, 256)
    for dtype in (torch.float16, torch.float32):
        kernels = {"kernel, channels last": _channels_last} if dtype == torch.float16 else {}
        yield Timing(
            "picture conv",
            f"{CHANNELS} channels of 256 x 256",
            dtype,
            torch.Size(shape).numel() * dtype.itemsize + 3 * 256 * 256 * 4,
            partial(_timed_case, shape, dtype),
            kernels | {"kernel, linear": picture_launch},
            worst_excess,
            in_torch,
            _arguments,
        )


def _arguments(case: Case, dtype: torch.dtype) -> tuple[Tensor, ...]:
    return case.map.to(dtype, memory_format=torch.channels_last), case.weights.to(dtype), case.bias.to(dtype)


def _timed_case(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, seed: int) -> Case:
    return _case(shape, dtype, torch.Generator(device).manual_seed(seed), device)


def _case(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator, device: torch.device | str) -> Case:
    def values(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator, device=device)

    channels = shape[1]
    return Case(values(*shape).to(dtype), values(3, channels, 3, 3) / (9 * channels) ** 0.5, values(3))


def _channels_last(kernels: ctypes.CDLL, case: Case) -> KernelLaunch:
    return picture_launch(kernels, replace(case, channels_last=True))


def random_cases(count: int, most_size: int, device: str = "cpu") -> Iterator[Case]:
    """`count` maps of every type and layout; heights and widths up to `most_size`."""
    sizes = torch.Generator().manual_seed(31)
    values = torch.Generator(device).manual_seed(32)
    for number in range(count):
        dtype = tuple(FEATURE_TYPES)[number % 3]
        channels_last = dtype != torch.float32 and number // 3 % 2 == 1
        batch, channels, height, width = (
            int(torch.randint(1, most + 1, (), generator=sizes)) for most in (2, 9, most_size, most_size)
        )
        shape = (batch, channels * 8 if channels_last else channels * 5, height, width)
        yield replace(_case(shape, dtype, values, device), channels_last=channels_last)


def check(kernels: ctypes.CDLL, count: int, quick: bool) -> Iterator[Checked]:
    """Random cases against PyTorch in fp64."""
    for case in random_cases(count, 40 if quick else 150, device="cuda"):
        yield Checked(case.kind, str(case), worst_excess(case, picture_launch(kernels, case)()))
