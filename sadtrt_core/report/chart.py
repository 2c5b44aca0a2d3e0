"""The chart of a report: latency against the worst frame's PSNR as an SVG, whose points name their row."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from jinja2 import Environment as Templates
from jinja2 import PackageLoader, StrictUndefined
from markupsafe import Markup

from sadtrt_core import stats
from sadtrt_core.records.schema import Record, Run
from sadtrt_core.report.ratios import best, judged_stage, ratio
from sadtrt_core.report.tables import WHOLE, in_order
from sadtrt_core.report.text import decibels, milliseconds
from sadtrt_core.runners.registry import RUNNERS

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


def choices(run: Run) -> list[Record]:
    """The rows of the judged stage that have a time and a picture: no NaN, and not failed."""
    stage = judged_stage(run)
    return [
        record
        for record in in_order(run.records)
        if record.key.stage == stage
        and record.status == "measured"
        and record.latency is not None
        and record.drift is not None
        and record.drift.meaningful
        and not record.drift.has_non_finite
    ]


def pareto_points(run: Run) -> tuple[str, tuple[Point, ...]]:
    """The clock ("device" or "host") and (median ms, lowest PSNR in dB, record) of each of the `choices`.

    Device time where every one has it, else host time.
    """
    rows = [
        (record, record.latency, record.drift.psnr_min) for record in choices(run) if record.latency and record.drift
    ]
    on_device = all(latency.device_ms is not None for _, latency, _ in rows)
    points = tuple(
        (stats.median((on_device and latency.device_ms) or latency.host_ms) / record.key.batch, psnr, record)
        for record, latency, psnr in rows
    )
    return ("device" if on_device else "host"), points


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


def draw_pareto(run: Run) -> Markup | None:
    """An SVG of a run's `choices`, None where there are none."""
    clock, points = pareto_points(run)
    spots = [
        Spot(
            *(time, psnr, record.key.runner, _name(run, record)),
            row=f"{record.key.label()}: {milliseconds(time)} ms a frame, {decibels(psnr)} dB",
        )
        for time, psnr, record in points
    ]
    return draw_spots(spots, f"median {clock} time", points[0][2].key.stage if points else WHOLE)


def draw_spots(spots: Sequence[Spot], time: str, stage: str = WHOLE) -> Markup | None:
    """An SVG of points and of the line of those that none beats; None without a point. `time` says which of `stage`."""
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
    drawn = TEMPLATES.get_template("chart.svg.jinja").render(
        size=(WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM),
        time=time,
        stage=stage,
        groups=_legend(groups),
        x_ticks=[(x(tick), f"{tick:g}") for tick in _ticks(low, high)],
        y_ticks=[(y(value), value) for value in range(bottom, int(top) + 1, step)],
        line=line,
        points=[
            {"at": place, "group": groups.index(spot.group) % 4, "name": spot.name, "label": label, "row": spot.row}
            for spot, place, label in zip(spots, places, labels, strict=True)
        ],
    )
    return Markup(drawn)  # Escaped where the template was filled.


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers whose decimal logarithms lie from `low` to `high`: three or more where a decade has them."""
    ticks: list[float] = []
    for mantissas in ((10, 20, 50), range(10, 100, 10), range(10, 100, 5), range(10, 100)):
        powers = range(math.floor(low), math.ceil(high) + 1)
        ticks = [float(f"{mantissa}e{power - 1}") for power in powers for mantissa in mantissas]
        ticks = [tick for tick in ticks if tick and low <= math.log10(tick) <= high]
        if len(ticks) >= 3:
            break
    return ticks


def _name(run: Run, record: Record) -> str:
    """A point's precision, batch, and, unless it is PyTorch's, the ratio to the best PyTorch of no worse picture."""
    batch = "" if record.key.batch == 1 else f", batch {record.key.batch}"
    runner = RUNNERS.get(record.key.runner)
    times = None if runner is None or not runner.graph else ratio(record, run, best)
    return f"{record.key.precision}{batch}{'' if times is None else f', {times:.2f}x'}"


def _legend(groups: list[str]) -> list[tuple[float, float, str]]:
    """Where each group's mark is, and its name, in lines below the plot."""
    chosen = []
    across, down = LEFT + 6.0, BOTTOM + 56.0
    for name in groups:
        wide = 36 + 1.15 * LETTER * len(name)  # GPUs have names in capitals.
        if across + wide > RIGHT:
            across, down = LEFT + 6.0, down + 1.5 * LINE
        chosen.append((across, down, name))
        across += wide
    return chosen


def _labels(points: list[Place], names: list[str], line: list[Place]) -> list[Place | None]:
    """Where each point's name begins, (x, y of its baseline): near it, on no point, other name or line, in the plot.

    Points on the line come first, from the left. None for a name without such a place: pointing at its mark tells it.
    """
    taken: list[Box] = [(px - 7, py - 7, px + 7, py + 7) for px, py in points]
    for (ax, ay), (bx, by) in itertools.pairwise(line):
        along = [(ax + (bx - ax) * part / 40, ay + (by - ay) * part / 40) for part in range(41)]
        taken += [(px - 2, py - 2, px + 2, py + 2) for px, py in along]
    chosen: list[Place | None] = [None] * len(points)
    for index in sorted(range(len(points)), key=lambda index: (points[index] not in line, points[index])):
        (px, py), wide = points[index], LETTER * len(names[index])
        for dy, dx in itertools.product((4.0, -9.0, 18.0, -24.0, 33.0, -39.0), (10.0, -10.0 - wide, -wide / 2)):
            left, base = px + dx, py + dy
            box = (left - 3, base - LINE + 3, left + wide + 3, base + 3)
            inside = box[0] >= LEFT and box[2] <= RIGHT and box[1] >= TOP and box[3] <= BOTTOM
            if inside and not any(_overlap(box, one) for one in taken):
                taken.append(box)
                chosen[index] = (left, base)
                break
    return chosen


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
