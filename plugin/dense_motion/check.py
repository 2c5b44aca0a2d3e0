"""Check and time MotionInput and MotionSum on the GPU of this machine; needs torch and nvcc, no TensorRT.

    python3 plugin/dense_motion/check.py --build --out results/dense-motion
    compute-sanitizer python3 plugin/dense_motion/check.py --quick --cases 60       # also --tool racecheck

Every case is compared with PyTorch in fp64; the times are those of the renderer at 256 pixels, beside the same work in
PyTorch in the features' type, eager and compiled. Writes dense_motion_check.json into --out.
Exit status: 0 all right, 1 a case failed, 2 nothing could run.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from plugin.common.checking import Checked, main
from plugin.dense_motion.cases import (
    input_excess,
    input_launch,
    random_input_cases,
    random_sum_cases,
    sum_excess,
    sum_launch,
    timings,
)


def check(kernels: ctypes.CDLL, count: int, quick: bool) -> Iterator[Checked]:
    most = 7 if quick else 40
    for case in random_input_cases(count, most, "cuda"):
        yield Checked(f"MotionInput, {case.kind}", str(case), input_excess(case, input_launch(kernels, case)()))
    for case in random_sum_cases(count, most, "cuda"):
        yield Checked(f"MotionSum, {case.kind}", str(case), sum_excess(case, sum_launch(kernels, case)()))


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", "dense_motion_check", check, timings()))
