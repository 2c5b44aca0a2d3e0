"""Random sampling cases and what a result may differ by, for the host tests and for check.py alike."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from plugin.common.launching import FP32_BOUND, worst_share

SPECIAL_COORDINATES = (
    *(-1.0, 1.0, 0.0, -0.0, 0.5, -0.5, 3.0, -3.0, 1e-30, -1e-30, 0.99999994, -0.99999994, 1.0000001, -1.0000001),
    *(1e4, -1e4, 1e6, -1e6, float("nan"), float("inf"), float("-inf")),
)
"""Corners, centres, neighbours of +-1, far outside, not finite. Beyond 1e6 PyTorch's own reflection wraps around."""

MODES: tuple[dict[str, Any], ...] = tuple(
    {"mode": mode, "padding_mode": padding, "align_corners": align}
    for mode, padding, align in itertools.product(
        ("bilinear", "nearest"), ("zeros", "border", "reflection"), (False, True)
    )
)
"""All ways to sample, as keywords of torch.nn.functional.grid_sample; the renderer's is the first."""

LARGEST_SIZE = 65

TIE_DISTANCE = 1e-3
"""Nearest samples closer than this to the middle between two voxels (in voxels) are not compared: rounding the
coordinate to fp32 arithmetic may put them on either side, in PyTorch as well as here."""


@dataclass(frozen=True)
class Case:
    """One sampling: volume (N, C, D, H, W) of some type, grid (N*k, Do, Ho, Wo, 3) fp32, one of MODES."""

    volume: torch.Tensor
    grid: torch.Tensor
    how: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.how}, volume {tuple(self.volume.shape)} {self.volume.dtype}, grid {tuple(self.grid.shape)}"


def random_cases(
    count: int, dtypes: tuple[torch.dtype, ...], most_voxels: int, most_points: int, device: str = "cpu"
) -> Iterator[Case]:
    """count cases that go through all modes and, mode by mode, through the types.

    Dims are 1 to 65, channels 1 to 40, coordinates -3 to 3 with special values mixed in. Depth and height are halved
    until a channel has at most most_voxels voxels and a sample most_points points.
    """
    for seed in range(count):
        sizes = torch.Generator().manual_seed(seed)
        values = torch.Generator(device).manual_seed(seed)
        batch, grids_a_volume, channels = (_draw(sizes, 1, most) for most in (2, 3, 40))
        depth, height, width = (1 if _draw(sizes, 0, 9) == 0 else _draw(sizes, 1, LARGEST_SIZE) for _ in range(3))
        while depth * height * width > most_voxels:
            depth, height = max(1, depth // 2), max(1, height // 2)
        out_depth, out_height, out_width = (_draw(sizes, 1, LARGEST_SIZE) for _ in range(3))
        while out_depth * out_height * out_width > most_points:
            out_depth, out_height = max(1, out_depth // 2), max(1, (out_height * 2) // 3)
        volume = torch.randn((batch, channels, depth, height, width), generator=values, device=device)
        volume = (volume * 10.0 ** _draw(sizes, -2, 2)).to(dtypes[(seed // len(MODES)) % len(dtypes)])
        shape = (batch * grids_a_volume, out_depth, out_height, out_width, 3)
        grid = torch.rand(shape, generator=values, device=device) * 2 - 1
        grid = grid * (1.0, 1.2, 3.0)[_draw(sizes, 0, 2)]
        special = torch.tensor(SPECIAL_COORDINATES, device=device)
        chosen = special[torch.randint(0, len(special), shape, generator=values, device=device)]
        is_special = torch.rand(shape, generator=values, device=device) < 0.03
        yield Case(volume, torch.where(is_special, chosen, grid), MODES[seed % len(MODES)])


def _draw(generator: torch.Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, (), generator=generator))


def reference(case: Case) -> torch.Tensor:
    """torch.nn.functional.grid_sample in fp64, each volume repeated for its grids."""
    repeats = case.grid.shape[0] // case.volume.shape[0]
    volume = case.volume.double()
    if repeats > 1:
        volume = volume.repeat_interleave(repeats, dim=0)
    return torch.nn.functional.grid_sample(volume, case.grid.double(), **case.how)


def compared_points(case: Case) -> torch.Tensor:
    """Which sample points (N*k, 1, Do, Ho, Wo) have one right answer.

    All, but for nearest interpolation next to a tie (TIE_DISTANCE), and but for coordinates that are not finite under
    border or reflection padding when the reference is PyTorch on the CPU: there NaN clips to the last voxel, while on
    CUDA, which the kernel follows, it clips to the first.
    """
    grid = case.grid.double()
    usable = torch.ones_like(grid, dtype=torch.bool)
    if case.how["padding_mode"] != "zeros" and grid.device.type == "cpu":
        usable &= ~grid.isnan() if case.how["padding_mode"] == "border" else grid.isfinite()
    if case.how["mode"] == "nearest":
        sizes = torch.tensor(case.volume.shape[:1:-1], dtype=torch.float64, device=grid.device)  # width, height, depth
        scale = (sizes - 1) / 2 if case.how["align_corners"] else sizes / 2
        position = grid * scale + (sizes - 1) / 2
        # The tolerance grows with the coordinate: far out, PyTorch's fp32 and fp64 positions differ by more.
        tolerance = TIE_DISTANCE + grid.abs() * scale * 2.0**-22
        from_tie = (position - position.floor() - 0.5).abs()
        usable &= ~grid.isfinite() | (from_tie > tolerance)
    return usable.all(dim=-1)[:, None]


def worst_excess(case: Case, output: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference as a share of what is allowed, relative to the largest finite feature."""
    if output.dtype != case.volume.dtype:
        return float("inf")
    largest = case.volume.abs().nan_to_num(0.0, 0.0).amax().double()
    return worst_share(output, expected, FP32_BOUND * largest, compared_points(case))
