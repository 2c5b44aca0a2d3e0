"""Operators by themselves: what was measured of each way to compute one, and how it is shown and kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sadtrt_core.files import keep_file
from sadtrt_core.records.schema import Environment
from sadtrt_core.report.tables import TextTable, breaks_of

FILE_VERSION = 1


@dataclass(frozen=True)
class OperatorRow:
    """One method at one shape. Times in microseconds of one call, rates in bytes a second.

    `cold_us` and `warm_us` are device times (measure/graph_times.py), None on a CPU; `host_us` is the host's clock
    around one call and the wait for it. `bytes_moved` counts every byte of inputs and output once. `copy_rate` is what
    a copy within the device's memory reaches, read and written bytes together. `max_difference` is the largest
    difference from PyTorch in fp32 on the same inputs, features being standard normal.
    """

    shape: str
    dtype: str
    method: str
    host_us: float
    cold_us: float | None
    warm_us: float | None
    bytes_moved: int
    copy_rate: float
    max_difference: float

    @property
    def judged_us(self) -> float:
        """The time that rates are taken from: the device's with a cold cache, on a CPU the host's."""
        return self.host_us if self.cold_us is None else self.cold_us

    @property
    def rate(self) -> float:
        """Bytes a second, every byte counted once."""
        return self.bytes_moved / (self.judged_us * 1e-6)

    @property
    def limit_us(self) -> float:
        """How long every byte once would take at the copy rate."""
        return self.bytes_moved / self.copy_rate * 1e6

    def extra_info(self) -> dict[str, float | None]:
        """What pytest-benchmark keeps beside its own statistics."""
        return {
            "device_us_cold": self.cold_us,
            "device_us_warm": self.warm_us,
            "bytes_moved": self.bytes_moved,
            "bytes_per_second": self.rate,
            "copy_bytes_per_second": self.copy_rate,
            "share_of_copy_rate": self.rate / self.copy_rate,
            "every_byte_once_us": self.limit_us,
            "max_difference": self.max_difference,
        }


def operator_table(operator: str, rows: Sequence[OperatorRow]) -> TextTable:
    """The rows in the order they were measured, a group for each shape and type."""
    headings = ("shape", "features", "method", "cold us", "warm us", "host us", "GB/s", "of copy", "limit us")
    cells = [
        (
            *(row.shape, row.dtype, row.method),
            *("-" if us is None else f"{us:.2f}" for us in (row.cold_us, row.warm_us)),
            *(f"{row.host_us:.1f}", f"{row.rate / 1e9:.1f}", f"{row.rate / row.copy_rate:.1%}"),
            *(f"{row.limit_us:.2f}", f"{row.max_difference:.1e}"),
        )
        for row in rows
    ]
    note = (
        f"a copy within the device's memory: {rows[0].copy_rate / 1e9:.0f} GB/s read plus written; GB/s: every byte of "
        "inputs and output once in the cold time (on a CPU in the host's); limit: the same at the copy's rate; "
        "difference: the largest from PyTorch in fp32 (in fp16 PyTorch itself may round more, such as coordinates)"
    )
    breaks = breaks_of([(row.shape, row.dtype) for row in rows])
    return TextTable(f"{operator}, by itself", (*headings, "difference"), tuple(cells), 3, breaks, note)


def ratio_lines(rows: Sequence[OperatorRow]) -> list[str]:
    """For each shape, type and method that is not PyTorch's one line: how many times as fast as each of its forms.

    "16 grids, float16, kernel: 2.10 x PyTorch, tiled before; 1.95 x PyTorch, expanded view".
    """
    times: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        times.setdefault((row.shape, row.dtype), {})[row.method] = row.judged_us
    lines = []
    for (shape, dtype), group in times.items():
        forms = [method for method in group if method.startswith("PyTorch")]
        for method in group:
            if forms and method not in forms:
                ratios = "; ".join(f"{group[form] / group[method]:.2f} x {form}" for form in forms)
                lines.append(f"{shape}, {dtype}, {method}: {ratios}")
    return lines


def write_rows(rows: Sequence[OperatorRow], environment: Environment, path: Path) -> None:
    """Write an operator's rows and the machine as JSON, into a folder made where it is missing.

    Raises UserError.
    """
    content = {
        "version": FILE_VERSION,
        "environment": environment.to_json(),
        "rows": [{**asdict(row), "bytes_per_second": row.rate, "limit_us": row.limit_us} for row in rows],
    }
    keep_file(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
