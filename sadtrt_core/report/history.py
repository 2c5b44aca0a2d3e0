"""How a row's time and picture went over runs, oldest first, and where their level changed."""

from __future__ import annotations

import itertools
import math
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
    """A row's figure in one run; NaN where its frames hold NaN, or where it broke, as `words` say."""

    run: Run
    value: float
    words: str = ""

    def others(self, before: Point) -> str:
        """What a figure depends on and was another in the run before, in brackets; nothing where all is the same."""
        mine, theirs = self.run, before.run
        names = [
            name
            for name in ("driver", "tensorrt", "torch", "onnxruntime")
            if getattr(mine.environment, name) != getattr(theirs.environment, name)
        ]
        names += [name for name in ("weights", "workload") if getattr(mine, name) != getattr(theirs, name)]
        asked = sorted({*mine.options, *theirs.options})
        names += [name for name in asked if mine.options.get(name) != theirs.options.get(name) and name not in names]
        return f" (other {', '.join(names)})" if names else ""


def history_tables(runs: Sequence[Run]) -> tuple[TextTable, ...]:
    """A table of times and one of PSNR, for each processor, picture size and benchmark version that runs were of."""
    groups: dict[tuple[str, int], list[Run]] = {}
    for run in sorted(runs, key=lambda one: one.started_utc):
        where = run.environment.gpu or run.environment.cpu
        groups.setdefault((where, run.workload.size), []).append(run)
    tables = []
    for (where, size), several in groups.items():
        on = f"on {where}, {size} px"
        tables.append(_table(f"ms {on}", several, _time, LEAST_TIME, milliseconds))
        tables.append(_table(f"PSNR min dB {on}", several, _psnr, LEAST_DB, decibels))
    return tuple(table for table in tables if table.rows)


def _time(record: Record) -> float | None:
    return None if record.latency is None else stats.median(record.latency.judged_ms) or None


def _psnr(record: Record) -> float | None:
    return None if record.drift is None or not record.drift.meaningful else record.drift.psnr_min


def _point(run: Run, record: Record, figure: Callable[[Record], float | None]) -> Point | None:
    if record.status == "failed":
        return Point(run, math.nan, "failed")
    value = figure(record)
    return None if value is None else Point(run, value, "NaN" if math.isnan(value) else "")


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
            if (point := _point(run, record, figure)) is not None:
                series.setdefault((record.key.cells, record.benchmark_version), []).append(point)
    rows = []
    for (cells, version), points in series.items():
        whole = [point for point in points if not point.words]
        if not whole:
            continue
        values = [point.value for point in whole]
        marked = stats.changes(values, least * (stats.median(values) if figure is _time else 1.0))
        edges = (0, *marked, len(values))
        levels = [stats.median(values[a:b]) for a, b in itertools.pairwise(edges)]
        told = [
            (whole[index].run.started_utc, f"{text(old)} to {text(new)}{whole[index].others(whole[index - 1])}")
            for index, (old, new) in zip(marked, itertools.pairwise(levels), strict=True)
        ]
        told += [(point.run.started_utc, point.words) for point in points if point.words]
        changes = [f"{when}: {words}" for when, words in sorted(told)]
        ends = (point.words or text(point.value) for point in (points[0], points[-1]))
        rows.append(
            (*cells, f"v{version}", str(len(points)), *ends, sparkline(values, marked), "; ".join(changes) or "-")
        )
    headings = (*CASE_HEADINGS, "version", "runs", "first", "last", "over runs", "changed")
    note = (
        "Oldest run first; | where the level changed (least squares with Yao's penalty, sadtrt_core/stats.py). Runs in "
        "which a row failed, or its frames hold NaN, have no bar."
    )
    return TextTable(title, headings, tuple(rows), len(CASE_HEADINGS) + 1, note=note)


def sparkline(values: Sequence[float], marked: Sequence[int] = ()) -> str:
    """A bar a value, from the lowest to the highest, and a | before each of those `marked`."""
    low, high = min(values), max(values)
    bars = [BARS[round((value - low) / (high - low) * (len(BARS) - 1))] if high > low else BARS[0] for value in values]
    return "".join(f"|{bar}" if index in marked else bar for index, bar in enumerate(bars))
