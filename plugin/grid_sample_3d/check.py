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
import itertools
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cases import MODES, Case, compared_points, random_cases, reference, worst_excess

from sadtrt_core.engine.plugin import BUILD_FOLDER
from sadtrt_core.engine.plugin_build import KERNEL_LIBRARY, build_kernel
from sadtrt_core.errors import UserError
from sadtrt_core.sampling.kernel import KernelLaunch, SamplingKernel, SamplingMode

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
GROUPS = (0, 4, 8, 16)


@dataclass(frozen=True)
class Way:
    """One way through the kernel. `packing` other than "never" lends a workspace."""

    layout: str
    packing: str = "never"
    wide_offsets: bool = False

    def __str__(self) -> str:
        parts = [self.layout, *(["packed"] if self.packing == "always" else [])]
        return " ".join([*parts, *(["64-bit offsets"] if self.wide_offsets else [])])


PACKED = Way("linear", "always")
WAYS = (Way("linear"), PACKED, Way("channels_last"))
EVERY_WAY = (*WAYS, *(Way(way.layout, way.packing, wide_offsets=True) for way in WAYS))


def launch_of(
    kernel: SamplingKernel, case: Case, way: Way, group: int = 0, workspace: torch.Tensor | None = None
) -> KernelLaunch:
    """The case on the GPU. Its tensors come there by copies: no other kernel has to run for a case of the CPU."""
    return KernelLaunch(
        kernel, case.volume, case.grid, case.mode, way.layout, way.packing, way.wide_offsets, group, workspace, "cuda"
    )


def run_case(kernel: SamplingKernel, case: Case, way: Way, group: int = 0) -> torch.Tensor:
    """The kernel's output as (N*k, C, Do, Ho, Wo) on the case's own device, whatever the layout."""
    output = launch_of(kernel, case, way, group)()
    torch.cuda.synchronize()
    return output.to(case.volume.device)


def check_random(kernel: SamplingKernel, count: int, quick: bool) -> tuple[dict[str, float], list[str]]:
    """Worst share of the allowed difference by type, way and interpolation, and a line for each failed case."""
    worst: dict[str, float] = {}
    failed = []
    voxels, points = (2000, 300) if quick else (100_000, 8000)
    for number, case in enumerate(random_cases(count, DTYPES, voxels, points, "cpu" if quick else "cuda")):
        expected = reference(case)
        for way in EVERY_WAY if quick or number % 10 == 0 else WAYS:
            excess = worst_excess(case, run_case(kernel, case, way, GROUPS[number % 4]), expected)
            key = f"{str(case.volume.dtype).removeprefix('torch.')}, {way}, {case.mode.interpolation}"
            worst[key] = max(worst.get(key, 0.0), excess)
            if not excess <= 1.0:
                failed.append(f"case {number}, {way}: {excess:.3g} times the bound, {case.describe()}")
    return worst, failed


def special_cases(quick: bool) -> Iterator[tuple[str, Case]]:
    """Cases at the limits of a launch: many samples, many channels, 64-bit offsets."""
    device = "cpu" if quick else "cuda"
    generator = torch.Generator(device).manual_seed(5)

    def case(volume: tuple[int, ...], grid: tuple[int, ...], dtype: torch.dtype, mode: SamplingMode) -> Case:
        features = torch.randn(volume, generator=generator, device=device).to(dtype)
        return Case(features, torch.rand((*grid, 3), generator=generator, device=device) * 2.4 - 1.2, mode)

    for mode in MODES:
        yield "one voxel", case((2, 3, 1, 1, 1), (4, 3, 3, 3), torch.float32, mode)
        yield "16 grids, 4 channels", case((1, 4, 16, 64, 64), (16, 4, 16, 16), torch.float16, mode)
    yield "70,000 samples", case((2, 1, 2, 3, 2), (70_000, 1, 1, 2), torch.float32, SamplingMode())
    yield "3,000 channels", case((1, 3000, 2, 3, 4), (1, 1, 5, 7), torch.float16, SamplingMode("bilinear", "border"))
    if quick:
        return
    needed = 2**31 * 16  # the volume in fp16, its magnitude, and all of it in fp64
    if torch.cuda.mem_get_info()[0] < needed:
        print(f"64-bit offsets not checked: {needed / 2**30:.0f} GiB of free device memory are needed")
        return
    for interpolation in ("bilinear", "nearest"):
        mode = SamplingMode(interpolation)
        yield "more than 2^31 voxels", case((1, 1, 2100, 1024, 1024), (1, 16, 16, 16), torch.float16, mode)


def check_special(kernel: SamplingKernel, quick: bool) -> list[str]:
    failed = []
    for name, case in special_cases(quick):
        expected = reference(case)
        # Eight channels for one would be 34 GB.
        for way in WAYS if case.volume.numel() <= 2**31 else WAYS[:1]:
            excess = worst_excess(case, run_case(kernel, case, way), expected)
            if not excess <= 1.0:
                failed.append(f"{name}, {way}: {excess:.3g} times the bound, {case.describe()}")
    failed += check_infinite_features(kernel, "cpu" if quick else "cuda")
    return failed + check_streams(kernel) + ([] if quick else check_graph(kernel))


def check_infinite_features(kernel: SamplingKernel, device: str) -> list[str]:
    """Infinite and undefined features must reach just the samples they reach in PyTorch."""
    failed = []
    for mode, dtype in itertools.product(MODES, (torch.float32, torch.float16)):
        volume = torch.randn((1, 9, 4, 5, 6), device=device).to(dtype)
        volume[0, ::2, 1, 2, 3] = float("inf")
        volume[0, 1::2, 3, 4, 5] = float("nan")
        case = Case(volume, torch.rand((2, 9, 9, 9, 3), device=device) * 2.6 - 1.3, mode)
        expected = reference(case)
        usable = compared_points(case)[:, None].expand_as(expected)
        for way in EVERY_WAY:
            output = run_case(kernel, case, way)
            if not torch.equal(output.isfinite()[usable], expected.isfinite()[usable]):
                failed.append(f"infinite features, {way}: {case.describe()}")
    return failed


def _shared_volumes() -> list[Case]:
    shapes = (1, 4, 16, 64, 64), (16, 8, 32, 32, 3)
    return [Case(torch.randn(shapes[0]).half(), torch.rand(shapes[1]) * 2 - 1, SamplingMode()) for _ in range(2)]


def check_streams(kernel: SamplingKernel) -> list[str]:
    """The same numbers from two streams at once, each with a workspace of its own, as from one."""
    cases = _shared_volumes()
    expected = [run_case(kernel, case, PACKED) for case in cases]
    launches = [launch_of(kernel, case, PACKED) for case in cases]
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    torch.cuda.synchronize()
    for _ in range(20):
        for stream, launch in zip(streams, launches, strict=True):
            with torch.cuda.stream(stream):
                launch()
    torch.cuda.synchronize()
    same = all(torch.equal(launch.samples.cpu(), want) for launch, want in zip(launches, expected, strict=True))
    return [] if same else ["two streams at once gave other numbers than one"]


def check_graph(kernel: SamplingKernel) -> list[str]:
    """The same numbers from a replayed CUDA graph, in which two samplings share a workspace."""
    failed = []
    cases = _shared_volumes()
    expected = [run_case(kernel, case, PACKED) for case in cases]
    first = launch_of(kernel, cases[0], PACKED)
    launches = (first, launch_of(kernel, cases[1], PACKED, workspace=first.workspace))
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for launch in launches:
            launch()
    if not all(launch.samples.isnan().all() for launch in launches):
        failed.append("capturing a CUDA graph ran the kernel")
    for _ in range(20):
        graph.replay()
    torch.cuda.synchronize()
    if not all(torch.equal(launch.samples.cpu(), want) for launch, want in zip(launches, expected, strict=True)):
        failed.append("a replayed CUDA graph gave other numbers")
    return failed


def open_kernel(library: Path, build: bool) -> SamplingKernel:
    """The kernel library, built for this GPU first where asked. Raises PluginError, or OSError where it cannot load."""
    has_gpu = torch.cuda.is_available()
    if build:
        capability = torch.cuda.get_device_capability() if has_gpu else (9, 0)
        library = build_kernel(BUILD_FOLDER, ["{}{}".format(*capability)])
        print(f"built {library}")
    if not has_gpu:
        raise UserError("PyTorch sees no GPU on this machine, so nothing was checked")
    return SamplingKernel(library)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--build", action="store_true", help="build the kernel library with nvcc first")
    parser.add_argument("--library", type=Path, default=BUILD_FOLDER / KERNEL_LIBRARY)
    parser.add_argument("--out", type=Path, default=None, help="folder for grid_sample_check.json")
    parser.add_argument("--cases", type=int, default=2400, help="random cases, each in every layout")
    parser.add_argument("--quick", action="store_true", help="small cases, for compute-sanitizer")
    arguments = parser.parse_args()
    if arguments.quick:
        # Before the first allocation: else tensors are parts of large blocks, and accesses beyond them pass unseen.
        os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
    try:
        kernel = open_kernel(arguments.library, arguments.build)
    except UserError as error:
        print(f"check: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"check: the kernel library cannot be loaded ({error}): run with --build", file=sys.stderr)
        return 2

    started = time.monotonic()
    worst, failed = check_random(kernel, arguments.cases, arguments.quick)
    failed += check_special(kernel, arguments.quick)
    print(f"{arguments.cases} random cases in every layout; worst share of the bound:")
    for key, share in sorted(worst.items()):
        print(f"  {key:40} {share:.4f}")
    for line in failed:
        print(f"FAILED {line}")
    print("all right" if not failed else f"{len(failed)} failures", f"({time.monotonic() - started:.1f} s)")
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        report = {
            "device": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "kernel": kernel.version,
            "cases": arguments.cases,
            "worst_share_of_bound": worst,
            "failed": failed,
        }
        (arguments.out / "grid_sample_check.json").write_text(json.dumps(report, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
