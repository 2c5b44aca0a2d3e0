"""Check and time the SpadeNorm kernels on the GPU of this machine; needs torch and nvcc, no TensorRT.

    python3 plugin/spade_norm/check.py --build --out results/spade-norm       # correctness, then times
    compute-sanitizer python3 plugin/spade_norm/check.py --quick --cases 60   # small cases, no times

Every case is compared with instance norm, modulation and leaky ReLU in fp64, in every layout and by both forms: one
kernel on clusters (sm_90 and later) and two kernels. Times are of one norm out of a CUDA graph of many, cold (the
launches go round over more copies of all tensors than the cache holds) and warm (one copy), beside PyTorch's best form
in the same layout. Writes spade_norm_check.json into --out.
Exit status: 0 all right, 1 a case failed, 2 nothing could run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cases import (
    Case,
    SpadeKernel,
    SpadeLaunch,
    layouts_of,
    random_cases,
    reference,
    sums_right,
    worst_excess,
)

from sadtrt_core.engine.plugin import BUILD_FOLDER
from sadtrt_core.engine.plugin_build import KERNEL_LIBRARY, build_kernel
from sadtrt_core.errors import UserError
from sadtrt_core.measure.graph_times import copies_beyond_cache, copy_rate, graph_time_us

#: The decoder's norms at 256 px: (channels, side) of the middle blocks, of up_0 and of up_1.
SHAPES = ((512, 64), (512, 128), (256, 128), (256, 256), (64, 256))


@dataclass(frozen=True)
class Time:
    """Microseconds of one norm. `every_byte_once_us` is what its bytes take at the rate of a copy on this device."""

    shape: tuple[int, ...]
    dtype: str
    layout: str
    residual: bool
    way: str
    cold_us: float
    warm_us: float
    every_byte_once_us: float


def forms() -> tuple[str, ...]:
    """The forms that this GPU has kernels for."""
    has_clusters = torch.cuda.get_device_capability() >= (9, 0)
    return ("any", "cluster", "two kernels") if has_clusters else ("any", "two kernels")


def fits_on_cluster(launch: SpadeLaunch) -> bool:
    """Whether the launch, of the form of one kernel, was queued; False where no cluster of this GPU holds a slice."""
    try:
        launch()
    except ValueError as error:
        if "no cluster of this GPU" in str(error):
            return False
        raise
    return True


def on_gpu(case: Case) -> Case:
    """The case's tensors copied to the GPU."""
    residual = None if case.residual is None else case.residual.cuda()
    return replace(case, x=case.x.cuda(), modulation=case.modulation.cuda(), residual=residual)


def check_random(kernel: SpadeKernel, count: int, quick: bool) -> tuple[dict[str, float], list[str]]:
    """Worst share of the allowed difference by type, layout and form, and a line for each failed case."""
    worst: dict[str, float] = {}
    failed = []
    pixels, channels = (600, 24) if quick else (20_000, 80)
    for number, case in enumerate(random_cases(count, pixels, channels, "cpu" if quick else "cuda")):
        check_case(kernel, case, f"case {number}", worst, failed)
    return worst, failed


def check_case(kernel: SpadeKernel, case: Case, name: str, worst: dict[str, float], failed: list[str]) -> None:
    """Run a case in every layout and form twice, compare with fp64 and with itself, and note both."""
    expected = reference(case)
    given = on_gpu(case)
    for layout in layouts_of(case):
        for form in forms():
            first, second = (SpadeLaunch(kernel, given, layout, form) for _ in range(2))
            if form == "cluster" and not fits_on_cluster(first):
                continue
            y, again = first(), second()
            torch.cuda.synchronize()
            excess = worst_excess(case, y.to(case.x.device), expected)
            key = f"{str(case.x.dtype).removeprefix('torch.')}, {layout}, {form}"
            worst[key] = max(worst.get(key, 0.0), excess)
            where = f"{name}, {layout}, {form}"
            if not excess <= 1.0:
                failed.append(f"{where}: {excess:.3g} times the bound, {case.describe()}")
            if not sums_right(given, first):
                failed.append(f"{where}: the sum is not x + residual, {case.describe()}")
            if not torch.equal(y, again):
                failed.append(f"{where}: a second run gave other bits, {case.describe()}")
            if not first.workspace[-4:].isnan().all():
                failed.append(f"{where}: the kernel wrote beyond its workspace, {case.describe()}")


def decoder_case(channels: int, side: int, dtype: torch.dtype, adds: bool, mean: float = 0.0) -> Case:
    """A case of the decoder's shapes on the GPU."""
    generator = torch.Generator("cuda").manual_seed(channels + side)

    def draw(count: int) -> Tensor:
        return torch.randn((1, count, side, side), generator=generator, device="cuda")

    x, modulation = draw(channels) + mean, draw(2 * channels) * 0.3
    return Case(x.to(dtype), modulation.to(dtype), draw(channels).to(dtype) if adds else None)


def check_decoder_shapes(kernel: SpadeKernel, worst: dict[str, float]) -> list[str]:
    """The shapes that are timed, with and without a residual, about zero and about a far mean."""
    failed: list[str] = []
    for channels, side in SHAPES:
        for dtype, mean in ((torch.float16, 0.0), (torch.float32, 1e4), (torch.bfloat16, 3.0)):
            for adds in (False, True):
                case = decoder_case(channels, side, dtype, adds, mean)
                check_case(kernel, case, f"{channels} channels of {side} x {side}", worst, failed)
    return failed


def check_graph(kernel: SpadeKernel) -> list[str]:
    """The same bits from a replayed CUDA graph, in which norms of several shapes follow one another."""
    cases = [decoder_case(64, side, torch.float16, adds) for side, adds in ((64, False), (33, True), (128, True))]
    failed = []
    for form in forms():
        expected = [SpadeLaunch(kernel, case, "channels_last", form)() for case in cases]
        launches = [SpadeLaunch(kernel, case, "channels_last", form) for case in cases]
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for launch in launches:
                launch()
        if not all(launch.y.isnan().all() for launch in launches):
            failed.append(f"capturing a CUDA graph ran the kernel, {form}")
        for _ in range(20):
            graph.replay()
        torch.cuda.synchronize()
        if not all(torch.equal(launch.y, y) for launch, y in zip(launches, expected, strict=True)):
            failed.append(f"a replayed CUDA graph gave other numbers, {form}")
    return failed


def torch_norm(x: Tensor, residual: Tensor | None, modulation: Tensor) -> tuple[Tensor, ...]:
    """What SadTalker's code computes, gamma and beta already one tensor."""
    total = x if residual is None else x + residual
    gamma, beta = modulation.chunk(2, 1)
    normalised = torch.nn.functional.instance_norm(total, eps=1e-5) * (1 + gamma) + beta
    return total, torch.nn.functional.leaky_relu(normalised, 0.2)


def times_of(kernel: SpadeKernel, case: Case, layout: str, rate: float) -> list[Time]:
    """The kernel's forms and PyTorch's, at one shape."""
    tensors = 4 + (0 if case.residual is None else 2)
    moved = case.x.numel() * case.x.element_size() * tensors
    copies = copies_beyond_cache(moved, case.x.device)
    wanted = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    ways: dict[str, list[Callable[[], object]]] = {}
    for form in forms():
        launches = [SpadeLaunch(kernel, case, layout, form) for _ in range(copies)]
        if form != "cluster" or fits_on_cluster(launches[0]):
            ways[form] = list(launches)
    compiled = torch.compile(torch_norm, dynamic=False, fullgraph=True)
    for name, function in (("PyTorch", torch_norm), ("torch.compile", compiled)):
        calls = []
        for _ in range(copies):
            given = [
                None if t is None else t.clone(memory_format=wanted).contiguous(memory_format=wanted)
                for t in (case.x, case.residual, case.modulation)
            ]
            calls.append(lambda function=function, given=given: function(*given))
        calls[0]()
        ways[name] = calls
    return [
        Time(
            tuple(case.x.shape),
            str(case.x.dtype).removeprefix("torch."),
            layout,
            case.residual is not None,
            way,
            graph_time_us(calls),
            graph_time_us(calls[:1]),
            moved / rate * 1e6,
        )
        for way, calls in ways.items()
    ]


def measure(kernel: SpadeKernel) -> list[Time]:
    """Times of the decoder's shapes, each printed as it is known."""
    rate = copy_rate(torch.device("cuda"))
    print(f"copy rate {rate / 1e12:.2f} TB/s")
    found = []
    for channels, side in SHAPES:
        for layout in ("channels_last", "linear"):
            for adds in (False, True):
                case = decoder_case(channels, side, torch.float16, adds)
                for row in times_of(kernel, case, layout, rate):
                    found.append(row)
                    share = row.cold_us / row.every_byte_once_us
                    added = " + residual" if row.residual else ""
                    print(
                        f"{channels:4} x {side:3}{added:11} {layout:13} {row.way:13} cold {row.cold_us:7.2f} us, "
                        f"warm {row.warm_us:7.2f} us, {share:.2f} times every byte once"
                    )
    return found


def open_kernel(library: Path, build: bool) -> SpadeKernel:
    """The kernel library, built for this GPU first where asked. Raises UserError, or OSError where it cannot load."""
    if not torch.cuda.is_available():
        raise UserError("PyTorch sees no GPU on this machine, so nothing was checked")
    if build:
        library = build_kernel(BUILD_FOLDER, ["{}{}".format(*torch.cuda.get_device_capability())])
        print(f"built {library}")
    return SpadeKernel(library)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--build", action="store_true", help="build the kernel library with nvcc first")
    parser.add_argument("--library", type=Path, default=BUILD_FOLDER / KERNEL_LIBRARY)
    parser.add_argument("--out", type=Path, default=None, help="folder for spade_norm_check.json")
    parser.add_argument("--cases", type=int, default=600, help="random cases, each in every layout and form")
    parser.add_argument("--quick", action="store_true", help="small cases and no times, for compute-sanitizer")
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
    times: list[Time] = []
    if not arguments.quick:
        failed += check_decoder_shapes(kernel, worst) + check_graph(kernel)
    print(f"{arguments.cases} random cases in every layout and form; worst share of the bound:")
    for key, share in sorted(worst.items()):
        print(f"  {key:40} {share:.4f}")
    for line in failed:
        print(f"FAILED {line}")
    print("all right" if not failed else f"{len(failed)} failures", f"({time.monotonic() - started:.1f} s)")
    if not arguments.quick:
        times = measure(kernel)
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        report = {
            "device": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "cases": arguments.cases,
            "worst_share_of_bound": worst,
            "failed": failed,
            "times": [asdict(row) for row in times],
        }
        (arguments.out / "spade_norm_check.json").write_text(json.dumps(report, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
