"""Sampling cases and what a result may differ by, for the host tests and for plugin/check.py alike."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from plugin.common.launching import FP32_BOUND, Checked, replayed, worst_share
from sadtrt_core.engine.kernels import FEATURE_TYPES, workspace_bytes
from sadtrt_core.sampling.kernel import FUNCTION, kernel_launch, sampling_problem

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

GROUPS = (0, 4, 8, 16)
PACKED: dict[str, Any] = {"packing": "always"}
WAYS: dict[str, dict[str, Any]] = {
    "linear": {"packing": "never"},
    "linear packed": PACKED,
    "channels_last": {"packing": "never", "layout": "channels_last"},
}
"""Ways through the kernel, as keywords of a launch."""
EVERY_WAY = WAYS | {f"{name} 64-bit offsets": way | {"wide_offsets": True} for name, way in WAYS.items()}


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


#: What a failure is named by, a case, and the ways to go.
Work = tuple[str, Case, dict[str, dict[str, Any]]]


def run_case(kernels: ctypes.CDLL, case: Case, way: dict[str, Any]) -> torch.Tensor:
    """The kernel's output as (N*k, C, Do, Ho, Wo) on the case's own device, whatever the layout.

    Its tensors come to the GPU by copies: no other kernel has to run for a case of the CPU.
    """
    output = kernel_launch(kernels, case.volume, case.grid, device="cuda", **case.how, **way)()
    torch.cuda.synchronize()
    return output.to(case.volume.device)


def random_ways(count: int, device: str, quick: bool) -> Iterator[Work]:
    voxels, points = (2000, 300) if quick else (100_000, 8000)
    for number, case in enumerate(random_cases(count, tuple(FEATURE_TYPES), voxels, points, device)):
        ways = EVERY_WAY if quick or number % 10 == 0 else WAYS
        group = {"channels_per_thread": GROUPS[number % 4]}
        yield f"case {number}", case, {name: way | group for name, way in ways.items()}


def special_ways(device: str, quick: bool) -> Iterator[Work]:
    """Features that are not finite, and the limits of a launch: many samples, many channels, 64-bit offsets."""
    generator = torch.Generator(device).manual_seed(5)

    def case(volume: tuple[int, ...], grid: tuple[int, ...], dtype: torch.dtype, how: dict[str, Any]) -> Case:
        features = torch.randn(volume, generator=generator, device=device).to(dtype)
        return Case(features, torch.rand((*grid, 3), generator=generator, device=device) * 2.4 - 1.2, how)

    for how in MODES:
        yield "one voxel", case((2, 3, 1, 1, 1), (4, 3, 3, 3), torch.float32, how), WAYS
        yield "16 grids, 4 channels", case((1, 4, 16, 64, 64), (16, 4, 16, 16), torch.float16, how), WAYS
    yield "70,000 samples", case((2, 1, 2, 3, 2), (70_000, 1, 1, 2), torch.float32, MODES[0]), WAYS
    for how, dtype in itertools.product(MODES, (torch.float32, torch.float16)):
        infinite = case((1, 9, 4, 5, 6), (2, 9, 9, 9), dtype, how)
        infinite.volume[0, ::2, 1, 2, 3] = float("inf")
        infinite.volume[0, 1::2, 3, 4, 5] = float("nan")
        yield "infinite features", infinite, EVERY_WAY
    border = MODES[0] | {"padding_mode": "border"}
    yield "3,000 channels", case((1, 3000, 2, 3, 4), (1, 1, 5, 7), torch.float16, border), WAYS
    if quick:
        return
    needed = 2**31 * 16  # the volume in fp16, its magnitude, and all of it in fp64
    if torch.cuda.mem_get_info()[0] < needed:
        print(f"64-bit offsets not checked: {needed / 2**30:.0f} GiB of free device memory are needed")
        return
    for how in (MODES[0], MODES[0] | {"mode": "nearest"}):
        large = case((1, 1, 2100, 1024, 1024), (1, 16, 16, 16), torch.float16, how)
        # Eight channels for one would be 34 GB.
        yield "more than 2^31 voxels", large, {"linear": WAYS["linear"]}


def check(kernels: ctypes.CDLL, count: int, quick: bool) -> Iterator[Checked | str]:
    device = "cpu" if quick else "cuda"
    for name, case, ways in itertools.chain(random_ways(count, device, quick), special_ways(device, quick)):
        expected = reference(case)
        for way, choices in ways.items():
            kind = f"{str(case.volume.dtype).removeprefix('torch.')}, {way}, {case.how['mode']}"
            yield Checked(kind, f"{name}, {case}", worst_excess(case, run_case(kernels, case, choices), expected))
    yield from check_order(kernels, quick)


def check_order(kernels: ctypes.CDLL, quick: bool) -> Iterator[str]:
    """The same numbers as alone from two streams at once, each with a workspace of its own, and, unless `quick`, from
    a replayed CUDA graph in which two samplings share one.
    """
    cases = [
        Case(torch.randn(1, 4, 16, 64, 64).half(), torch.rand(16, 8, 32, 32, 3) * 2 - 1, MODES[0]) for _ in range(2)
    ]
    expected = [run_case(kernels, case, PACKED) for case in cases]
    launches = [kernel_launch(kernels, case.volume, case.grid, device="cuda", **PACKED) for case in cases]
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    torch.cuda.synchronize()
    for _ in range(20):
        outputs = []
        for stream, launch in zip(streams, launches, strict=True):
            with torch.cuda.stream(stream):
                outputs.append(launch())
    torch.cuda.synchronize()
    if not all(torch.equal(output.cpu(), wanted) for output, wanted in zip(outputs, expected, strict=True)):
        yield "two streams at once gave other numbers than one"
    if quick:
        return
    shapes = tuple(cases[0].volume.shape), tuple(cases[0].grid.shape)
    size = workspace_bytes(kernels, FUNCTION, sampling_problem(*shapes, torch.float16, **PACKED))
    shared = torch.empty(size, dtype=torch.uint8, device="cuda")
    launches = [kernel_launch(kernels, case.volume, case.grid, shared, "cuda", **PACKED) for case in cases]
    yield from replayed(launches, expected)
