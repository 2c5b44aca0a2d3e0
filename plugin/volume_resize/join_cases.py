"""VolumeJoinDouble through its C interface, and what it is compared with."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "common"))

from launching import FEATURE_TYPES, empty_output, from_channels_last, launch, to_channels_last
from resize_cases import in_torch

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
    def channels(self) -> int:
        return self.first.shape[1] + self.second.shape[1]

    def describe(self) -> str:
        layout = "channels last" if self.channels_last else "linear"
        return f"join, {tuple(self.first.shape)} + {self.second.shape[1]} {self.first.dtype}, {layout}"


class Join:
    """A case's launch, whose memory is taken once. A call queues it; `output` is as stored."""

    def __init__(self, library: ctypes.CDLL, case: Case) -> None:
        self._library, self._case = library, case
        stored = to_channels_last if case.channels_last else Tensor.contiguous
        self._inputs = [stored(volume) for volume in (case.first, case.second)]
        batch, channels, depth, height, width = case.first.shape
        shape = (batch, case.channels, depth, 2 * height, 2 * width)
        self.output = empty_output(shape, case.first, case.channels_last)
        self.problem = Problem(
            *(volume.data_ptr() for volume in (*self._inputs, self.output)),
            batch,
            channels,
            case.second.shape[1],
            depth,
            height,
            width,
            FEATURE_TYPES[case.first.dtype],
            case.channels_last,
        )

    def __call__(self) -> None:
        launch(self._library, "sadtrt_volume_join_double", self.problem, self.output.device)

    def result(self) -> Tensor:
        """The output as (N, C, D, H, W)."""
        return from_channels_last(self.output, self._case.channels) if self._case.channels_last else self.output


def expected(case: Case) -> Tensor:
    """The same in PyTorch."""
    return in_torch(torch.cat((case.first, case.second), dim=1), "double")


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
