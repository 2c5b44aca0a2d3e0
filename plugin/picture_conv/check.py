"""Check PictureConv's kernel and time it on the GPU of this machine; needs torch and nvcc, no TensorRT.

    python3 plugin/picture_conv/check.py --build --out results/picture-conv
    compute-sanitizer python3 plugin/picture_conv/check.py --quick --cases 60

Random cases are compared with PyTorch in fp64; the times are those of the renderer's last convolution at 256 pixels.
Writes picture_conv_check.json into --out. Exit status: 0 all right, 1 a case failed, 2 nothing could run.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from plugin.common.checking import Checked, main
from plugin.picture_conv.cases import picture_launch, random_cases, timings, worst_excess


def check(kernels: ctypes.CDLL, count: int, quick: bool) -> Iterator[Checked]:
    for case in random_cases(count, 40 if quick else 150, device="cuda"):
        yield Checked(case.kind, str(case), worst_excess(case, picture_launch(kernels, case)()))


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", "picture_conv_check", check, timings()))
