"""VolumeResize through its C interface, and what it is compared with: for the host tests and for check.py alike."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "common"))

from launching import FEATURE_TYPES, empty_output, from_channels_last, launch, to_channels_last, worst_share

MODES = ("halve", "double")
_SIZES = ("batch", "channels", "depth", "height", "width")


class Problem(ctypes.Structure):
    """SadtrtVolumeResize of volume_resize.h."""

    _fields_ = (
        ("input", ctypes.c_void_p),
        ("output", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in _SIZES),
        *((name, ctypes.c_int32) for name in ("feature_type", "channels_last", "mode")),
    )


@dataclass(frozen=True)
class Case:
    """One volume (N, C, D, H, W), a mode and a layout."""

    volume: Tensor
    mode: str
    channels_last: bool

    @property
    def output_shape(self) -> tuple[int, ...]:
        *kept, height, width = self.volume.shape
        return (*kept, height // 2, width // 2) if self.mode == "halve" else (*kept, height * 2, width * 2)

    def describe(self) -> str:
        layout = "channels last" if self.channels_last else "linear"
        return f"{self.mode}, {tuple(self.volume.shape)} {self.volume.dtype}, {layout}"


class Resize:
    """A case's launch, whose memory is taken once. A call queues it; `output` is as stored."""

    def __init__(self, library: ctypes.CDLL, case: Case) -> None:
        self._library, self._case = library, case
        self._input = to_channels_last(case.volume) if case.channels_last else case.volume.contiguous()
        self.output = empty_output(case.output_shape, case.volume, case.channels_last)
        self.problem = Problem(
            self._input.data_ptr(),
            self.output.data_ptr(),
            *case.volume.shape,
            FEATURE_TYPES[case.volume.dtype],
            case.channels_last,
            MODES.index(case.mode),
        )

    def __call__(self) -> None:
        launch(self._library, "sadtrt_volume_resize", self.problem, self._input.device)

    def result(self) -> Tensor:
        """The output as (N, C, D, H, W)."""
        return from_channels_last(self.output, self._case.volume.shape[1]) if self._case.channels_last else self.output


def in_torch(volume: Tensor, mode: str) -> Tensor:
    """The same in PyTorch, in the volume's type."""
    if mode == "halve":
        return torch.nn.functional.avg_pool3d(volume, (1, 2, 2))
    return torch.nn.functional.interpolate(volume, scale_factor=(1.0, 2.0, 2.0), mode="nearest")


def worst_excess(case: Case, output: Tensor) -> float:
    """Largest difference from PyTorch in fp64 as a share of what is allowed; doubling is exact."""
    expected = in_torch(case.volume.double(), case.mode)
    if case.mode == "double":
        return 0.0 if torch.equal(output.double(), expected) else float("inf")
    return worst_share(output, expected, float(case.volume.abs().amax()))


def random_cases(count: int, most_size: int, device: str = "cpu") -> Iterator[Case]:
    """`count` volumes of every type, mode and layout; heights and widths up to `most_size`, odd ones among them."""
    sizes = torch.Generator().manual_seed(11)
    values = torch.Generator(device).manual_seed(12)
    for number in range(count):
        mode = MODES[number % 2]
        dtype = tuple(FEATURE_TYPES)[number // 2 % 3]
        channels_last = dtype != torch.float32 and number // 6 % 2 == 1
        batch, channels, depth = (int(torch.randint(1, most, (), generator=sizes)) for most in (3, 21, 5))
        height, width = (int(torch.randint(2, most_size + 1, (), generator=sizes)) for _ in range(2))
        channels = channels * 8 if channels_last else channels
        shape = (batch, channels, depth, height, width)
        yield Case(torch.randn(shape, generator=values, device=device).to(dtype), mode, channels_last)
