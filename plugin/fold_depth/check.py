"""Check FoldDepth's kernel on the GPU of this machine; needs torch and nvcc, no TensorRT.

    python3 plugin/fold_depth/check.py --build
    compute-sanitizer python3 plugin/fold_depth/check.py --quick --cases 48

Random cases have to be exact; nothing is timed. Writes fold_depth_check.json into --out. Exit status: 0 all right, 1 a
case failed, 2 nothing could run.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from plugin.common.checking import Checked, main
from plugin.fold_depth import cases


def check(kernels: ctypes.CDLL, count: int, quick: bool) -> Iterator[Checked]:
    for case in cases.random_cases(count, 9 if quick else 70, device="cuda"):
        yield Checked(case.kind, str(case), cases.worst_excess(case, cases.fold_launch(kernels, case)()))


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", "fold_depth_check", check))
