"""MotionInput and MotionSum through their C interface, and what they are compared with: for host tests and check.py."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "common"))

from launching import FEATURE_TYPES, empty_output, from_channels_last, launch, to_channels_last, worst_share

from sadtrt_core.renderer.generator import GAUSSIAN_VARIANCE, MASK_FLOOR
from sadtrt_core.renderer.layers import coordinate_grid

EXPONENT = -0.5 / GAUSSIAN_VARIANCE
_SIZES = ("batch", "channels", "depth", "height", "width", "keypoints")


class Problem(ctypes.Structure):
    """SadtrtDenseMotion of dense_motion.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("input", "driving", "source", "output")),
        *((name, ctypes.c_int64) for name in _SIZES),
        *((name, ctypes.c_int32) for name in ("feature_type", "input_channels_last", "output_channels_last")),
        *((name, ctypes.c_float) for name in ("exponent", "floor")),
    )


@dataclass(frozen=True)
class Case:
    """An input (N, C, D, H, W), features or mask logits, with keypoints (N, K, 3) fp32, and the layouts."""

    features: Tensor
    driving: Tensor
    source: Tensor
    input_last: bool = False
    output_last: bool = False

    def describe(self) -> str:
        layouts = " to ".join("channels last" if last else "linear" for last in (self.input_last, self.output_last))
        points = f"{self.driving.shape[1]} keypoints"
        return f"{tuple(self.features.shape)} {self.features.dtype}, {points}, {layouts}"


class _Launch:
    """A case's launch, whose memory is taken once. A call queues it; `output` is as stored."""

    function: str

    def __init__(self, library: ctypes.CDLL, case: Case, output: Tensor) -> None:
        self._library, self._case, self.output = library, case, output
        self._input = to_channels_last(case.features) if case.input_last else case.features.contiguous()
        self.problem = Problem(
            self._input.data_ptr(),
            case.driving.data_ptr(),
            case.source.data_ptr(),
            output.data_ptr(),
            *case.features.shape,
            case.driving.shape[1],
            FEATURE_TYPES[case.features.dtype],
            case.input_last,
            case.output_last,
            EXPONENT,
            MASK_FLOOR,
        )

    def __call__(self) -> None:
        launch(self._library, self.function, self.problem, self._input.device)


class MotionInput(_Launch):
    function = "sadtrt_motion_input"

    def __init__(self, library: ctypes.CDLL, case: Case) -> None:
        batch, channels, *places = case.features.shape
        self._channels = (case.driving.shape[1] + 1) * (channels + 1)
        output = empty_output((batch, self._channels, *places), case.features, case.output_last)
        super().__init__(library, case, output)

    def result(self) -> Tensor:
        """The output as (N, (K + 1) * (1 + C), D, H, W)."""
        return from_channels_last(self.output, self._channels) if self._case.output_last else self.output


class MotionSum(_Launch):
    function = "sadtrt_motion_sum"

    def __init__(self, library: ctypes.CDLL, case: Case) -> None:
        batch, _, *places = case.features.shape
        deformation = torch.full((batch, *places, 3), float("nan"), device=case.features.device)
        super().__init__(library, case, deformation)

    def result(self) -> Tensor:
        """The deformation (N, D, H, W, 3)."""
        return self.output


@cache
def _grid(places: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """The renderer's grid, fp32 numbers in any type; made once, because a CUDA graph cannot hold the copy of it."""
    return coordinate_grid(*places).to(device, dtype)


def motions(case: Case, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The grid (D, H, W, 3), and where each motion takes a coordinate from, (N, K + 1, D, H, W, 3)."""
    grid = _grid(tuple(case.features.shape[2:]), case.features.device, dtype)
    driving, source = (
        F.pad(points.to(dtype), (0, 0, 1, 0))[:, :, None, None, None] for points in (case.driving, case.source)
    )
    return grid, grid - driving + source


def input_in_torch(case: Case, dtype: torch.dtype = torch.float64) -> Tensor:
    """What MotionInput gives, in PyTorch: heat maps and samples of a motion beside one another, motion by motion."""
    batch, channels, *places = case.features.shape
    grid, moved = motions(case, dtype)
    count = moved.shape[1]

    def gaussian(points: Tensor) -> Tensor:
        offset = grid - points.to(dtype)[:, :, None, None, None]
        return torch.exp(EXPONENT * (offset * offset).sum(dim=-1))

    heatmaps = F.pad(gaussian(case.driving) - gaussian(case.source), (0, 0, 0, 0, 0, 0, 1, 0))[:, :, None]
    tiled = case.features.to(dtype).repeat_interleave(count, dim=0)
    sampled = F.grid_sample(tiled, moved.flatten(0, 1), align_corners=False)
    sampled = sampled.reshape(batch, count, channels, *places)
    return torch.cat((heatmaps, sampled), dim=2).reshape(batch, -1, *places)


def sum_in_torch(case: Case, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """What MotionSum gives, in PyTorch, and which voxels have a mask so near the floor that either side is right."""
    _, moved = motions(case, dtype)
    mask = torch.softmax(case.features.to(dtype), dim=1)
    near = ((mask - MASK_FLOOR).abs() < 1e-5 * MASK_FLOOR).any(dim=1)
    mask = torch.where(mask < MASK_FLOOR, 0.0, mask)
    return (mask[..., None] * moved).sum(dim=1), near


def input_excess(case: Case, output: Tensor) -> float:
    """Largest difference from PyTorch in fp64 as a share of what is allowed."""
    return worst_share(output, input_in_torch(case), max(1.0, float(case.features.abs().amax())))


def sum_excess(case: Case, output: Tensor) -> float:
    """Largest difference from PyTorch in fp64 as a share of what is allowed."""
    expected, near = sum_in_torch(case)
    return worst_share(torch.where(near[..., None], expected.float(), output), expected, 1.0)


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
