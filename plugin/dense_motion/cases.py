"""MotionInput and MotionSum through their C interface, and what they are compared with, on the host and on a GPU."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from plugin.common.launching import FP32_BOUND, Checked, as_stored, empty_output, worst_share
from plugin.common.timing import Timing
from sadtrt_core.engine.kernels import FEATURE_TYPES, KernelLaunch
from sadtrt_core.renderer.generator import GAUSSIAN_VARIANCE, MASK_FLOOR
from sadtrt_core.renderer.layers import coordinate_grid

EXPONENT = -0.5 / GAUSSIAN_VARIANCE
#: At 256 px: the volume's depth, height and width; keypoints; channels of the features.
PLACES, KEYPOINTS, FEATURES = (16, 64, 64), 15, 4
_SIZES = ("batch", "channels", "depth", "height", "width", "keypoints")


class Problem(ctypes.Structure):
    """SadtrtDenseMotion of dense_motion.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("input", "driving", "source", "output")),
        *((name, ctypes.c_int64) for name in _SIZES),
        *((name, ctypes.c_int32) for name in ("feature_type", "input_channels_last", "output_channels_last")),
        *((name, ctypes.c_float) for name in ("exponent", "floor")),
    )


Launcher = Callable[[ctypes.CDLL, "Case"], KernelLaunch]


@dataclass(frozen=True)
class Case:
    """Features or mask logits (N, C, D, H, W), with keypoints (N, K, 3) fp32, and the layouts.

    The logits are given as maps (N * D, C, H, W).
    """

    features: Tensor
    driving: Tensor
    source: Tensor
    input_last: bool = False
    output_last: bool = False

    @property
    def kind(self) -> str:
        layouts = " to ".join("channels last" if last else "linear" for last in (self.input_last, self.output_last))
        return f"{str(self.features.dtype).removeprefix('torch.')}, {layouts}"

    def __str__(self) -> str:
        return f"{tuple(self.features.shape)}, {self.driving.shape[1]} keypoints, {self.kind}"


def _launch(
    kernels: ctypes.CDLL, function: str, case: Case, given: Tensor, output: Tensor, result: Tensor
) -> KernelLaunch:
    problem = Problem(
        **dict(zip(_SIZES, (*case.features.shape, case.driving.shape[1]), strict=True)),
        feature_type=FEATURE_TYPES[case.features.dtype],
        input_channels_last=case.input_last,
        output_channels_last=case.output_last,
        exponent=EXPONENT,
        floor=MASK_FLOOR,
    )
    stored = as_stored(given, case.input_last)
    tensors = {"input": stored, "driving": case.driving, "source": case.source, "output": output}
    return KernelLaunch(kernels, function, problem, result, **tensors)


def input_launch(kernels: ctypes.CDLL, case: Case) -> KernelLaunch:
    """MotionInput with memory of its own; it gives (N, (K + 1) * (1 + C), D, H, W), of which it writes the maps."""
    batch, channels, depth, *plane = case.features.shape
    shape = (batch * depth, (case.driving.shape[1] + 1) * (channels + 1), *plane)
    output, maps = empty_output(shape, case.features, case.output_last)
    result = maps.unflatten(0, (batch, depth)).transpose(1, 2)
    return _launch(kernels, "sadtrt_motion_input", case, case.features, output, result)


def sum_launch(kernels: ctypes.CDLL, case: Case) -> KernelLaunch:
    """MotionSum with memory of its own; it gives the deformation (N, D, H, W, 3)."""
    batch, _, *places = case.features.shape
    deformation = torch.full((batch, *places, 3), float("nan"), device=case.features.device)
    maps = case.features.transpose(1, 2).flatten(0, 1)
    return _launch(kernels, "sadtrt_motion_sum", case, maps, deformation, deformation)


@cache
def _grid(places: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """The renderer's grid, fp32 numbers in any type; made once, because a CUDA graph cannot hold the copy of it."""
    return coordinate_grid(*places).to(device, dtype)


def arguments(case: Case, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """What the forms in PyTorch take: the input, both keypoints (N, K, 3), and the grid (D, H, W, 3), of one type."""
    grid = _grid(tuple(case.features.shape[2:]), case.features.device, dtype)
    features = case.features.to(dtype, memory_format=torch.channels_last_3d)
    return features, case.driving.to(dtype), case.source.to(dtype), grid


def motions(driving: Tensor, source: Tensor, grid: Tensor) -> Tensor:
    """Where each motion takes a coordinate from, (N, K + 1, D, H, W, 3)."""
    driving, source = (F.pad(points, (0, 0, 1, 0))[:, :, None, None, None] for points in (driving, source))
    return grid - driving + source


def input_in_torch(features: Tensor, driving: Tensor, source: Tensor, grid: Tensor) -> tuple[Tensor]:
    """What MotionInput gives: heat maps and samples of a motion beside one another, motion by motion."""
    batch, channels, *places = features.shape
    moved = motions(driving, source, grid)
    count = moved.shape[1]

    def gaussian(points: Tensor) -> Tensor:
        offset = grid - points[:, :, None, None, None]
        return torch.exp(EXPONENT * (offset * offset).sum(dim=-1))

    heatmaps = F.pad(gaussian(driving) - gaussian(source), (0, 0, 0, 0, 0, 0, 1, 0))[:, :, None]
    tiled = features.repeat_interleave(count, dim=0)
    sampled = F.grid_sample(tiled, moved.flatten(0, 1), align_corners=False)
    sampled = sampled.reshape(batch, count, channels, *places)
    return (torch.cat((heatmaps, sampled), dim=2).reshape(batch, -1, *places),)


def sum_in_torch(logits: Tensor, driving: Tensor, source: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """The mask, before its floor, and what MotionSum gives."""
    mask = torch.softmax(logits, dim=1)
    counted = torch.where(mask < MASK_FLOOR, 0.0, mask)
    return mask, (counted[..., None] * motions(driving, source, grid)).sum(dim=1)


def input_excess(case: Case, output: Tensor) -> float:
    """Largest difference from PyTorch in fp64 as a share of what is allowed."""
    (expected,) = input_in_torch(*arguments(case, torch.float64))
    return worst_share(output, expected, FP32_BOUND * max(1.0, float(case.features.abs().amax())))


def sum_excess(case: Case, output: Tensor) -> float:
    """The same; voxels do not count that have a mask so near the floor that either side of it is right."""
    mask, expected = sum_in_torch(*arguments(case, torch.float64))
    near = ((mask - MASK_FLOOR).abs() < 1e-5 * MASK_FLOOR).any(dim=1)
    return worst_share(output, expected, FP32_BOUND, ~near[..., None])


def timings() -> Iterator[Timing]:
    """Both nodes at 256 px."""
    voxels, motion_count = torch.Size(PLACES).numel(), KEYPOINTS + 1
    for dtype in (torch.float16, torch.float32):
        half = dtype == torch.float16
        of_input = _methods(input_launch, (True, True), (False, True)) if half else {"kernel, linear": input_launch}
        of_sum = _methods(sum_launch, (True, False)) if half else {"kernel, linear": sum_launch}
        read_and_written = (FEATURES + motion_count * (FEATURES + 1)) * dtype.itemsize
        make = partial(_renderer_case, FEATURES, dtype), partial(_renderer_case, motion_count, dtype)
        shape, moved = f"{KEYPOINTS} keypoints, {FEATURES} channels", read_and_written * voxels
        yield Timing("motion input", shape, dtype, moved, make[0], of_input, input_excess, input_in_torch, arguments)
        shape, moved = f"{KEYPOINTS} keypoints", (motion_count * dtype.itemsize + 3 * 4) * voxels
        yield Timing("motion sum", shape, dtype, moved, make[1], of_sum, sum_excess, sum_in_torch, arguments)


def _renderer_case(channels: int, dtype: torch.dtype, device: torch.device, seed: int) -> Case:
    """Features or logits at 256 px; keypoints as near to each other as those of neighbouring frames."""
    generator = torch.Generator(device).manual_seed(seed)
    features = torch.randn((1, channels, *PLACES), generator=generator, device=device).to(dtype)
    source = torch.rand((1, KEYPOINTS, 3), generator=generator, device=device) * 1.6 - 0.8
    moved = torch.randn(source.shape, generator=generator, device=device) * 0.05
    return Case(features, source + moved, source)


def _methods(make: Launcher, *layouts: tuple[bool, bool]) -> dict[str, Launcher]:
    """Launches in these layouts of input and output, and in linear ones."""

    def in_layouts(lasts: tuple[bool, bool], kernels: ctypes.CDLL, case: Case) -> KernelLaunch:
        return make(kernels, replace(case, input_last=lasts[0], output_last=lasts[1]))

    names = {(True, True): "channels last", (False, True): "output channels last", (True, False): "input channels last"}
    return {f"kernel, {names[lasts]}": partial(in_layouts, lasts) for lasts in layouts} | {"kernel, linear": make}


def _case(
    shape: tuple[int, ...], keypoints: int, dtype: torch.dtype, lasts: tuple[bool, bool], values: torch.Generator
) -> Case:
    """Features of a few units, keypoints within -1.5..1.5 so that some motions lead out of the volume."""
    device = values.device
    features = (torch.randn(shape, generator=values, device=device) * 3).to(dtype)
    driving, source = (
        torch.rand((shape[0], keypoints, 3), generator=values, device=device) * 3 - 1.5 for _ in range(2)
    )
    return Case(features, driving, source, *lasts)


def random_input_cases(count: int, most_size: int, device: str = "cpu") -> Iterator[Case]:
    """Cases of MotionInput in every type and pair of layouts; channels last where the output is a multiple of 8."""
    sizes = torch.Generator().manual_seed(21)
    values = torch.Generator(device).manual_seed(22)
    for number in range(count):
        dtype = tuple(FEATURE_TYPES)[number % 3]
        low = dtype != torch.float32
        output_last = low and number // 3 % 2 == 1
        keypoints, channels = ((15, 4), (15, 1), (7, 6), (3, 5))[number // 6 % 4]
        if not output_last:
            keypoints, channels = (int(torch.randint(1, most, (), generator=sizes)) for most in (9, 8))
        batch, *places = (int(torch.randint(2, most_size + 1, (), generator=sizes)) for _ in range(4))
        shape = (batch % 3 + 1, channels, *places)
        yield _case(shape, keypoints, dtype, (low and number // 12 % 2 == 1, output_last), values)


def random_sum_cases(count: int, most_size: int, device: str = "cpu") -> Iterator[Case]:
    """Cases of MotionSum in every type and layout."""
    sizes = torch.Generator().manual_seed(23)
    values = torch.Generator(device).manual_seed(24)
    for number in range(count):
        dtype = tuple(FEATURE_TYPES)[number % 3]
        keypoints = 15 if number % 2 else int(torch.randint(1, 16, (), generator=sizes))
        batch, *places = (int(torch.randint(2, most_size + 1, (), generator=sizes)) for _ in range(4))
        shape = (batch % 3 + 1, keypoints + 1, *places)
        yield _case(shape, keypoints, dtype, (dtype != torch.float32 and number // 3 % 2 == 1, False), values)


def check(kernels: ctypes.CDLL, count: int, quick: bool) -> Iterator[Checked]:
    """Random cases of both nodes against PyTorch in fp64."""
    most = 7 if quick else 40
    for case in random_input_cases(count, most, "cuda"):
        yield Checked(f"MotionInput, {case.kind}", str(case), input_excess(case, input_launch(kernels, case)()))
    for case in random_sum_cases(count, most, "cuda"):
        yield Checked(f"MotionSum, {case.kind}", str(case), sum_excess(case, sum_launch(kernels, case)()))
