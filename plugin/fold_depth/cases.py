"""FoldDepth through its C interface, and what it is compared with: for the host tests and for plugin/check.py alike."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from plugin.common.launching import Checked, as_stored, empty_output, kind_of
from sadtrt_core.engine.kernels import FEATURE_TYPES, KernelLaunch

_SIZES = ("batch", "channels", "depth", "height", "width")


class Problem(ctypes.Structure):
    """SadtrtFoldDepth of fold_depth.h."""

    _fields_ = (
        ("input", ctypes.c_void_p),
        ("output", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in _SIZES),
        *((name, ctypes.c_int32) for name in ("feature_type", "channels_last", "of_maps")),
    )


@dataclass(frozen=True)
class Case:
    """One volume (N, C, D, H, W), a layout, and whether it is given as maps (N * D, C, H, W)."""

    volume: Tensor
    channels_last: bool
    of_maps: bool = False

    @property
    def kind(self) -> str:
        return kind_of(self.volume, self.channels_last, "maps" if self.of_maps else "volume")

    def __str__(self) -> str:
        return f"{tuple(self.volume.shape)}, {self.kind}"


def fold_launch(kernels: ctypes.CDLL, case: Case) -> KernelLaunch:
    """A case's launch, whose memory is taken once; it gives (N, D * C, H, W)."""
    batch, channels, depth, height, width = case.volume.shape
    output, result = empty_output((batch, depth * channels, height, width), case.volume, case.channels_last)
    problem = Problem(
        **dict(zip(_SIZES, case.volume.shape, strict=True)),
        feature_type=FEATURE_TYPES[case.volume.dtype],
        channels_last=case.channels_last,
        of_maps=case.of_maps,
    )
    given = case.volume.transpose(1, 2).flatten(0, 1) if case.of_maps else case.volume
    stored = as_stored(given, case.channels_last)
    return KernelLaunch(kernels, "sadtrt_fold_depth", problem, result, input=stored, output=output)


def in_torch(volume: Tensor) -> Tensor:
    """The same in PyTorch: channel d * C + c of the map is channel c at depth d."""
    return volume.transpose(1, 2).flatten(1, 2)


def worst_excess(case: Case, output: Tensor) -> float:
    """0 where every feature is where it belongs, else infinity."""
    return 0.0 if torch.equal(output, in_torch(case.volume)) else float("inf")


def random_cases(count: int, most_size: int, device: str = "cpu") -> Iterator[Case]:
    """`count` volumes of every type, layout and form; heights and widths up to `most_size`."""
    sizes = torch.Generator().manual_seed(13)
    values = torch.Generator(device).manual_seed(14)
    for number in range(count):
        dtype = tuple(FEATURE_TYPES)[number % 3]
        channels_last = dtype != torch.float32 and number // 3 % 2 == 1
        most = (3, 6 if channels_last else 21, 18, most_size + 1, most_size + 1)
        batch, channels, *places = (int(torch.randint(1, end, (), generator=sizes)) for end in most)
        shape = (batch, channels * 8 if channels_last else channels, *places)
        yield Case(torch.randn(shape, generator=values, device=device).to(dtype), channels_last, number // 6 % 2 == 1)


def check(kernels: ctypes.CDLL, count: int, quick: bool) -> Iterator[Checked]:
    """Every case has to be exact."""
    for case in random_cases(count, 9 if quick else 70, device="cuda"):
        yield Checked(case.kind, str(case), worst_excess(case, fold_launch(kernels, case)()))
