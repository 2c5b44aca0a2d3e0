"""The pictures of a report: latency against the worst frame's PSNR, and the worst frames of a run."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from sadtrt_core import stats
from sadtrt_core.records.schema import Record, Run
from sadtrt_core.records.store import FRAMES_FOLDER
from sadtrt_core.report.ratios import best, ratio
from sadtrt_core.report.tables import WHOLE

Point = tuple[float, float, Record]


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


def frontier(points: tuple[Point, ...]) -> list[Point]:
    """The points that no other beats in both latency and PSNR, fastest first."""
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or point[1] > best[-1][1]:
            best.append(point)
    return best


def draw_pareto(run: Run) -> bytes | None:
    """A PNG of the chart, or None where no generator has both a latency and a drift that means something."""
    clock, points = pareto_points(run)
    if not points:
        return None
    # The figure is made without pyplot, which would keep it in global state and may ask for a display.
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    front = frontier(points)
    axes.plot([point[0] for point in front], [point[1] for point in front], color="0.75", linewidth=1, zorder=1)
    for runner in dict.fromkeys(record.key.runner for _, _, record in points):
        own = [point for point in points if point[2].key.runner == runner]
        axes.scatter([point[0] for point in own], [point[1] for point in own], label=runner, zorder=2)
    for time, psnr, record in points:
        name = record.key.precision if record.key.batch == 1 else f"{record.key.precision}, batch {record.key.batch}"
        times = None if best(run, record) is record else ratio(run, record, best)
        name += "" if times is None else f", {times:.2f}x"
        axes.annotate(name, (time, psnr), xytext=(5, 4), textcoords="offset points", fontsize=8, parse_math=False)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.12, y=0.1)
    axes.set_xlabel(f"median {clock} time of the generator, ms a frame")
    axes.set_ylabel("PSNR of the worst frame, dB")
    machine = f"{run.environment.gpu or run.environment.cpu}, {run.workload.size} px"
    axes.set_title(
        f"{machine}; 2x: twice as fast as the best PyTorch of no worse picture", parse_math=False, fontsize=10
    )
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
