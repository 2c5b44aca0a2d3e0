"""VolumeJoinDouble through its C interface, and what it is compared with: for the host tests and for check.py alike."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from plugin.common.launching import as_stored, empty_output, kind_of
from plugin.volume_resize.cases import double
from sadtrt_core.engine.kernels import FEATURE_TYPES, KernelLaunch

_SIZES = ("batch", "first_channels", "second_channels", "depth", "height", "width")


class Problem(ctypes.Structure):
    """SadtrtVolumeJoinDouble of volume_resize.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("first", "second", "output")),
        *((name, ctypes.c_int64) for name in _SIZES),
        *((name, ctypes.c_int32) for name in ("feature_type", "channels_last")),
    )


@dataclass(frozen=True)
class Case:
    """Two volumes (N, C, D, H, W) that differ in C only, and a layout."""

    first: Tensor
    second: Tensor
    channels_last: bool

    @property
    def kind(self) -> str:
        return kind_of(self.first, self.channels_last, "join")

    def __str__(self) -> str:
        return f"{tuple(self.first.shape)} and {self.second.shape[1]} channels, {self.kind}"


def join_launch(kernels: ctypes.CDLL, case: Case) -> KernelLaunch:
    """A case's launch, whose memory is taken once; it gives (N, C, D, H, W)."""
    batch, channels, depth, height, width = case.first.shape
    second_channels = case.second.shape[1]
    shape = (batch, channels + second_channels, depth, 2 * height, 2 * width)
    output, result = empty_output(shape, case.first, case.channels_last)
    problem = Problem(
        **dict(zip(_SIZES, (batch, channels, second_channels, depth, height, width), strict=True)),
        feature_type=FEATURE_TYPES[case.first.dtype],
        channels_last=case.channels_last,
    )
    return KernelLaunch(
        kernels,
        "sadtrt_volume_join_double",
        problem,
        result,
        first=as_stored(case.first, case.channels_last),
        second=as_stored(case.second, case.channels_last),
        output=output,
    )


def worst_excess(case: Case, output: Tensor) -> float:
    """0 where the output is what PyTorch gives, else infinity: nothing is rounded."""
    (expected,) = double(torch.cat((case.first, case.second), dim=1))
    return 0.0 if torch.equal(output, expected) else float("inf")


def random_cases(count: int, most_size: int, device: str = "cpu") -> Iterator[Case]:
    """`count` pairs of volumes of every type and layout; heights and widths up to `most_size`."""
    sizes = torch.Generator().manual_seed(15)
    values = torch.Generator(device).manual_seed(16)
    for number in range(count):
        dtype = tuple(FEATURE_TYPES)[number % 3]
        channels_last = dtype != torch.float32 and number // 3 % 2 == 1
        batch, first, second, depth = (int(torch.randint(1, end, (), generator=sizes)) for end in (4, 6, 6, 5))
        plane = [int(torch.randint(1, most_size + 1, (), generator=sizes)) for _ in range(2)]
        volumes = [
            torch.randn((batch, width * 8 if channels_last else width, depth, *plane), generator=values, device=device)
            for width in (first, second)
        ]
        yield Case(*(volume.to(dtype) for volume in volumes), channels_last)
