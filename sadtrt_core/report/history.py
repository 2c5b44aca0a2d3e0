"""How a row's time and picture went over runs, oldest first, and where their level changed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sadtrt_core import stats
from sadtrt_core.records.schema import Record, Run
from sadtrt_core.report.tables import CASE_HEADINGS, TextTable
from sadtrt_core.report.text import decibels, milliseconds

BARS = "▁▂▃▄▅▆▇█"
#: A change of less than these is never marked: relative for times, in dB for PSNR.
LEAST_TIME, LEAST_DB = 0.005, 0.1


@dataclass(frozen=True)
class Point:
    """A row's figure in one run."""

    run: Run
    value: float

    def others(self, before: Point) -> str:
        """What a figure depends on and was another in the run before, in brackets; nothing where all is the same."""
        names = [
            name
            for name in ("driver", "tensorrt", "torch", "onnxruntime")
            if getattr(self.run.environment, name) != getattr(before.run.environment, name)
        ]
        if self.run.weights != before.run.weights:
            names.append("weights")
        return f" (other {', '.join(names)})" if names else ""


def history_tables(runs: Sequence[Run]) -> tuple[TextTable, ...]:
    """A table of times and one of PSNR, for each processor and benchmark version that runs were measured by."""
    groups: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda one: one.started_utc):
        groups.setdefault(run.environment.gpu or run.environment.cpu, []).append(run)
    tables = []
    for where, several in groups.items():
        tables.append(_table(f"ms on {where}", several, _time, LEAST_TIME, milliseconds))
        tables.append(_table(f"PSNR min dB on {where}", several, _psnr, LEAST_DB, decibels))
    return tuple(table for table in tables if table.rows)


def _time(record: Record) -> float | None:
    return None if record.latency is None else stats.median(record.latency.judged_ms) or None


def _psnr(record: Record) -> float | None:
    return None if record.drift is None or record.drift.has_non_finite else record.drift.psnr_min


def _table(
    title: str,
    runs: list[Run],
    figure: Callable[[Record], float | None],
    least: float,
    text: Callable[[float | None], str],
) -> TextTable:
    series: dict[tuple[tuple[str, ...], int], list[Point]] = {}
    for run in runs:
        for record in run.records:
            if (value := figure(record)) is not None:
                series.setdefault((record.key.cells, record.benchmark_version), []).append(Point(run, value))
    rows = []
    for (cells, version), points in series.items():
        values = [point.value for point in points]
        marked = stats.changes(values, least * (stats.median(values) if figure is _time else 1.0))
        edges = (0, *marked, len(values))
        levels = [stats.median(values[a:b]) for a, b in itertools.pairwise(edges)]
        changes = [
            f"{points[index].run.started_utc}: {text(before)} to {text(after)}{points[index].others(points[index - 1])}"
            for index, (before, after) in zip(marked, itertools.pairwise(levels), strict=True)
        ]
        shown = (str(len(values)), text(values[0]), text(values[-1]), sparkline(values, marked))
        rows.append((*cells, f"v{version}", *shown, "; ".join(changes) or "-"))
    headings = (*CASE_HEADINGS, "version", "runs", "first", "last", "over runs", "changed")
    note = "Oldest run first; | where the level changed (least squares with Yao's penalty, sadtrt_core/stats.py)."
    return TextTable(title, headings, tuple(rows), len(CASE_HEADINGS) + 1, note=note)


def sparkline(values: Sequence[float], marked: Sequence[int] = ()) -> str:
    """A bar a value, from the lowest to the highest, and a | before each of those `marked`."""
    low, high = min(values), max(values)
    bars = [BARS[round((value - low) / (high - low) * (len(BARS) - 1))] if high > low else BARS[0] for value in values]
    return "".join(f"|{bar}" if index in marked else bar for index, bar in enumerate(bars))
