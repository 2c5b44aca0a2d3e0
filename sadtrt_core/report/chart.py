"""The chart of a report: latency against the worst frame's PSNR as an SVG, whose points name their row."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from jinja2 import Environment as Templates
from jinja2 import PackageLoader, StrictUndefined

from sadtrt_core import stats
from sadtrt_core.records.schema import Record, Run
from sadtrt_core.report.ratios import best, ratio
from sadtrt_core.report.tables import WHOLE, in_order
from sadtrt_core.report.text import decibels, milliseconds

TEMPLATES = Templates(
    loader=PackageLoader("sadtrt_core.report", "."),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
Point = tuple[float, float, Record]
AnyPoint = TypeVar("AnyPoint", bound=tuple[Any, ...])
Place = tuple[float, float]
Box = tuple[float, float, float, float]
#: Of the drawing and its plot, in the SVG's own units.
WIDTH, HEIGHT = 760, 438
LEFT, RIGHT, TOP, BOTTOM = 56, 740, 44, 350
#: A letter of a label is about this wide, and a line this high.
LETTER, LINE = 7.2, 14.0


def pareto_points(run: Run) -> tuple[str, tuple[Point, ...]]:
    """The clock ("device" or "host") and (median ms, lowest PSNR in dB, record) of each generator that has both.

    Device time where every one has it, else host time. NaN pictures and drift that means nothing are left out.
    """
    records = [
        record
        for record in in_order(run.records)
        if record.key.stage == WHOLE
        and record.latency is not None
        and record.drift is not None
        and record.drift.meaningful
        and not record.drift.has_non_finite
    ]
    on_device = all(record.latency is not None and record.latency.device_ms is not None for record in records)
    points = []
    for record in records:
        latency, drift = record.latency, record.drift
        if latency is None or drift is None:
            continue  # Not so after the selection above, which the type checker cannot see.
        samples = (latency.device_ms if on_device else None) or latency.host_ms
        points.append((stats.median(samples) / record.key.batch, drift.psnr_min, record))
    return ("device" if on_device else "host"), tuple(points)


def frontier(points: Iterable[AnyPoint]) -> list[AnyPoint]:
    """The points, which begin with latency and PSNR, that no other beats in both, fastest first."""
    front: list[AnyPoint] = []
    for point in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    return front


@dataclass(frozen=True)
class Spot:
    """A point of the chart: ms a frame, dB, the group that its mark tells, its label, and what hovering says."""

    ms: float
    psnr: float
    group: str
    name: str
    row: str


def draw_pareto(run: Run) -> str | None:
    """An SVG of a run's generators, or None where none has both a latency and a drift that means something."""
    clock, points = pareto_points(run)
    spots = [
        Spot(
            *(time, psnr, record.key.runner, _name(run, record)),
            row=f"{record.key.label()}: {milliseconds(time)} ms a frame, {decibels(psnr)} dB",
        )
        for time, psnr, record in points
    ]
    return draw_spots(spots, f"median {clock} time")


def draw_spots(spots: Sequence[Spot], time: str) -> str | None:
    """An SVG of points and of the line of those that none beats; None without a point. `time` says which it is."""
    spots = [spot for spot in spots if spot.ms > 0]
    if not spots:
        return None
    points = [(spot.ms, spot.psnr) for spot in spots]
    low, high = (math.log10(pick(point[0] for point in points)) for pick in (min, max))
    low, high = low - 0.1 * (high - low) - 0.05, high + 0.1 * (high - low) + 0.05
    step = 10 if max(p[1] for p in points) - min(p[1] for p in points) < 60 else 20
    bottom, top = (math.floor(min(p[1] for p in points) / step) * step, max(p[1] for p in points) + step / 4)

    def x(time: float) -> float:
        return LEFT + (RIGHT - LEFT) * (math.log10(time) - low) / (high - low)

    def y(psnr: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * (psnr - bottom) / (top - bottom)

    groups = list(dict.fromkeys(spot.group for spot in spots))
    places = [(x(ms), y(psnr)) for ms, psnr in points]
    line = [(x(ms), y(psnr)) for ms, psnr in frontier(points)]
    labels = _labels(places, [spot.name for spot in spots], line)
    ticks = [mantissa * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for mantissa in (1, 2, 5)]
    drawn: str = TEMPLATES.get_template("chart.svg.jinja").render(
        size=(WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM),
        time=time,
        groups=_legend(groups),
        x_ticks=[(x(tick), f"{tick:g}") for tick in ticks if tick and low <= math.log10(tick) <= high],
        y_ticks=[(y(value), value) for value in range(bottom, int(top) + 1, step)],
        line=line,
        points=[
            {"at": place, "group": groups.index(spot.group) % 4, "name": spot.name, "label": label, "row": spot.row}
            for spot, place, label in zip(spots, places, labels, strict=True)
        ],
    )
    return drawn


def _name(run: Run, record: Record) -> str:
    """A point's precision, batch, and times faster than the best PyTorch of no worse picture."""
    batch = "" if record.key.batch == 1 else f", batch {record.key.batch}"
    times = None if best(run, record) is record else ratio(run, record, best)
    return f"{record.key.precision}{batch}{'' if times is None else f', {times:.2f}x'}"


def _legend(groups: list[str]) -> list[tuple[float, float, str]]:
    """Where each group's mark is, and its name, in lines below the plot."""
    chosen = []
    across, down = LEFT + 6.0, BOTTOM + 56.0
    for name in groups:
        wide = 30 + LETTER * len(name)
        if across + wide > RIGHT:
            across, down = LEFT + 6.0, down + 1.5 * LINE
        chosen.append((across, down, name))
        across += wide
    return chosen


def _labels(points: list[Place], names: list[str], line: list[Place]) -> list[Place]:
    """Where each point's name begins, (x, y of its baseline): near it, on no point, other name or line, in the plot.

    A name for which there is no such place stands where it overlaps least.
    """
    taken: list[Box] = [(px - 7, py - 7, px + 7, py + 7) for px, py in points]
    for (ax, ay), (bx, by) in itertools.pairwise(line):
        along = [(ax + (bx - ax) * part / 40, ay + (by - ay) * part / 40) for part in range(41)]
        taken += [(px - 2, py - 2, px + 2, py + 2) for px, py in along]
    chosen = []
    for (px, py), name in zip(points, names, strict=True):
        wide = LETTER * len(name)
        tries = [
            (px + dx, py + dy)
            for dy in (4.0, -9.0, 18.0, -24.0, 33.0, -39.0, 48.0)
            for dx in (10.0, -10.0 - wide, -wide / 2)
        ]
        boxes = [(left, base - LINE + 3, left + wide, base + 3) for left, base in tries]
        inside = [
            index
            for index, (left, top, right, bottom) in enumerate(boxes)
            if left >= LEFT and right <= RIGHT and top >= TOP and bottom <= BOTTOM
        ]
        clearest = min(inside or [0], key=lambda index: sum(_overlap(boxes[index], one) for one in taken))
        taken.append(boxes[clearest])
        chosen.append(tries[clearest])
    return chosen


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
