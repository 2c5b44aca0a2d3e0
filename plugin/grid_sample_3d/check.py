"""Check the GridSample3D kernel on the GPU of this machine; needs torch and nvcc, no TensorRT.

    python3 plugin/grid_sample_3d/check.py --build --out results/grid-sample        # about a minute on an H200
    compute-sanitizer python3 plugin/grid_sample_3d/check.py --quick --cases 80     # small cases

Every case is compared with torch.nn.functional.grid_sample in fp64 on the same GPU; --quick computes that on the CPU
and allocates every tensor by itself, so that under compute-sanitizer hardly anything but the kernel is watched and no
access beyond a tensor goes unseen. Writes grid_sample_check.json into --out.
Exit status: 0 all right, 1 a case failed, 2 nothing could run.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cases import MODES, Case, random_cases, reference, worst_excess

from sadtrt_core.engine.kernels import kernels_version, load_kernels, workspace_bytes
from sadtrt_core.engine.plugin import BUILD_FOLDER
from sadtrt_core.engine.plugin_build import KERNEL_LIBRARY, build_kernel
from sadtrt_core.errors import UserError
from sadtrt_core.sampling.kernel import FUNCTION, kernel_launch, sampling_problem

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
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
    for number, case in enumerate(random_cases(count, DTYPES, voxels, points, device)):
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


def check_cases(kernels: ctypes.CDLL, work: Iterable[Work]) -> tuple[dict[str, float], list[str]]:
    """Worst share of the allowed difference by type, way and interpolation, and a line for each failed case."""
    worst: dict[str, float] = {}
    failed = []
    for name, case, ways in work:
        expected = reference(case)
        for way, choices in ways.items():
            excess = worst_excess(case, run_case(kernels, case, choices), expected)
            key = f"{str(case.volume.dtype).removeprefix('torch.')}, {way}, {case.how['mode']}"
            worst[key] = max(worst.get(key, 0.0), excess)
            if not excess <= 1.0:
                failed.append(f"{name}, {way}: {excess:.3g} times the bound, {case}")
    return worst, failed


def check_order(kernels: ctypes.CDLL, quick: bool) -> list[str]:
    """The same numbers as alone from two streams at once, each with a workspace of its own, and, unless `quick`, from
    a replayed CUDA graph in which two samplings share one.
    """
    cases = [
        Case(torch.randn(1, 4, 16, 64, 64).half(), torch.rand(16, 8, 32, 32, 3) * 2 - 1, MODES[0]) for _ in range(2)
    ]
    expected = [run_case(kernels, case, PACKED) for case in cases]

    def differ(outputs: Sequence[torch.Tensor]) -> bool:
        torch.cuda.synchronize()
        return not all(torch.equal(output.cpu(), wanted) for output, wanted in zip(outputs, expected, strict=True))

    failed = []
    launches = [kernel_launch(kernels, case.volume, case.grid, device="cuda", **PACKED) for case in cases]
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    torch.cuda.synchronize()
    for _ in range(20):
        outputs = []
        for stream, launch in zip(streams, launches, strict=True):
            with torch.cuda.stream(stream):
                outputs.append(launch())
    if differ(outputs):
        failed.append("two streams at once gave other numbers than one")
    if quick:
        return failed
    shapes = tuple(cases[0].volume.shape), tuple(cases[0].grid.shape)
    size = workspace_bytes(kernels, FUNCTION, sampling_problem(*shapes, torch.float16, **PACKED))
    shared = torch.empty(size, dtype=torch.uint8, device="cuda")
    launches = [kernel_launch(kernels, case.volume, case.grid, shared, "cuda", **PACKED) for case in cases]
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = [launch() for launch in launches]
    if not all(output.isnan().all() for output in outputs):
        failed.append("capturing a CUDA graph ran the kernel")
    for _ in range(20):
        graph.replay()
    if differ(outputs):
        failed.append("a replayed CUDA graph gave other numbers")
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--build", action="store_true", help="build the kernel library with nvcc first")
    parser.add_argument("--library", type=Path, default=BUILD_FOLDER / KERNEL_LIBRARY)
    parser.add_argument("--out", type=Path, default=None, help="folder for grid_sample_check.json")
    parser.add_argument("--cases", type=int, default=2400, help="random cases, each in every layout")
    parser.add_argument("--quick", action="store_true", help="small cases, for compute-sanitizer")
    options = parser.parse_args()
    device = "cpu" if options.quick else "cuda"
    if options.quick:
        # Before the first allocation: else tensors are parts of large blocks, and accesses beyond them pass unseen.
        os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
    try:
        if not torch.cuda.is_available():
            raise UserError("PyTorch sees no GPU on this machine, so nothing was checked")
        kernels = load_kernels(build_kernel() if options.build else options.library)
    except UserError as error:
        print(f"check: {error}", file=sys.stderr)
        return 2

    started = time.monotonic()
    work = random_ways(options.cases, device, options.quick), special_ways(device, options.quick)
    worst, failed = check_cases(kernels, itertools.chain(*work))
    failed += check_order(kernels, options.quick)
    print(f"{options.cases} random cases and the limits, in every layout; worst share of the bound:")
    for key, share in sorted(worst.items()):
        print(f"  {key:40} {share:.4f}")
    for line in failed:
        print(f"FAILED {line}")
    print("all right" if not failed else f"{len(failed)} failures", f"({time.monotonic() - started:.1f} s)")
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        report = {
            "device": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "kernel": kernels_version(kernels),
            "cases": options.cases,
            "worst_share_of_bound": worst,
            "failed": failed,
        }
        (options.out / "grid_sample_check.json").write_text(json.dumps(report, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
