"""The pictures of a report: latency against the worst frame's PSNR, and the worst frames of a run."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from sadtrt_core import stats
from sadtrt_core.records.schema import Record, Run
from sadtrt_core.records.store import FRAMES_FOLDER
from sadtrt_core.report.tables import WHOLE

Point = tuple[float, float, Record]
#: ms a frame, dB, and what it is called.
Spot = tuple[float, float, str]
Named = TypeVar("Named")


def pareto_points(run: Run) -> tuple[str, tuple[Point, ...]]:
    """The clock ("device" or "host") and (median ms, lowest PSNR in dB, record) of each generator that has both.

    Device time where every one has it, else host time. NaN pictures and drift that means nothing are left out.
    """
    records = [
        record
        for record in run.records
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


def frontier(points: tuple[tuple[float, float, Named], ...]) -> list[tuple[float, float, Named]]:
    """The points that no other beats in both latency and PSNR, fastest first."""
    best: list[tuple[float, float, Named]] = []
    for point in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or point[1] > best[-1][1]:
            best.append(point)
    return best


def draw_pareto(run: Run) -> bytes | None:
    """A PNG of the chart, or None where no generator has both a latency and a drift that means something."""
    clock, points = pareto_points(run)
    if not points:
        return None
    groups: dict[str, list[Spot]] = {}
    for time, psnr, record in points:
        name = record.key.precision if record.key.batch == 1 else f"{record.key.precision}, batch {record.key.batch}"
        groups.setdefault(record.key.runner, []).append((time, psnr, name))
    where = f"{run.environment.gpu or run.environment.cpu}, {run.workload.size} px"
    return _drawn(groups, [point[:2] for point in frontier(points)], where, f"median {clock} time of the generator")


def draw_points(spots: Sequence[Spot], title: str) -> bytes:
    """A PNG of the same chart for generators by their median ms, lowest PSNR in dB and name."""
    best = frontier(tuple((time, psnr, name) for time, psnr, name in spots))
    return _drawn({"generator": list(spots)}, [point[:2] for point in best], title, "median time of the generator")


def _drawn(groups: Mapping[str, Sequence[Spot]], best: Sequence[tuple[float, float]], title: str, time: str) -> bytes:
    # The figure is made without pyplot, which would keep it in global state and may ask for a display.
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot([point[0] for point in best], [point[1] for point in best], color="0.75", linewidth=1, zorder=1)
    for group, spots in groups.items():
        axes.scatter([spot[0] for spot in spots], [spot[1] for spot in spots], label=group, zorder=2)
    for x, y, name in (spot for spots in groups.values() for spot in spots):
        axes.annotate(name, (x, y), xytext=(5, 4), textcoords="offset points", fontsize=8, parse_math=False)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.12, y=0.1)
    axes.set_xlabel(f"{time}, ms a frame")
    axes.set_ylabel("PSNR of the worst frame, dB")
    axes.set_title(title, parse_math=False)
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    return picture.getvalue()


PICTURE_LIMIT = 4 * 1024 * 1024
"""Bytes of one picture that a report takes in; a worst frame with its error map has well under a megabyte."""
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Picture:
    """A picture's name (its file's, without the ending) and its content as a data URI."""

    name: str
    uri: str


def frames_of(folder: Path) -> tuple[Picture, ...]:
    """Every PNG in a run's frames/, by name; links, files over PICTURE_LIMIT and other formats are left out."""
    pictures = []
    for path in sorted((folder / FRAMES_FOLDER).glob("*.png")):
        if path.is_symlink() or not path.is_file() or path.stat().st_size > PICTURE_LIMIT:
            continue
        data = path.read_bytes()
        if data.startswith(PNG_SIGNATURE):
            pictures.append(Picture(path.stem, "data:image/png;base64," + base64.b64encode(data).decode("ascii")))
    return tuple(pictures)
