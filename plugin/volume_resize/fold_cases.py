"""FoldDepth through its C interface, and what it is compared with."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "common"))

from launching import FEATURE_TYPES, launch, to_channels_last

_SIZES = ("batch", "channels", "depth", "height", "width")


class Problem(ctypes.Structure):
    """SadtrtFoldDepth of fold_depth.h."""

    _fields_ = (
        ("input", ctypes.c_void_p),
        ("output", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in _SIZES),
        *((name, ctypes.c_int32) for name in ("feature_type", "channels_last")),
    )


@dataclass(frozen=True)
class Case:
    """One volume (N, C, D, H, W) and a layout."""

    volume: Tensor
    channels_last: bool

    def describe(self) -> str:
        layout = "channels last" if self.channels_last else "linear"
        return f"fold, {tuple(self.volume.shape)} {self.volume.dtype}, {layout}"


class Fold:
    """A case's launch, whose memory is taken once. A call queues it; `output` is as stored."""

    def __init__(self, library: ctypes.CDLL, case: Case) -> None:
        self._library, self._case = library, case
        batch, channels, depth, height, width = case.volume.shape
        shape = (batch, depth * channels, height, width)
        stored = (batch, height, width, depth * channels) if case.channels_last else shape
        self._input = to_channels_last(case.volume) if case.channels_last else case.volume.contiguous()
        self.output = torch.full(stored, float("nan"), dtype=case.volume.dtype, device=case.volume.device)
        self.problem = Problem(
            self._input.data_ptr(),
            self.output.data_ptr(),
            *case.volume.shape,
            FEATURE_TYPES[case.volume.dtype],
            case.channels_last,
        )

    def __call__(self) -> None:
        launch(self._library, "sadtrt_fold_depth", self.problem, self._input.device)

    def result(self) -> Tensor:
        """The output as (N, D * C, H, W)."""
        return self.output.permute(0, 3, 1, 2) if self._case.channels_last else self.output


def in_torch(volume: Tensor) -> Tensor:
    """The same in PyTorch: channel d * C + c of the map is channel c at depth d."""
    return volume.transpose(1, 2).flatten(1, 2)


def random_cases(count: int, most_size: int, device: str = "cpu") -> Iterator[Case]:
    """`count` volumes of every type and layout; heights and widths up to `most_size`."""
    sizes = torch.Generator().manual_seed(13)
    values = torch.Generator(device).manual_seed(14)
    for number in range(count):
        dtype = tuple(FEATURE_TYPES)[number % 3]
        channels_last = dtype != torch.float32 and number // 3 % 2 == 1
        most = (3, 6 if channels_last else 21, 18, most_size + 1, most_size + 1)
        batch, channels, *places = (int(torch.randint(1, end, (), generator=sizes)) for end in most)
        shape = (batch, channels * 8 if channels_last else channels, *places)
        yield Case(torch.randn(shape, generator=values, device=device).to(dtype), channels_last)
