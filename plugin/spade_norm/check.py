"""Check and time the SpadeNorm kernels on the GPU of this machine; needs torch and nvcc, no TensorRT.

    python3 plugin/spade_norm/check.py --build --out results/spade-norm       # correctness, then times
    compute-sanitizer python3 plugin/spade_norm/check.py --quick --cases 60   # small cases, no times

Every case is compared with instance norm, modulation and leaky ReLU in fp64, in every layout and by both forms: one
kernel on clusters (sm_90 and later) and two kernels. Their int8 has to be those values quantized, bit by bit. Times are
of one norm out of a CUDA graph of many, cold (the launches go round over more copies of all tensors than the cache
holds) and warm (one copy), beside PyTorch in channels last, eager and compiled.
Writes spade_norm_check.json into --out.
Exit status: 0 all right, 1 a case failed, 2 nothing could run.
"""

from __future__ import annotations

import ctypes
import itertools
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from plugin.common.checking import Checked, main, replayed
from plugin.common.timing import Timing
from plugin.spade_norm.cases import (
    DECODER,
    Case,
    decoder_case,
    layouts_of,
    planes,
    quantized,
    random_cases,
    reference,
    spade_launch,
    sums_right,
    timings,
    worst_excess,
)
from sadtrt_core.engine.kernels import KernelLaunch
from sadtrt_core.errors import BuildError

INT8_SCALE = 0.0173  # most values fit, and some saturate


def forms() -> tuple[str, ...]:
    """The forms that this GPU has kernels for."""
    has_clusters = torch.cuda.get_device_capability() >= (9, 0)
    return ("any", "cluster", "two kernels") if has_clusters else ("any", "two kernels")


def fits_on_cluster(launch: KernelLaunch) -> bool:
    """Whether the launch, of the form of one kernel, was queued; False where no cluster of this GPU holds a slice."""
    try:
        launch()
    except BuildError as error:
        if "no cluster of this GPU" in str(error):
            return False
        raise
    return True


def on_gpu(case: Case) -> Case:
    """The case's tensors copied to the GPU."""
    residual = None if case.residual is None else case.residual.cuda()
    return replace(case, x=case.x.cuda(), modulation=case.modulation.cuda(), residual=residual)


def decoder_cases() -> Iterator[Case]:
    """The shapes that are timed, with and without a residual, about zero and about a far mean."""
    device = torch.device("cuda")
    for channels, side in DECODER:
        for dtype, mean in ((torch.float16, 0.0), (torch.float32, 1e4), (torch.bfloat16, 3.0)):
            for adds in (False, True):
                yield decoder_case(channels, side, dtype, adds, device, channels + side, mean)


def check(kernels: ctypes.CDLL, count: int, quick: bool) -> Iterator[Checked | str]:
    pixels, channels = (600, 24) if quick else (20_000, 80)
    cases = random_cases(count, pixels, channels, "cpu" if quick else "cuda")
    for case in cases if quick else itertools.chain(cases, decoder_cases()):
        expected, given = reference(case), on_gpu(case)
        for layout, form in itertools.product(layouts_of(case), forms()):
            first, second = (spade_launch(kernels, given, layout, form) for _ in range(2))
            if form == "cluster" and not fits_on_cluster(first):
                continue
            y, again = first(), second()
            kind = f"{str(case.x.dtype).removeprefix('torch.')}, {layout}, {form}"
            yield Checked(kind, str(case), worst_excess(case, y, expected))
            if not sums_right(given, first):
                yield f"{case}, {kind}: the sum is not x + residual"
            if not torch.equal(y, again):
                yield f"{case}, {kind}: a second run gave other bits"
            if not first.tensors["workspace"][-4:].isnan().all():
                yield f"{case}, {kind}: the kernel wrote beyond its workspace"
            in_int8 = replace(given, scale=INT8_SCALE)
            if layout in layouts_of(in_int8):
                third = spade_launch(kernels, in_int8, layout, form)
                if not torch.equal(planes(third()), quantized(y, INT8_SCALE)):
                    yield f"{case}, {kind}: int8 is not y quantized"
    if not quick:
        yield from check_graph(kernels)


def check_graph(kernels: ctypes.CDLL) -> Iterator[str]:
    """The same bits from a replayed CUDA graph, in which norms of several shapes follow one another."""
    shapes = (64, False), (33, True), (128, True)
    cases = [decoder_case(64, side, torch.float16, adds, torch.device("cuda"), side) for side, adds in shapes]
    for form in forms():
        first, second = ([spade_launch(kernels, case, "channels_last", form) for case in cases] for _ in range(2))
        for failure in replayed(first, [launch() for launch in second]):
            yield f"{failure}, {form}"


def timings_of_forms() -> Iterator[Timing]:
    """What bench/ times, and in half the form of two kernels by itself."""
    for timing in timings():
        layouts = ("channels_last", "linear") if timing.dtype == torch.float16 else ()
        two = {f"two kernels, {layout}": partial(spade_launch, layout=layout, form="two kernels") for layout in layouts}
        yield replace(timing, kernels={**timing.kernels, **two})


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", "spade_norm_check", check, timings_of_forms()))
