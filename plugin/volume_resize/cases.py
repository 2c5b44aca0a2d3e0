"""VolumeResize through its C interface, and what it is compared with: for the host tests and for check.py alike."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from plugin.common.launching import FP32_BOUND, as_stored, empty_output, kind_of, worst_share
from plugin.common.timing import Timing
from sadtrt_core.engine.kernels import FEATURE_TYPES, KernelLaunch

MODES = ("halve", "double")
#: Mode, channels, height and width of the input, from the first of the hourglass's resizes to the last; depth is 16.
HOURGLASS = (
    *(("halve", 64 * 2**i, 64 // 2**i) for i in range(5)),
    *(("double", channels, size) for channels, size in ((1024, 2), (1024, 4), (512, 8), (256, 16), (128, 32))),
)
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

    @property
    def kind(self) -> str:
        return kind_of(self.volume, self.channels_last, self.mode)

    def __str__(self) -> str:
        return f"{tuple(self.volume.shape)}, {self.kind}"


def resize_launch(kernels: ctypes.CDLL, case: Case) -> KernelLaunch:
    """A case's launch, whose memory is taken once; it gives (N, C, D, H, W)."""
    output, result = empty_output(case.output_shape, case.volume, case.channels_last)
    problem = Problem(
        **dict(zip(_SIZES, case.volume.shape, strict=True)),
        feature_type=FEATURE_TYPES[case.volume.dtype],
        channels_last=case.channels_last,
        mode=MODES.index(case.mode),
    )
    stored = as_stored(case.volume, case.channels_last)
    return KernelLaunch(kernels, "sadtrt_volume_resize", problem, result, input=stored, output=output)


def halve(volume: Tensor) -> tuple[Tensor]:
    return (torch.nn.functional.avg_pool3d(volume, (1, 2, 2)),)


def double(volume: Tensor) -> tuple[Tensor]:
    return (torch.nn.functional.interpolate(volume, scale_factor=(1.0, 2.0, 2.0), mode="nearest"),)


IN_TORCH = {"halve": halve, "double": double}


def worst_excess(case: Case, output: Tensor) -> float:
    """Largest difference from PyTorch in fp64 as a share of what is allowed; doubling is exact."""
    (expected,) = IN_TORCH[case.mode](case.volume.double())
    if case.mode == "double":
        return 0.0 if torch.equal(output.double(), expected) else float("inf")
    return worst_share(output, expected, FP32_BOUND * float(case.volume.abs().amax()))


def timings() -> Iterator[Timing]:
    """The hourglass's resizes at 256 px, from the first to the last."""
    for dtype in (torch.float16, torch.float32):
        for mode, channels, size in HOURGLASS:
            shape = (1, channels, 16, size, size)
            kernels = {"kernel, channels last": _channels_last} if dtype == torch.float16 else {}
            elements = torch.Size(shape).numel()
            yield Timing(
                "volume resize",
                f"{mode} {channels} channels of {size} x {size}",
                dtype,
                (elements + (elements // 4 if mode == "halve" else elements * 4)) * dtype.itemsize,
                partial(_timed_case, shape, mode, dtype),
                kernels | {"kernel, linear": resize_launch},
                worst_excess,
                IN_TORCH[mode],
                lambda case, dtype: (case.volume.to(dtype, memory_format=torch.channels_last_3d),),
            )


def _timed_case(shape: tuple[int, ...], mode: str, dtype: torch.dtype, device: torch.device, seed: int) -> Case:
    generator = torch.Generator(device).manual_seed(seed)
    return Case(torch.randn(shape, generator=generator, device=device).to(dtype), mode, False)


def _channels_last(kernels: ctypes.CDLL, case: Case) -> KernelLaunch:
    return resize_launch(kernels, replace(case, channels_last=True))


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
