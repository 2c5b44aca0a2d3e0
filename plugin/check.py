"""Check an operator's kernels on the GPU of this machine, and time most of them; needs torch and nvcc, no TensorRT.

    python3 plugin/check.py spade_norm --build --out results/spade-norm
    compute-sanitizer python3 plugin/check.py spade_norm --quick --cases 60       # also --tool racecheck

Random cases and more are compared with PyTorch in fp64, or have to be exact, as the operator's cases.py says. Times are
of the renderer's shapes at 256 pixels, out of a CUDA graph of many launches, beside PyTorch in channels last, eager and
compiled. Writes <operator>_check.json into --out.
Exit status: 0 all right, 1 a case failed, 2 nothing could run.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plugin.common.launching import Checked
from plugin.common.timing import Timing
from plugin.dense_motion import cases as dense_motion
from plugin.fold_depth import cases as fold_depth
from plugin.grid_sample_3d import cases as grid_sample
from plugin.picture_conv import cases as picture_conv
from plugin.spade_norm import cases as spade_norm
from plugin.split_sum import cases as split_sum
from sadtrt_core.engine.kernels import kernels_version, load_kernels
from sadtrt_core.engine.plugin import BUILD_FOLDER
from sadtrt_core.engine.plugin_build import KERNEL_LIBRARY, build_kernel
from sadtrt_core.errors import UserError
from sadtrt_core.measure.graph_times import copies_beyond_cache, copy_rate, graph_time_us

#: Takes the kernels, the number of random cases, and whether they are to be small. A sentence says what failed else.
Check = Callable[[ctypes.CDLL, int, bool], Iterable[Checked | str]]
#: What is checked of each operator, what is timed, and how many random cases there are.
OPERATORS: dict[str, tuple[Check, Callable[[], Iterable[Timing]], int]] = {
    "dense_motion": (dense_motion.check, dense_motion.timings, 600),
    "fold_depth": (fold_depth.check, tuple, 600),
    "grid_sample": (grid_sample.check, tuple, 2400),
    "picture_conv": (picture_conv.check, picture_conv.timings, 600),
    "spade_norm": (spade_norm.check, spade_norm.timings_of_forms, 600),
    "split_sum": (split_sum.check, split_sum.timings, 600),
}


def main() -> int:
    """Check, time and print. Returns 0 where all is right, 1 where a case failed, 2 where nothing could run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("operator", choices=OPERATORS)
    parser.add_argument("--build", action="store_true", help="build the kernel library with nvcc first")
    parser.add_argument("--library", type=Path, default=BUILD_FOLDER / KERNEL_LIBRARY)
    parser.add_argument("--out", type=Path, default=None, help="folder for <operator>_check.json")
    parser.add_argument("--cases", type=int, default=None, help="random cases")
    parser.add_argument("--quick", action="store_true", help="small cases and no times, for compute-sanitizer")
    options = parser.parse_args()
    check, timings, usual = OPERATORS[options.operator]
    cases = usual if options.cases is None else options.cases
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
    worst, failed = _checked(check(kernels, cases, options.quick))
    print(f"{cases} random cases and more; worst share of the bound:")
    for kind, share in sorted(worst.items()):
        print(f"  {kind:50} {share:.4f}")
    for line in failed:
        print(f"FAILED {line}")
    print("all right" if not failed else f"{len(failed)} failures", f"({time.monotonic() - started:.1f} s)")
    report = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "kernel": kernels_version(kernels),
        "cases": cases,
        "worst_share_of_bound": worst,
        "failed": failed,
    }
    if not options.quick:
        report["times"] = list(_timed(timings(), kernels))
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / f"{options.operator}_check.json").write_text(json.dumps(report, indent=1) + "\n")
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


if __name__ == "__main__":
    sys.exit(main())
