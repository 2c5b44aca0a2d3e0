"""Check and time every variant of the packed sampling kernel on the GPU of this machine; for choosing one.

    python3 plugin/tune_on_gpu.py --out tune                  # build, correctness, times
    python3 plugin/tune_on_gpu.py --out tune --profile        # the same, then some variants under ncu

Needs torch and nvcc. Exit status: 0 all right, 1 a variant failed.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from kernel_calls import call, empty_output, workspace_for
from sampling_cases import random_cases, reference, to_channels_last, worst_excess

from sadtrt_core.engine.plugin_build import build_kernel
from sadtrt_core.engine.plugin_library import BUILD_FOLDER
from sadtrt_core.engine.sampling_kernel import SamplingError, SamplingKernel, SamplingMode
from sadtrt_core.sampling.device_times import copies_beyond_cache, copy_rate, graph_time_us
from sadtrt_core.sampling.shapes import RENDERER_SHAPES, SamplingShape, renderer_grids

MODE = SamplingMode()
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
NAMES = {
    1: "linear, no workspace",
    10: "4 wide",
    11: "4 wide, 2 points",
    12: "4 wide, 4 points",
    13: "4 wide, 2 grids",
    14: "4 wide, 4 grids",
    15: "4 wide, 5 blocks",
    18: "4 wide, 6 blocks",
    16: "4 wide, 4 grids in turn",
    17: "4 wide, 4 grids in turn, 5 blocks",
    20: "4 wide pairs",
    21: "4 wide pairs, 2 points",
    23: "4 wide pairs, 2 grids",
    25: "4 wide pairs, 5 blocks",
    28: "4 wide pairs, 6 blocks",
    26: "4 wide pairs, 4 grids in turn",
    27: "4 wide pairs, 4 grids in turn, 5 blocks",
    30: "8 wide",
    31: "8 wide, 2 points",
}
WITHOUT_OVERLAP, MORE_OVERLAP = 100, 200
OVERLAPS = {0: "", 1: ", no overlap", 2: ", also with what is before"}
PROFILED = {4: (1, 10, 11, 15, 16, 20, 25, 27), 32: (1, 10, 20, 30)}


def check(kernel: SamplingKernel, count: int) -> list[str]:
    """A line for each case and variant that is wrong."""
    failed = []
    tried = dict.fromkeys((*NAMES, 201, 210, 225), 0)
    for number, case in enumerate(random_cases(count, DTYPES, 20_000, 3000, "cuda")):
        if case.mode.interpolation != "bilinear" or case.volume.shape[1] < 2:
            continue
        expected = reference(case)
        for variant in (*NAMES, 201, 210, 225):
            workspace = workspace_for(kernel, case.volume, case.grid, case.mode, variant)
            output = empty_output(case.volume, case.grid)
            if workspace is not None:
                workspace.fill_(255)
            try:
                call(kernel, case.volume, case.grid, output, case.mode, workspace=workspace, variant=variant)
            except SamplingError:
                continue  # so many grids a volume do not fit it
            tried[variant] += 1
            excess = worst_excess(case, output, expected)
            if not excess <= 1.0:
                failed.append(f"variant {variant}, case {number}: {excess:.3g} of the bound, {case.describe()}")
    print("checked cases:", tried)
    return failed


def sets_of(shape: SamplingShape, dtype: torch.dtype, count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    device = torch.device("cuda")
    return [
        (torch.randn(shape.volume_shape, device=device).to(dtype), renderer_grids(shape, device, number))
        for number in range(count)
    ]


def kernel_launch(
    kernel: SamplingKernel, volume: torch.Tensor, grid: torch.Tensor, variant: int
) -> Callable[[], object]:
    output = empty_output(volume, grid)
    workspace = workspace_for(kernel, volume, grid, MODE, variant) if variant != 1 else None
    return lambda: call(kernel, volume, grid, output, MODE, workspace=workspace, variant=variant)


def channels_last_launch(
    kernel: SamplingKernel, volume: torch.Tensor, grid: torch.Tensor, variant: int = 0
) -> Callable[[], object]:
    laid_out = to_channels_last(volume)
    output = empty_output(laid_out, grid, "channels_last")
    return lambda: call(kernel, laid_out, grid, output, MODE, "channels_last", volume.shape[1], variant=variant)


def torch_launch(volume: torch.Tensor, grid: torch.Tensor) -> Callable[[], object]:
    shared, rounded = volume.expand(grid.shape[0], -1, -1, -1, -1), grid.to(volume.dtype)
    return lambda: F.grid_sample(shared, rounded, align_corners=False)


def time_all(kernel: SamplingKernel, shape: SamplingShape, dtype: torch.dtype, few: bool) -> list[dict[str, object]]:
    sets = sets_of(shape, dtype, copies_beyond_cache(shape.bytes_moved(dtype.itemsize), torch.device("cuda")))
    variants = [1, 201, *(variant for variant in NAMES if variant != 1)]
    # How much may overlap is another question than which kernel, so it is asked of a few only.
    variants += [variant + more for variant in (10, 15, 20, 25, 30) for more in (WITHOUT_OVERLAP, MORE_OVERLAP)]
    if few:
        variants = [1, 10, 20, 25, 30, 201, 210]
    if dtype == torch.float32:
        variants = [variant for variant in variants if variant // 10 % 10 != 2]
    methods = {"PyTorch, expanded": lambda pair: torch_launch(*pair)}
    if shape.channels % 8 == 0:
        methods["channels last"] = lambda pair: channels_last_launch(kernel, *pair)
        methods["channels last, overlap"] = lambda pair: channels_last_launch(kernel, *pair, variant=201)
    for variant in variants:
        name = f"{variant:3} {NAMES[variant % 100]}{OVERLAPS[variant // 100]}"
        methods[name] = lambda pair, variant=variant: kernel_launch(kernel, *pair, variant)
    rows = []
    base = 0.0
    for name, make in methods.items():
        try:
            launches = [make(pair) for pair in sets]
            launches[0]()
        except SamplingError as error:
            print(f"  {name}: {error}")
            continue
        cold, warm = graph_time_us(launches), graph_time_us(launches[:1])
        base = base or cold
        rows.append({"shape": shape.name, "dtype": str(dtype), "method": name, "cold_us": cold, "warm_us": warm})
        print(f"  {name:44} {cold:7.2f} cold {warm:7.2f} warm  x{base / cold:.2f}", flush=True)
        del launches
    return rows


def launch_only(kernel: SamplingKernel) -> None:
    """Each profiled variant once at both shapes in half, in the order that is printed."""
    for shape in RENDERER_SHAPES[:2]:
        ((volume, grid),) = sets_of(shape, torch.float16, 1)
        for variant in PROFILED[shape.channels]:
            kernel_launch(kernel, volume, grid, variant)()
            torch.cuda.synchronize()
            print(f"launched {shape.name}, variant {variant} {NAMES[variant]}", flush=True)
        if shape.channels % 8 == 0:
            channels_last_launch(kernel, volume, grid)()
            torch.cuda.synchronize()
            print(f"launched {shape.name}, channels last", flush=True)


METRICS = {
    "us": "gpu__time_duration.sum",
    "dram rd": "dram__bytes_read.sum",
    "dram wr": "dram__bytes_write.sum",
    "dram %": "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "L2 hit": "lts__t_sector_hit_rate.pct",
    "L2 %": "lts__t_sectors.avg.pct_of_peak_sustained_elapsed",
    "L1 hit": "l1tex__t_sector_hit_rate.pct",
    "ld requests": "l1tex__t_requests_pipe_lsu_mem_global_op_ld.sum",
    "ld sectors": "l1tex__t_sectors_pipe_lsu_mem_global_op_ld.sum",
    "wavefronts": "l1tex__data_pipe_lsu_wavefronts.sum",
    "LSU %": "l1tex__data_pipe_lsu_wavefronts.avg.pct_of_peak_sustained_elapsed",
    "warp instr": "smsp__inst_executed.sum",
    "issue %": "smsp__issue_active.avg.pct_of_peak_sustained_active",
    "occupancy": "sm__warps_active.avg.pct_of_peak_sustained_active",
    "long sb": "smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio",
    "lg thr": "smsp__average_warps_issue_stalled_lg_throttle_per_issue_active.ratio",
    "short sb": "smsp__average_warps_issue_stalled_short_scoreboard_per_issue_active.ratio",
    "math": "smsp__average_warps_issue_stalled_math_pipe_throttle_per_issue_active.ratio",
    "wait": "smsp__average_warps_issue_stalled_wait_per_issue_active.ratio",
    "not sel": "smsp__average_warps_issue_stalled_not_selected_per_issue_active.ratio",
    "registers": "launch__registers_per_thread",
}


def profile(out: Path) -> None:
    """Run launch_only under ncu and print what it counted, one line a kernel."""
    log = out / "ncu.csv"
    command = ["ncu", "--clock-control", "none", "--kernel-name", "regex:trilinear|pack_volume", "--csv"]
    command += ["--page", "raw", "--print-units", "base", "--log-file", str(log)]
    target = [sys.executable, str(Path(__file__).resolve()), "--launch-only"]
    for what in (
        ["--metrics", ",".join(METRICS.values())],
        ["--section", "SpeedOfLight", "--section", "MemoryWorkloadAnalysis", "--section", "Occupancy"],
    ):
        ended = subprocess.run([*command, *what, *target], capture_output=True, text=True, timeout=240)
        print(f"ncu ended with {ended.returncode}\n{ended.stdout[-4000:]}{ended.stderr[-2000:]}")
        lines = [line for line in log.read_text().splitlines() if line.startswith('"')] if log.exists() else []
        if len(lines) > 2:
            break
        print("\n".join(log.read_text().splitlines()[-10:]) if log.exists() else "no log")
    rows = list(csv.DictReader(lines))
    columns = {short: name for short, name in METRICS.items() if rows and name in rows[0]}
    print(" ".join(f"{short:>11}" for short in columns))
    for row in rows:
        if not row["ID"]:
            continue  # the line of units
        print(" ".join(f"{row[name][:11]:>11}" for name in columns.values()), row["Kernel Name"][:110])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--launch-only", action="store_true")
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    if arguments.launch_only:
        launch_only(SamplingKernel(BUILD_FOLDER / "libsadtrt_grid_sample_kernel.so"))
        return 0
    started = time.monotonic()
    library = build_kernel(BUILD_FOLDER, ["{}{}".format(*torch.cuda.get_device_capability())])
    print(f"built in {time.monotonic() - started:.1f} s", flush=True)
    kernel = SamplingKernel(library)
    failed = check(kernel, arguments.cases)
    for line in failed[:40]:
        print(f"FAILED {line}")
    print(f"{len(failed)} failures ({time.monotonic() - started:.1f} s)", flush=True)
    torch.cuda.empty_cache()
    print(f"copy {copy_rate(torch.device('cuda')) / 1e12:.2f} TB/s")
    rows = []
    for shape in RENDERER_SHAPES:
        for dtype in (torch.float16, torch.float32):
            print(f"{shape.name}, {dtype} ({time.monotonic() - started:.1f} s)", flush=True)
            rows += time_all(kernel, shape, dtype, few="512" in shape.name)
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "tune.json").write_text(json.dumps({"rows": rows, "failed": failed}, indent=1) + "\n")
    if arguments.profile:
        profile(arguments.out or Path())
    print(f"done in {time.monotonic() - started:.1f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
