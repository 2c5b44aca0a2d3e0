"""Check and time the GridSample3D kernel on the GPU of this machine; needs torch and nvcc, no TensorRT.

    python3 plugin/check_on_gpu.py --build --out results/grid-sample        # about a minute on an H200
    compute-sanitizer python3 plugin/check_on_gpu.py --quick --cases 60     # correctness alone, small cases

Every case is compared with torch.nn.functional.grid_sample in fp64 on the same GPU. Writes grid_sample_check.json into
--out and prints the tables. Exit status: 0 all right, 1 a case failed or a time misses its target, 2 nothing could run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from kernel_calls import call, empty_output
from sampling_cases import MODES, Case, compared_points, random_cases, reference, to_channels_last, worst_excess
from sampling_timing import SHAPES, Timing, time_shape

from sadtrt_core.engine.plugin_build import build_kernel
from sadtrt_core.engine.plugin_library import BUILD_FOLDER, PluginError
from sadtrt_core.engine.sampling_kernel import SamplingKernel, SamplingMode
from sadtrt_core.sampling.device_times import copy_rate

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
GROUPS = (0, 4, 8, 16)
TARGETS_US = {("16 grids, 4 channels, 256 px", "float16"): 20.0, ("1 grid, 32 channels, 256 px", "float16"): 10.0}
TARGET_OVER_TORCH = 3.0


def run_case(kernel: SamplingKernel, case: Case, layout: str, group: int) -> torch.Tensor:
    """The kernel's output as (N*k, C, Do, Ho, Wo), whatever the layout."""
    channels = case.volume.shape[1]
    volume = case.volume if layout == "linear" else to_channels_last(case.volume)
    output = empty_output(volume, case.grid, layout)
    call(kernel, volume, case.grid, output, case.mode, layout, channels, group)
    torch.cuda.synchronize()
    return output if layout == "linear" else output[..., :channels].movedim(-1, 1)


def check_random(kernel: SamplingKernel, count: int, quick: bool) -> tuple[dict[str, float], list[str]]:
    """Worst share of the allowed difference by type, layout and interpolation, and a line for each failed case."""
    worst: dict[str, float] = {}
    failed = []
    voxels, points = (2000, 300) if quick else (100_000, 8000)
    for number, case in enumerate(random_cases(count, DTYPES, voxels, points, "cuda")):
        expected = reference(case)
        for layout in ("linear", "channels_last"):
            excess = worst_excess(case, run_case(kernel, case, layout, GROUPS[number % 4]), expected)
            key = f"{str(case.volume.dtype).removeprefix('torch.')}, {layout}, {case.mode.interpolation}"
            worst[key] = max(worst.get(key, 0.0), excess)
            if not excess <= 1.0:
                failed.append(f"case {number}, {layout}: {excess:.3g} times the bound, {case.describe()}")
    return worst, failed


def special_cases(quick: bool) -> Iterator[tuple[str, Case]]:
    """Cases at the limits of a launch: many samples, many channels, 64-bit offsets."""
    generator = torch.Generator("cuda").manual_seed(5)

    def case(volume: tuple[int, ...], grid: tuple[int, ...], dtype: torch.dtype, mode: SamplingMode) -> Case:
        features = torch.randn(volume, generator=generator, device="cuda", dtype=dtype)
        return Case(features, torch.rand((*grid, 3), generator=generator, device="cuda") * 2.4 - 1.2, mode)

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
        for layout in ("linear", "channels_last"):
            if case.volume.numel() > 2**31 and layout != "linear":
                continue  # eight channels for one would be 34 GB
            excess = worst_excess(case, run_case(kernel, case, layout, 0), expected)
            if not excess <= 1.0:
                failed.append(f"{name}, {layout}: {excess:.3g} times the bound, {case.describe()}")
    failed += check_infinite_features(kernel)
    return failed + check_streams_and_graph(kernel)


def check_infinite_features(kernel: SamplingKernel) -> list[str]:
    """Infinite and undefined features must reach just the samples they reach in PyTorch."""
    failed = []
    for mode in MODES:
        volume = torch.randn((1, 9, 4, 5, 6), device="cuda")
        volume[0, ::2, 1, 2, 3] = float("inf")
        volume[0, 1::2, 3, 4, 5] = float("nan")
        case = Case(volume, torch.rand((2, 9, 9, 9, 3), device="cuda") * 2.6 - 1.3, mode)
        expected = reference(case)
        usable = compared_points(case)[:, None].expand_as(expected)
        for layout in ("linear", "channels_last"):
            output = run_case(kernel, case, layout, 0)
            if not torch.equal(output.isfinite()[usable], expected.isfinite()[usable]):
                failed.append(f"infinite features, {layout}: {case.describe()}")
    return failed


def check_streams_and_graph(kernel: SamplingKernel) -> list[str]:
    """The same numbers from two streams at once and from a replayed CUDA graph."""
    mode = SamplingMode()
    volume = torch.randn((1, 4, 16, 64, 64), device="cuda").half()
    grids = [torch.rand((16, 8, 32, 32, 3), device="cuda") * 2 - 1 for _ in range(2)]
    plain = [run_case(kernel, Case(volume, grid, mode), "linear", 0).clone() for grid in grids]
    outputs = [empty_output(volume, grid) for grid in grids]
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    torch.cuda.synchronize()
    for _ in range(20):
        for stream, grid, output in zip(streams, grids, outputs, strict=True):
            with torch.cuda.stream(stream):
                call(kernel, volume, grid, output, mode)
    torch.cuda.synchronize()
    failed = []
    if not all(torch.equal(output, want) for output, want in zip(outputs, plain, strict=True)):
        failed.append("two streams at once gave other numbers than one")
    graph = torch.cuda.CUDAGraph()
    captured = empty_output(volume, grids[0])
    with torch.cuda.graph(graph):
        call(kernel, volume, grids[0], captured, mode)
    if not captured.isnan().all():
        failed.append("capturing a CUDA graph ran the kernel")
    graph.replay()
    torch.cuda.synchronize()
    if not torch.equal(captured, plain[0]):
        failed.append("a replayed CUDA graph gave other numbers")
    return failed


def judge_times(rows: list[Timing]) -> list[str]:
    """What is slower than the targets, taking the cold time of the kernel in linear layout."""
    failed = []
    for (shape, dtype), target in TARGETS_US.items():
        times = {row.method: row.cold_us for row in rows if (row.shape, row.dtype) == (shape, dtype)}
        kernel, torch_time = times["kernel, linear"], times["PyTorch grid_sample"]
        if kernel > target:
            failed.append(f"{shape}, {dtype}: {kernel:.1f} us, the target is {target:.0f}")
        if torch_time < TARGET_OVER_TORCH * kernel:
            failed.append(f"{shape}, {dtype}: {torch_time / kernel:.2f} times as fast as PyTorch, the target is 3")
    return failed


def print_times(rows: list[Timing], rate: float) -> None:
    print(f"\ndevice copy: {rate / 1e12:.2f} TB/s read plus written")
    print(f"{'':78} {'cold us':>8} {'warm us':>8} {'single':>8} {'TB/s':>6} {'of copy':>8} {'every byte once':>16}")
    for row in rows:
        name = f"{row.shape}, {row.dtype}, {row.method}"
        limit = row.bytes_moved / rate * 1e6
        print(
            f"{name:78} {row.cold_us:8.2f} {row.warm_us:8.2f} {row.single_us:8.2f} {row.cold_rate / 1e12:6.2f} "
            f"{row.cold_rate / rate:8.1%} {limit:13.2f} us"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--build", action="store_true", help="build the kernel library with nvcc first")
    parser.add_argument("--library", type=Path, default=BUILD_FOLDER / "libsadtrt_grid_sample_kernel.so")
    parser.add_argument("--out", type=Path, default=None, help="folder for grid_sample_check.json")
    parser.add_argument("--cases", type=int, default=2400, help="random cases, each in both layouts")
    parser.add_argument("--quick", action="store_true", help="small cases and no timing, for compute-sanitizer")
    arguments = parser.parse_args()
    has_gpu = torch.cuda.is_available()
    if arguments.build:
        try:
            capability = torch.cuda.get_device_capability() if has_gpu else (9, 0)
            arguments.library = build_kernel(BUILD_FOLDER, ["{}{}".format(*capability)])
        except PluginError as error:
            print(f"check_on_gpu: {error}", file=sys.stderr)
            return 2
        print(f"built {arguments.library}")
    if not has_gpu:
        print("check_on_gpu: PyTorch sees no GPU on this machine, so nothing was checked", file=sys.stderr)
        return 2
    try:
        kernel = SamplingKernel(arguments.library)
    except OSError as error:
        print(f"check_on_gpu: the kernel library cannot be loaded ({error}): run with --build", file=sys.stderr)
        return 2

    started = time.monotonic()
    worst, failed = check_random(kernel, arguments.cases, arguments.quick)
    failed += check_special(kernel, arguments.quick)
    print(
        f"{arguments.cases} random cases in both layouts, {time.monotonic() - started:.1f} s; worst share of the bound:"
    )
    for key, share in sorted(worst.items()):
        print(f"  {key:40} {share:.4f}")

    rows: list[Timing] = []
    rate = 0.0
    if not arguments.quick:
        torch.cuda.empty_cache()
        device = torch.device("cuda")
        rate = copy_rate(device)
        for shape in SHAPES:
            for dtype in (torch.float32, torch.float16):
                rows += time_shape(kernel, shape, dtype, device, every_group="256 px" in shape.name)
        print_times(rows, rate)
        failed += judge_times(rows)
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
            "copy_bytes_per_second": rate,
            "times": [asdict(row) for row in rows],
            "failed": failed,
        }
        (arguments.out / "grid_sample_check.json").write_text(json.dumps(report, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
