"""What the check.py of an operator's folder is made of: cases against PyTorch, times, and a JSON file of both."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from launching import load_library

from sadtrt_core.engine.plugin import BUILD_FOLDER
from sadtrt_core.engine.plugin_build import KERNEL_LIBRARY, build_kernel
from sadtrt_core.errors import UserError
from sadtrt_core.measure.graph_times import copies_beyond_cache, copy_rate, graph_time_us

Launch = Callable[[], object]


@dataclass(frozen=True)
class Checked:
    """One case: what it is, and its largest difference from PyTorch in fp64 as a share of what is allowed."""

    case: str
    share: float


@dataclass(frozen=True)
class Timing:
    """What is to be timed. `make` gives a launch with memory of its own, `torch_form` does the same in PyTorch.

    `bytes_moved` counts every byte that has to be read or written once.
    """

    case: str
    make: Callable[[], Launch]
    torch_form: Launch
    bytes_moved: int


@dataclass(frozen=True)
class Timed:
    """Microseconds of one launch in a CUDA graph: all tensors in memory, or in the L2 cache where they fit."""

    case: str
    cold_us: float
    warm_us: float
    torch_us: float
    bytes_at_copy_rate_us: float


def time_launches(timings: Iterable[Timing]) -> list[Timed]:
    device = torch.device("cuda")
    rate = copy_rate(device)
    rows = []
    for timing in timings:
        launches = [timing.make() for _ in range(copies_beyond_cache(timing.bytes_moved, device))]
        rows.append(
            Timed(
                timing.case,
                graph_time_us(launches),
                graph_time_us(launches[:1]),
                graph_time_us([timing.torch_form]),
                timing.bytes_moved / rate * 1e6,
            )
        )
    return rows


def main(
    description: str,
    name: str,
    check: Callable[[ctypes.CDLL, int, bool], Iterable[Checked]],
    timings: Callable[[ctypes.CDLL], Iterable[Timing]],
) -> int:
    """Check, time and print. Returns 0 where all is right, 1 where a case failed, 2 where nothing could run.

    `check` takes the library, a number of random cases, and whether they are to be small.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--build", action="store_true", help="build the kernel library with nvcc first")
    parser.add_argument("--library", type=Path, default=BUILD_FOLDER / KERNEL_LIBRARY)
    parser.add_argument("--out", type=Path, default=None, help=f"folder for {name}.json")
    parser.add_argument("--cases", type=int, default=600, help="random cases")
    parser.add_argument("--quick", action="store_true", help="small cases and no times, for compute-sanitizer")
    arguments = parser.parse_args()
    if arguments.quick:
        # Before the first allocation: else tensors are parts of large blocks, and accesses beyond them pass unseen.
        os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
    try:
        library = _open(arguments.library, arguments.build)
    except (UserError, OSError) as error:
        print(f"check: {error}", file=sys.stderr)
        return 2

    checked = list(check(library, arguments.cases, arguments.quick))
    failed = [row for row in checked if not row.share <= 1.0]
    print(f"{len(checked)} cases, the worst at {max(row.share for row in checked):.4f} of what is allowed")
    for row in failed:
        print(f"FAILED {row.case}: {row.share:.3g} times what is allowed")
    timed = [] if arguments.quick else time_launches(timings(library))
    if timed:
        print(f"{'us':50} {'cold':>8} {'warm':>8} {'PyTorch':>8} {'bytes':>8}")
    for time in timed:
        numbers = (time.cold_us, time.warm_us, time.torch_us, time.bytes_at_copy_rate_us)
        print(f"{time.case:50} " + " ".join(f"{number:8.2f}" for number in numbers))
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        report = {
            "device": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "cases": len(checked),
            "worst_share_of_bound": max(row.share for row in checked),
            "failed": [asdict(row) for row in failed],
            "times": [asdict(row) for row in timed],
        }
        (arguments.out / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    return 1 if failed else 0


def _open(library: Path, build: bool) -> ctypes.CDLL:
    """The kernel library, built for this GPU first where asked."""
    if not torch.cuda.is_available():
        raise UserError("PyTorch sees no GPU on this machine, so nothing was checked")
    if build:
        library = build_kernel(BUILD_FOLDER, ["{}{}".format(*torch.cuda.get_device_capability())])
        print(f"built {library}")
    return load_library(library)
