"""What the check.py of an operator's folder is made of: cases against PyTorch, times, and a JSON file of both."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from plugin.common.timing import Timing
from sadtrt_core.engine.kernels import KernelLaunch, kernels_version, load_kernels
from sadtrt_core.engine.plugin import BUILD_FOLDER
from sadtrt_core.engine.plugin_build import KERNEL_LIBRARY, build_kernel
from sadtrt_core.errors import UserError
from sadtrt_core.measure.graph_times import copies_beyond_cache, copy_rate, graph_time_us


@dataclass(frozen=True)
class Checked:
    """A result: what it is counted with, its case, and its largest difference as a share of what is allowed."""

    kind: str
    case: str
    share: float


#: Takes the kernels, the number of random cases, and whether they are to be small. A sentence says what failed else.
Check = Callable[[ctypes.CDLL, int, bool], Iterable[Checked | str]]


def main(
    description: str,
    name: str,
    check: Check,
    timings: Iterable[Timing] = (),
    cases: int = 600,
) -> int:
    """Check, time and print. Returns 0 where all is right, 1 where a case failed, 2 where nothing could run."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--build", action="store_true", help="build the kernel library with nvcc first")
    parser.add_argument("--library", type=Path, default=BUILD_FOLDER / KERNEL_LIBRARY)
    parser.add_argument("--out", type=Path, default=None, help=f"folder for {name}.json")
    parser.add_argument("--cases", type=int, default=cases, help="random cases")
    parser.add_argument("--quick", action="store_true", help="small cases and no times, for compute-sanitizer")
    options = parser.parse_args()
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
    worst, failed = _checked(check(kernels, options.cases, options.quick))
    print(f"{options.cases} random cases and more; worst share of the bound:")
    for kind, share in sorted(worst.items()):
        print(f"  {kind:50} {share:.4f}")
    for line in failed:
        print(f"FAILED {line}")
    print("all right" if not failed else f"{len(failed)} failures", f"({time.monotonic() - started:.1f} s)")
    report = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "kernel": kernels_version(kernels),
        "cases": options.cases,
        "worst_share_of_bound": worst,
        "failed": failed,
    }
    if not options.quick:
        report["times"] = list(_timed(timings, kernels))
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    return 1 if failed else 0


def _checked(results: Iterable[Checked | str]) -> tuple[dict[str, float], list[str]]:
    """The worst share of every kind, and a line for each failure."""
    worst: dict[str, float] = {}
    failed = []
    for result in results:
        if isinstance(result, str):
            failed.append(result)
            continue
        worst[result.kind] = max(worst.get(result.kind, 0.0), result.share)
        if not result.share <= 1.0:
            failed.append(f"{result.case}, {result.kind}: {result.share:.3g} times the bound")
    return worst, failed


def replayed(launches: Sequence[KernelLaunch], expected: Sequence[Tensor]) -> Iterator[str]:
    """What goes wrong where the launches follow one another in a CUDA graph: nothing runs before it is replayed."""
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for launch in launches:
            launch()
    if not all(launch.result.isnan().all() for launch in launches):
        yield "capturing a CUDA graph ran the kernel"
    for _ in range(20):
        graph.replay()
    torch.cuda.synchronize()
    if not all(torch.equal(launch.result.to(e.device), e) for launch, e in zip(launches, expected, strict=True)):
        yield "a replayed CUDA graph gave other numbers"


def _timed(timings: Iterable[Timing], kernels: ctypes.CDLL) -> Iterator[dict[str, object]]:
    """Microseconds of one launch by every method, in a CUDA graph; each printed as it is known.

    Cold: all tensors are in memory, warm: in the L2 cache where they fit.
    """
    device = torch.device("cuda")
    rate = copy_rate(device)
    for timing in timings:
        copies = copies_beyond_cache(timing.bytes_moved, device)
        about = {"operator": timing.operator, "shape": timing.shape, "dtype": str(timing.dtype).removeprefix("torch.")}
        limit_us = timing.bytes_moved / rate * 1e6
        print(f"{', '.join(about.values())}: every byte once at the rate of a copy {limit_us:.2f} us")
        for method in timing.methods:
            launcher = timing.launcher(method, lambda: kernels)
            launches = [launcher(timing.make(device, seed)) for seed in range(copies)]
            launches[0]()
            cold_us, warm_us = graph_time_us(launches), graph_time_us(launches[:1])
            print(f"  {method:40} cold {cold_us:8.2f} us, warm {warm_us:8.2f} us", flush=True)
            times = {"cold_us": cold_us, "warm_us": warm_us, "every_byte_once_us": limit_us}
            yield {**about, "method": method, **times}
