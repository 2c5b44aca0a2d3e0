"""Check and time the VolumeResize kernels on the GPU of this machine; needs torch and nvcc, no TensorRT.

    python3 plugin/volume_resize/check.py --build --out results/volume-resize
    compute-sanitizer python3 plugin/volume_resize/check.py --quick --cases 60

Every case is compared with PyTorch in fp64; the times are those of the hourglass's resizes at 256 pixels. Writes
volume_resize_check.json into --out. Exit status: 0 all right, 1 a case failed, 2 nothing could run.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from plugin.common.checking import Checked, main
from plugin.volume_resize.cases import random_cases, resize_launch, timings, worst_excess


def check(kernels: ctypes.CDLL, count: int, quick: bool) -> Iterator[Checked]:
    for case in random_cases(count, most_size=9 if quick else 70, device="cuda"):
        yield Checked(case.kind, str(case), worst_excess(case, resize_launch(kernels, case)()))


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", "volume_resize_check", check, timings()))
