"""Check the kernels of volumes and time VolumeResize's on the GPU of this machine; needs torch and nvcc, no TensorRT.

    python3 plugin/volume_resize/check.py --build --out results/volume-resize
    compute-sanitizer python3 plugin/volume_resize/check.py --quick --cases 60

Cases of VolumeResize, VolumeJoinDouble and FoldDepth are compared with PyTorch, those of the first in fp64; the times
are those of the hourglass's resizes at 256 pixels. Writes volume_resize_check.json into --out. Exit status: 0 all
right, 1 a case failed, 2 nothing could run.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from plugin.common.checking import Checked, main
from plugin.volume_resize import cases, fold_cases, join_cases


def check(kernels: ctypes.CDLL, count: int, quick: bool) -> Iterator[Checked]:
    size = 9 if quick else 70
    for case in cases.random_cases(count, size, device="cuda"):
        yield Checked(case.kind, str(case), cases.worst_excess(case, cases.resize_launch(kernels, case)()))
    for join in join_cases.random_cases(count // 2, size, device="cuda"):
        yield Checked(join.kind, str(join), join_cases.worst_excess(join, join_cases.join_launch(kernels, join)()))
    for fold in fold_cases.random_cases(count // 2, size, device="cuda"):
        yield Checked(fold.kind, str(fold), fold_cases.worst_excess(fold, fold_cases.fold_launch(kernels, fold)()))


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", "volume_resize_check", check, cases.timings()))
