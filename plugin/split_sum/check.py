"""Check and time the kernels of SplitSum on the GPU of this machine; needs torch and nvcc, no TensorRT.

    python3 plugin/split_sum/check.py --build --out results/split-sum
    compute-sanitizer python3 plugin/split_sum/check.py --quick --cases 72

Random cases are compared with PyTorch in fp64; the times are those of a frame's sums at 256 pixels. Writes
split_sum_check.json into --out. Exit status: 0 all right, 1 a case failed, 2 nothing could run.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from plugin.common.checking import Checked, main
from plugin.split_sum import cases


def check(kernels: ctypes.CDLL, count: int, quick: bool) -> Iterator[Checked]:
    for case in cases.random_cases(count, 9 if quick else 40, device="cuda"):
        yield Checked(case.kind, str(case), cases.worst_excess(case, cases.sum_launch(kernels, case)()))


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", "split_sum_check", check, cases.timings()))
