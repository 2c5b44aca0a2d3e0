"""Check the GridSample3D kernel on the GPU of this machine; needs torch and nvcc, no TensorRT.

    python3 plugin/grid_sample_3d/check.py --build --out results/grid-sample        # about a minute on an H200
    compute-sanitizer python3 plugin/grid_sample_3d/check.py --quick --cases 80     # small cases

Every case is compared with torch.nn.functional.grid_sample in fp64 on the same GPU; --quick computes that on the CPU
and allocates every tensor by itself, so that under compute-sanitizer hardly anything but the kernel is watched and no
access beyond a tensor goes unseen. Writes grid_sample_check.json into --out.
Exit status: 0 all right, 1 a case failed, 2 nothing could run.
"""

from __future__ import annotations

import ctypes
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from plugin.common.checking import Checked, main, replayed
from plugin.grid_sample_3d.cases import MODES, Case, random_cases, reference, worst_excess
from sadtrt_core.engine.kernels import FEATURE_TYPES, workspace_bytes
from sadtrt_core.sampling.kernel import FUNCTION, kernel_launch, sampling_problem

GROUPS = (0, 4, 8, 16)
PACKED: dict[str, Any] = {"packing": "always"}
WAYS: dict[str, dict[str, Any]] = {
    "linear": {"packing": "never"},
    "linear packed": PACKED,
    "channels_last": {"packing": "never", "layout": "channels_last"},
}
"""Ways through the kernel, as keywords of a launch."""
EVERY_WAY = WAYS | {f"{name} 64-bit offsets": way | {"wide_offsets": True} for name, way in WAYS.items()}

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


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", "grid_sample_check", check, cases=2400))
