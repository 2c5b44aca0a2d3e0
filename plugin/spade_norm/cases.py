"""SpadeNorm called through ctypes, random cases for it, and what it has to give: for check.py and the tests."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
LAYOUTS = ("linear", "channels_last")
FORMS = {"any": 0, "cluster": 1, "two kernels": 2}
#: Of the largest term, in roundings of fp32: what sums in another order may differ by.
ROUNDINGS = 32


class SpadeProblem(ctypes.Structure):
    """SadtrtSpadeNorm of plugin/spade_norm/spade_norm.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "residual", "modulation", "sum", "y", "workspace")),
        *((name, ctypes.c_int64) for name in ("workspace_bytes", "batch", "channels", "height", "width")),
        *((name, ctypes.c_float) for name in ("epsilon", "slope")),
        *((name, ctypes.c_int32) for name in ("feature_type", "layout", "form", "upsample")),
    )


@dataclass(frozen=True)
class Case:
    """x and residual (N, C, H, W), or none, modulation (N, 2 C, H, W), all of one type, and the node's attributes."""

    x: Tensor
    modulation: Tensor
    residual: Tensor | None = None
    epsilon: float = 1e-5
    slope: float = 0.2
    upsample: int = 1

    def describe(self) -> str:
        """One line that names the case."""
        added = "" if self.residual is None else " with a residual"
        return f"{tuple(self.x.shape)} {str(self.x.dtype).removeprefix('torch.')}{added}, slope {self.slope}"


class SpadeKernel:
    """A library with sadtrt_spade_norm, loaded."""

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))
        self._run = self.library.sadtrt_spade_norm
        self._run.argtypes = [ctypes.POINTER(SpadeProblem), ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int64]
        self._workspace = self.library.sadtrt_spade_norm_workspace
        self._workspace.argtypes = [ctypes.POINTER(SpadeProblem)]
        self._workspace.restype = ctypes.c_int64

    def run(self, problem: SpadeProblem, stream: int = 0) -> None:
        """Queue one launch. Raises ValueError with the library's sentence where it refuses."""
        message = ctypes.create_string_buffer(512)
        if self._run(ctypes.byref(problem), stream, message, len(message)):
            raise ValueError(message.value.decode())

    def workspace_bytes(self, problem: SpadeProblem) -> int:
        """What a launch of two kernels needs."""
        return int(self._workspace(ctypes.byref(problem)))


class SpadeLaunch:
    """One case's tensors in a layout, outputs of NaN: a call writes `y` and, with a residual, `sum`, as (N, C, H, W).

    It runs on the device of the case's tensors, there on PyTorch's current stream.
    """

    def __init__(self, kernel: SpadeKernel, case: Case, layout: str = "linear", form: str = "any") -> None:
        wanted = torch.channels_last if layout == "channels_last" else torch.contiguous_format
        self.kernel = kernel
        self.inputs = [
            None if given is None else given.contiguous(memory_format=wanted)
            for given in (case.x, case.residual, case.modulation)
        ]
        shape = (*case.x.shape[:2], *case.modulation.shape[2:])
        self.y = case.x.new_full(shape, float("nan")).contiguous(memory_format=wanted)
        self.sum = None if case.residual is None else torch.full_like(case.x, float("nan"), memory_format=wanted)
        x, residual, modulation = (None if t is None else t.data_ptr() for t in self.inputs)
        self.problem = SpadeProblem(
            x=x,
            residual=residual,
            modulation=modulation,
            sum=None if self.sum is None else self.sum.data_ptr(),
            y=self.y.data_ptr(),
            **dict(zip(("batch", "channels", "height", "width"), shape, strict=True)),
            epsilon=case.epsilon,
            slope=case.slope,
            feature_type=TYPES[case.x.dtype],
            layout=LAYOUTS.index(layout),
            form=FORMS[form],
            upsample=case.upsample,
        )
        # Whatever is written beyond the workspace's last byte lies in the four numbers that follow.
        size = kernel.workspace_bytes(self.problem)
        self.workspace = torch.full((size // 4 + 4,), float("nan"), device=case.x.device)
        self.problem.workspace, self.problem.workspace_bytes = self.workspace.data_ptr(), size

    def __call__(self) -> Tensor:
        on_gpu = self.y.is_cuda
        self.kernel.run(self.problem, torch.cuda.current_stream().cuda_stream if on_gpu else 0)
        return self.y


def layouts_of(case: Case) -> tuple[str, ...]:
    """The layouts that the kernel takes a case in."""
    return LAYOUTS if case.x.dtype != torch.float32 and case.x.shape[1] % 8 == 0 else LAYOUTS[:1]


def random_cases(count: int, most_pixels: int, most_channels: int, device: str = "cpu") -> Iterator[Case]:
    """Cases of every type, with and without a residual, with far means, constant planes and outliers among them."""
    chosen = random.Random(0)
    generator = torch.Generator(device).manual_seed(0)
    for number in range(count):
        dtype = tuple(TYPES)[number % 3]
        batch = chosen.choice((1, 1, 2, 3))
        channels = chosen.choice((chosen.randint(1, most_channels), 8 * chosen.randint(1, max(most_channels // 8, 1))))
        pixels = chosen.randint(1, most_pixels)
        height = chosen.choice((1, chosen.randint(1, pixels), int(pixels**0.5)))
        shape = (batch, channels, height, max(pixels // height, 1))
        x = torch.randn(shape, generator=generator, device=device)
        kind = number // 3 % 4
        if kind == 1:
            x = x + (1e4 if dtype == torch.float32 else 50.0)
        elif kind == 2:
            x = x.mean((2, 3), keepdim=True).expand(shape)
        elif kind == 3:
            x = torch.cat((x.flatten(2)[..., :1] * 1000, x.flatten(2)[..., 1:]), -1).reshape(shape)
        modulation = torch.randn((batch, 2 * channels, *shape[2:]), generator=generator, device=device)
        added = torch.randn(shape, generator=generator, device=device).to(dtype) if chosen.random() < 0.4 else None
        slope = chosen.choice((0.2, 1.0, 0.0))
        yield Case(x.to(dtype), modulation.to(dtype), added, chosen.choice((1e-5, 1e-3)), slope)


def normalised_input(case: Case) -> Tensor:
    """What is normalised: x, or its sum with the residual, rounded to the tensor's type."""
    return case.x if case.residual is None else (case.x.float() + case.residual.float()).to(case.x.dtype)


def reference(case: Case) -> tuple[Tensor, Tensor]:
    """y in fp64, and what the kernel's may differ from it by."""
    x = normalised_input(case).double()
    gamma, beta = case.modulation.double().chunk(2, 1)
    mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), correction=0, keepdim=True)
    deviation = (variance + case.epsilon).sqrt()
    normalised = (x - mean) / deviation
    if case.upsample > 1:
        normalised = torch.nn.functional.interpolate(normalised, scale_factor=case.upsample, mode="nearest")
    y = torch.nn.functional.leaky_relu(normalised * (1 + gamma) + beta, case.slope)
    # Statistics are taken relative to the first element: its distance costs roundings too.
    first = normalised.flatten(2)[..., :1, None].abs()
    terms = (1 + gamma.abs()) * (1 + normalised.abs() + first) + beta.abs()
    stored = torch.finfo(case.x.dtype)
    bound = terms * ROUNDINGS * torch.finfo(torch.float32).eps / 2 + y.abs() * stored.eps / 2 + stored.smallest_normal
    return y, bound


def worst_excess(case: Case, y: Tensor, expected: tuple[Tensor, Tensor]) -> float:
    """The largest difference as a multiple of the bound; infinity where something was not written."""
    difference = (y.double() - expected[0]).abs() / expected[1]
    return float("inf") if difference.isnan().any() else float(difference.max())


def sums_right(case: Case, launch: SpadeLaunch) -> bool:
    """Whether the written sum is x + residual, rounded once."""
    return launch.sum is None or torch.equal(launch.sum, normalised_input(case))
