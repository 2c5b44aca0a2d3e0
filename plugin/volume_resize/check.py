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
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "common"))

from checking import Checked, Timing, main
from resize_cases import Case, Resize, in_torch, random_cases, worst_excess

#: Mode, channels, height and width of the input, from the first of the hourglass's resizes to the last; depth is 16.
HOURGLASS = (
    *(("halve", 64 * 2**i, 64 // 2**i) for i in range(5)),
    *(("double", channels, size) for channels, size in ((1024, 2), (1024, 4), (512, 8), (256, 16), (128, 32))),
)


def check(library: ctypes.CDLL, count: int, quick: bool) -> Iterator[Checked]:
    for case in random_cases(count, most_size=9 if quick else 70, device="cuda"):
        launch = Resize(library, case)
        launch()
        yield Checked(case.describe(), worst_excess(case, launch.result()))


def timings(library: ctypes.CDLL) -> Iterator[Timing]:
    for channels_last in (True, False):
        for mode, channels, size in HOURGLASS:
            volume = torch.randn((1, channels, 16, size, size), device="cuda").half()
            case = Case(volume, mode, channels_last)
            shown = volume.contiguous(memory_format=torch.channels_last_3d) if channels_last else volume
            moved = 2 * volume.numel() + 2 * torch.Size(case.output_shape).numel()
            yield Timing(case.describe(), partial(Resize, library, case), partial(in_torch, shown, mode), moved)


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", "volume_resize_check", check, timings))
