"""SplitSum through its C interface, and what it is compared with: for the host tests and for plugin/check.py alike."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from plugin.common.launching import FP32_BOUND, Checked, as_stored, empty_output, kind_of, worst_share
from plugin.common.timing import Timing
from sadtrt_core.engine.kernels import FEATURE_TYPES, KernelLaunch

_SIZES = ("maps", "outputs", "skip_channels", "x_channels", "first_channel", "height", "width")
_ATTRIBUTES = ("depth", "taps_depth", "taps_height", "taps_width", "scale")


class Problem(ctypes.Structure):
    """SadtrtSplitSum of split_sum.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "bias", "skip", "y")),
        *((name, ctypes.c_int64) for name in (*_SIZES, *_ATTRIBUTES)),
        ("slope", ctypes.c_float),
        *((name, ctypes.c_int32) for name in ("pool", "feature_type", "x_channels_last", "y_channels_last")),
    )


@dataclass(frozen=True)
class Attributes:
    """Those of the node."""

    depth: int = 1
    taps: tuple[int, int, int] = (1, 1, 1)
    scale: int = 1
    pool: int = 0
    slope: float = 1.0
    first_channel: int = 0

    def parts(self) -> int:
        """Channels of x for each output."""
        return self.taps[0] * self.taps[1] * self.taps[2] * min(self.scale, 3) ** 2

    def size_of_y(self, size_of_x: int) -> int:
        """Height or width of y."""
        inside = size_of_x - (self.scale > 1)
        return inside // 2 if self.pool else inside * self.scale


@dataclass(frozen=True)
class Case:
    """x (maps, at least first_channel + parts * O, h, w), bias (O), and what comes behind the sums or nothing.

    That is (maps, S, rows, columns).
    """

    x: Tensor
    bias: Tensor
    skip: Tensor | None = None
    how: Attributes = field(default_factory=Attributes)
    x_last: bool = False
    y_last: bool = False

    @property
    def kind(self) -> str:
        return kind_of(self.x, self.x_last, "to channels last" if self.y_last else "to linear")

    def __str__(self) -> str:
        skip = 0 if self.skip is None else self.skip.shape[1]
        return f"{tuple(self.x.shape)}, {skip} channels of a skip, {self.how}, {self.kind}"


def sum_launch(kernels: ctypes.CDLL, case: Case) -> KernelLaunch:
    """A case's launch, whose memory is taken once; it gives (maps, O + S, rows, columns)."""
    maps, channels, *size = case.x.shape
    outputs, skip_channels = case.bias.numel(), 0 if case.skip is None else case.skip.shape[1]
    shape = (maps, outputs + skip_channels, *(case.how.size_of_y(side) for side in size))
    y, result = empty_output(shape, case.x, case.y_last)
    inside = [side - (case.how.scale > 1) for side in size]
    problem = Problem(
        **dict(zip(_SIZES, (maps, outputs, skip_channels, channels, case.how.first_channel, *inside), strict=True)),
        **dict(zip(_ATTRIBUTES, (case.how.depth, *case.how.taps, case.how.scale), strict=True)),
        slope=case.how.slope,
        pool=case.how.pool,
        feature_type=FEATURE_TYPES[case.x.dtype],
        x_channels_last=case.x_last,
        y_channels_last=case.y_last,
    )
    skip = None if case.skip is None else as_stored(case.skip, case.y_last)
    x = as_stored(case.x, case.x_last)
    return KernelLaunch(kernels, "sadtrt_split_sum", problem, result, x=x, bias=case.bias, skip=skip, y=y)


def in_torch(x: Tensor, bias: Tensor, skip: Tensor | None, how: Attributes) -> tuple[Tensor]:
    """The same in PyTorch, in the type of x."""
    phases, (rows, columns) = min(how.scale, 3), x.shape[2:]
    x = x[:, how.first_channel : how.first_channel + how.parts() * bias.numel()]
    parts = x.unflatten(0, (-1, how.depth)).unflatten(2, (*how.taps, phases, phases, bias.numel()))
    along, down, across = (tap // 2 for tap in how.taps)
    padded = F.pad(parts, (across, across, down, down, *[0] * 12, along, along))
    total = torch.zeros((), dtype=x.dtype, device=x.device)
    for z, i, j in itertools.product(*map(range, how.taps)):
        total = total + padded[:, z : z + how.depth, z, i, j, ..., i : i + rows, j : j + columns]
    total = total.flatten(0, 1)  # (maps, phases, phases, O, rows, columns)
    for _ in range(2):  # Along height, then along width.
        total = _upsampled(total, how.scale) if how.scale > 1 else total[:, 0].transpose(-1, -2)
    summed = F.leaky_relu(total + bias[:, None, None], how.slope)
    if how.pool:
        summed = F.avg_pool2d(summed, 2)
    return (summed if skip is None else torch.cat((summed, skip), dim=1),)


def _upsampled(total: Tensor, scale: int) -> Tensor:
    """The phases of axis 1 put where they belong along axis -2, which then comes last, so that the other is next."""
    of_phase = total.unbind(1)
    first, last = of_phase[0][..., :-1, :], of_phase[-1][..., 1:, :]
    pixels = torch.stack((first, *[of_phase[1][..., :-1, :]] * (scale - 2), last), dim=-2)
    return pixels.flatten(-3, -2).transpose(-1, -2)


def worst_excess(case: Case, y: Tensor) -> float:
    """Largest difference from PyTorch in fp64 as a share of what is allowed."""
    skip = None if case.skip is None else case.skip.double()
    (expected,) = in_torch(case.x.double(), case.bias.double(), skip, case.how)
    return worst_share(y, expected, FP32_BOUND * max(1.0, float(case.x.abs().amax())))


#: What is timed, at 256 px: name, maps, outputs, channels of the skip, height and width of x's inside, attributes.
FRAME = (
    ("mask", 16, 16, 0, 64, Attributes(16, (7, 1, 1))),
    ("occlusion", 1, 1, 0, 64, Attributes(1, (1, 7, 7))),
    ("hourglass down, 64 channels", 16, 64, 0, 64, Attributes(16, (3, 1, 1), pool=1, slope=0.0)),
    ("hourglass down, 1024 channels", 16, 1024, 0, 4, Attributes(16, (3, 1, 1), pool=1, slope=0.0)),
    ("hourglass up, 512 channels", 16, 512, 512, 2, Attributes(16, (3, 1, 1), 2, slope=0.0)),
    ("hourglass up, 32 channels", 16, 32, 80, 32, Attributes(16, (3, 1, 1), 2, slope=0.0)),
    ("hourglass, 112 channels", 16, 112, 0, 64, Attributes(16, (3, 1, 1), slope=0.0)),
    ("up_0, 128 channels", 1, 128, 0, 64, Attributes(scale=2, slope=0.0)),
    ("up_1, 128 channels", 1, 128, 0, 64, Attributes(scale=4, slope=0.0)),
)


def timings() -> Iterator[Timing]:
    """The sums of a frame."""
    for dtype in (torch.float16, torch.float32):
        for name, maps, outputs, skip, size, how in FRAME:
            border = size + (how.scale > 1)
            of_y = maps * how.size_of_y(border) ** 2
            elements = maps * how.parts() * outputs * border**2 + of_y * (outputs + 2 * skip)
            kernels = {"kernel, channels last": _channels_last} if dtype == torch.float16 else {}
            yield Timing(
                "split sum",
                name,
                dtype,
                elements * dtype.itemsize,
                partial(_timed_case, (maps, outputs, skip, border, border), how, dtype),
                kernels | {"kernel, linear": sum_launch},
                worst_excess,
                partial(in_torch, how=how),
                _arguments,
            )


def _arguments(case: Case, dtype: torch.dtype) -> tuple[Tensor | None, ...]:
    last = torch.channels_last
    skip = None if case.skip is None else case.skip.to(dtype, memory_format=last)
    return case.x.to(dtype, memory_format=last), case.bias.to(dtype), skip


def _timed_case(shape: tuple[int, ...], how: Attributes, dtype: torch.dtype, device: torch.device, seed: int) -> Case:
    return _case(shape, how, dtype, torch.Generator(device).manual_seed(seed))


def _channels_last(kernels: ctypes.CDLL, case: Case) -> KernelLaunch:
    filled = case.bias.numel() % 8 == 0
    return sum_launch(kernels, replace(case, x_last=True, y_last=filled))


def _case(
    shape: tuple[int, ...], how: Attributes, dtype: torch.dtype, values: torch.Generator, behind: int = 0
) -> Case:
    """Of normal numbers: maps, outputs, channels of the skip, height and width of x; channels of x behind the sum's."""
    maps, outputs, skip_channels, *size = shape

    def normal(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=values, device=values.device)

    x = normal(maps, how.first_channel + how.parts() * outputs + behind, *size).to(dtype)
    skip = normal(maps, skip_channels, *map(how.size_of_y, size)).to(dtype) if skip_channels else None
    return Case(x, normal(outputs), skip, how)


def random_cases(count: int, most_size: int, device: str = "cpu") -> Iterator[Case]:
    """`count` sums of every type, layout and form; heights and widths up to `most_size`, odd ones among them."""
    sizes = torch.Generator().manual_seed(31)
    values = torch.Generator(device).manual_seed(32)

    def drawn(*choices: int) -> int:
        return choices[int(torch.randint(len(choices), (), generator=sizes))]

    for number in range(count):
        dtype = tuple(FEATURE_TYPES)[number % 3]
        layout = number // 3 % 3 if dtype != torch.float32 else 0
        form, depth = number // 9 % 4, drawn(1, 2, 5)
        taps = (drawn(1, 3, 5, 7), 1, 1)
        if form == 3:
            taps = (drawn(1, 3), drawn(1, 3, 7), drawn(1, 5))
        scale, pool = (drawn(2, 3, 4, 5) if form == 1 else 1), int(form == 2)
        first, behind = (drawn(0, 8, 16), drawn(0, 8)) if layout == 2 else (drawn(0, 1, 8), drawn(0, 3))
        how = Attributes(depth, taps, scale, pool, drawn(0, 1, 2) / 2, first)
        outputs, skip = (drawn(8, 16, 24), drawn(0, 8, 40)) if layout == 2 else (drawn(1, 3, 8), drawn(0, 1, 8))
        height, width = (int(torch.randint(3, most_size + 1, (), generator=sizes)) for _ in range(2))
        case = _case((depth * drawn(1, 2), outputs, skip, height, width), how, dtype, values, behind)
        yield replace(case, x_last=layout > 0, y_last=layout == 2)


def check(kernels: ctypes.CDLL, count: int, quick: bool) -> Iterator[Checked]:
    """Random cases against PyTorch in fp64."""
    for case in random_cases(count, 9 if quick else 40, device="cuda"):
        yield Checked(case.kind, str(case), worst_excess(case, sum_launch(kernels, case)()))
