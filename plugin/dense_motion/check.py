"""Check and time MotionInput and MotionSum on the GPU of this machine; needs torch and nvcc, no TensorRT.

    python3 plugin/dense_motion/check.py --build --out results/dense-motion
    compute-sanitizer python3 plugin/dense_motion/check.py --quick --cases 60       # also --tool racecheck

Every case is compared with PyTorch in fp64; the times are those of the renderer at 256 pixels, beside the same work in
PyTorch in the features' type. Writes dense_motion_check.json into --out. Exit status: 0 all right, 1 a case failed,
2 nothing could run.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "common"))

from checking import Checked, Timing, main
from motion_cases import (
    Case,
    MotionInput,
    MotionSum,
    input_excess,
    input_in_torch,
    random_input_cases,
    random_sum_cases,
    sum_excess,
    sum_in_torch,
)

PLACES = (16, 64, 64)
KEYPOINTS = 15
FEATURES = 4


def check(library: ctypes.CDLL, count: int, quick: bool) -> Iterator[Checked]:
    most = 7 if quick else 40
    for case in random_input_cases(count, most, "cuda"):
        launch = MotionInput(library, case)
        launch()
        yield Checked(f"MotionInput {case.describe()}", input_excess(case, launch.result()))
    for case in random_sum_cases(count, most, "cuda"):
        launch = MotionSum(library, case)
        launch()
        yield Checked(f"MotionSum {case.describe()}", sum_excess(case, launch.result()))


def renderer_case(channels: int, dtype: torch.dtype, input_last: bool, output_last: bool) -> Case:
    """Features or logits at 256 pixels; keypoints as near to each other as those of neighbouring frames."""
    features = torch.randn((1, channels, *PLACES), device="cuda").to(dtype)
    source = torch.rand((1, KEYPOINTS, 3), device="cuda") * 1.6 - 0.8
    driving = source + torch.randn_like(source) * 0.05
    return Case(features, driving, source, input_last, output_last)


def timings(library: ctypes.CDLL) -> Iterator[Timing]:
    voxels = torch.Size(PLACES).numel()
    layouts = ((True, True), (False, True), (False, False))
    for dtype, lasts in [(torch.float16, pair) for pair in layouts] + [(torch.float32, (False, False))]:
        case = renderer_case(FEATURES, dtype, *lasts)
        stored = 8 if lasts[0] else FEATURES
        moved = (stored + (KEYPOINTS + 1) * (FEATURES + 1)) * voxels * dtype.itemsize
        form = partial(input_in_torch, case, dtype)
        yield Timing(f"MotionInput {case.describe()}", partial(MotionInput, library, case), form, moved)
    for dtype, last in ((torch.float16, True), (torch.float16, False), (torch.float32, False)):
        case = renderer_case(KEYPOINTS + 1, dtype, last, False)
        moved = ((KEYPOINTS + 1) * dtype.itemsize + 3 * 4) * voxels
        form = partial(sum_in_torch, case, dtype)
        yield Timing(f"MotionSum {case.describe()}", partial(MotionSum, library, case), form, moved)


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", "dense_motion_check", check, timings))
