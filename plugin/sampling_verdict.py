"""What the times of check_on_gpu.py come to: the table, the ratio to each form of PyTorch, and the targets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from sampling_timing import CHANNELS_LAST, LINEAR, SHAPES, WITHOUT_WORKSPACE, Timing

from sadtrt_core.sampling.shapes import SamplingShape
from sadtrt_core.sampling.torch_forms import TORCH_FORMS, form_of_the_same_result, times_pytorch

TARGETS_US = {"16 grids, 4 channels, 256 px": 20.0, "1 grid, 32 channels, 256 px": 10.0}
"""Of the linear layout with fp16 features, by shape."""
TARGET_OVER_TORCH = 3.0
LAYOUT_NAMES = {LINEAR: "linear", WITHOUT_WORKSPACE: "linear, no workspace", CHANNELS_LAST: "channels last"}


def times_of(rows: list[Timing], shape: str, dtype: str) -> dict[str, Timing]:
    """The rows of one shape and type by method."""
    return {row.method: row for row in rows if (row.shape, row.dtype) == (shape, dtype)}


def ratio_lines(rows: list[Timing], shapes: Sequence[SamplingShape]) -> list[str]:
    """For each shape, type and layout one line: how many times as fast as each form of PyTorch it is, cold."""
    lines = []
    for shape in shapes:
        for dtype in dict.fromkeys(row.dtype for row in rows):
            times = {name: row.cold_us for name, row in times_of(rows, shape.name, dtype).items()}
            lines += [
                f"{shape.name}, {dtype}, {ours} ({times[ours]:.1f} us): {times_pytorch(ours, times)}"
                for ours in (LINEAR, CHANNELS_LAST)
                if ours in times
            ]
    return lines


def judge_times(rows: list[Timing], shapes: Sequence[SamplingShape] = SHAPES) -> list[str]:
    """What misses a target, as one line each: cold times of fp16 features in linear layout.

    "Times PyTorch" means the form that computes the same (torch_forms.form_of_the_same_result), and the line names it.
    """
    failed = []
    for shape in shapes:
        if shape.name not in TARGETS_US:
            continue
        times, target = times_of(rows, shape.name, "float16"), TARGETS_US[shape.name]
        form = form_of_the_same_result(shape, torch.float16)
        ours, theirs = times[LINEAR].cold_us, times[form.name].cold_us
        if ours > target:
            failed.append(f"{shape.name}, float16: {ours:.1f} us, the target is {target:.0f}")
        if theirs < TARGET_OVER_TORCH * ours:
            failed.append(
                f"{shape.name}, float16: {theirs / ours:.2f} times as fast as {form.name!r} ({theirs:.1f} us), "
                f"the target is {TARGET_OVER_TORCH:.0f}"
            )
    return failed


def markdown_table(rows: list[Timing], rate: float, shapes: Sequence[SamplingShape] = SHAPES) -> str:
    """plugin/README.md's table: cold times in microseconds, and how many times as fast as each form of PyTorch."""
    titles = ("shape", "features", "every byte once", "layout", "time", "PyTorch, and how many times as fast")
    lines = [f"| {' | '.join(titles)} |", "|---|---|--:|---|--:|---|"]
    for shape in shapes:
        for dtype in dict.fromkeys(row.dtype for row in rows):
            times = {name: row.cold_us for name, row in times_of(rows, shape.name, dtype).items()}
            for ours, layout in LAYOUT_NAMES.items():
                if ours not in times:
                    continue
                limit = times_of(rows, shape.name, dtype)[ours].bytes_moved / rate * 1e6
                forms = [form.name for form in TORCH_FORMS if form.name in times]
                theirs = [f"{name} {times[name]:.1f} us: **{times[name] / times[ours]:.2f}**" for name in forms]
                cells = (
                    shape.name,
                    dtype,
                    f"{limit:.1f} us",
                    layout,
                    f"{times[ours]:.1f} us ({limit / times[ours]:.0%})",
                )
                lines.append(f"| {' | '.join((*cells, '; '.join(theirs)))} |")
    return "\n".join(lines)


def print_times(rows: list[Timing], rate: float) -> None:
    print(f"\ndevice copy: {rate / 1e12:.2f} TB/s read plus written")
    print(f"{'':78} {'cold us':>8} {'warm us':>8} {'single':>8} {'TB/s':>6} {'of copy':>8} {'every byte once':>16}")
    for row in rows:
        name = f"{row.shape}, {row.dtype}, {row.method}"
        limit = row.bytes_moved / rate * 1e6
        print(
            f"{name:78} {row.cold_us:8.2f} {row.warm_us:8.2f} {row.single_us:8.2f} {row.cold_rate / 1e12:6.2f} "
            f"{row.cold_rate / rate:8.1%} {limit:13.2f} us"
        )
    print("\ntimes as fast as PyTorch, by its form (fp16: all but 'fp32 coordinates' round the coordinates to half)")
    for line in ratio_lines(rows, SHAPES):
        print(f"  {line}")
