"""The losses found, for a terminal and a text file."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from sadtrt_core.accuracy.findings import DriftReport, EngineReport, Loss, PartLoss, SumsReport
from sadtrt_core.accuracy.parts import Level

Report = DriftReport | EngineReport | SumsReport
_TITLES: dict[Level, str] = {
    "stage": "What each stage costs in {}, the worst first",
    "block": "What each block of the worst stages costs in {}",
    "nodes": "What each group of nodes of the worst block costs in {}",
}
_NOISE = "These weights are noise: the figures say nothing about a trained renderer."
_ENGINE_TITLE = "What each stage costs in {} by {}, in dB, most beyond its types first"
_ENGINE_LEGEND = (
    "lowered: the stage by {1} in {0}, the others by PyTorch in fp32. excluded: the stage by PyTorch in fp32, the "
    "others by {1}. types: the same with the roundings of {0} and no others, sums in fp32. beyond: the PSNR of the "
    "error that {1} adds to that, on the scale of the picture's own. "
    "PSNR and LSB of the worst frame against PyTorch fp32."
)
_SUMS_LEGEND = (
    "Each convolution alone sums in half, rounded after every 16 products as tensor cores do; the rest sum in float. "
    "Any rounding moves some pixels: shares that are about alike at the end of the list say no more than that. Kernels "
    "that sum in float lose nothing of this; an engine's tactics name their accumulators."
)
_INTERRUPTED = "Interrupted: what had not been measured is missing."
_SHOWN_RANGES = 12
_SHOWN_SUMS = 16
_FILE_WIDTH = 150
_PART_WIDTH = 22
_STAGE_WIDTH = 15
_LEGEND = (
    "lowered: the part in {0}, the rest fp32. excluded: the part fp32, the rest {0}. dB, SSIM and LSB of the worst "
    "frame against the same graph in fp32; FLOP: the part's share of the arithmetic."
)


def renderables(report: Report) -> list[RenderableType]:
    """Tables and sentences of any report, in the order they are read."""
    match report:
        case EngineReport():
            return _engine_renderables(report)
        case SumsReport():
            return _sums_renderables(report)
        case DriftReport():
            return _drift_renderables(report)


def _drift_renderables(report: DriftReport) -> list[RenderableType]:
    shown: list[RenderableType] = [Text(line) for line in _head(report)]
    for level in ("stage", "block", "nodes"):
        parts = report.ranked(level)
        if parts:
            shown.append(_table(report, level, parts))
    shown.append(Text(_LEGEND.format(report.compute)))
    shown += [Text(line) for line in _range_lines(report)]
    return shown


def _engine_renderables(report: EngineReport) -> list[RenderableType]:
    """The shipped runner's losses by stage, as a table between sentences."""
    where = f"{report.precision} by {report.runner} ({report.grid_sample} grid sample), {_under(report)}"
    lines = [f"{where}, over {_worst_frames(report)}"]
    if not report.meaningful:
        lines.append(_NOISE)
    table = Table(title=_ENGINE_TITLE.format(report.precision, report.runner), title_justify="left")
    table.add_column("stage", min_width=_STAGE_WIDTH)
    for heading in ("lowered", "LSB", "types", "LSB", "beyond", "excluded", "types"):
        table.add_column(heading, justify="right")
    for stage in report.ranked():
        beyond = stage.lowered.beyond
        # Infinite by itself says nothing: either no loss beyond the types, or no picture.
        words = f"{beyond:.1f}" if math.isfinite(beyond) else "none" if beyond > 0 else "all"
        losses = (stage.lowered.runner, stage.lowered.simulated)
        own = [cell for loss in losses for cell in (_psnr(loss), str(loss.max_lsb))]
        kept = (_psnr(stage.excluded.runner), _psnr(stage.excluded.simulated)) if stage.excluded else ("-", "-")
        table.add_row(escape(stage.stage), *own, words, *kept)
    return [*map(Text, lines), table, Text(_ENGINE_LEGEND.format(report.precision, report.runner))]


def _sums_renderables(report: SumsReport) -> list[RenderableType]:
    """What sums in half cost, as a table of the convolutions that lose most between sentences."""
    lines = [
        f"{report.precision} of {_under(report)}, over {_worst_frames(report)}",
        f"convolutions that sum in float: {_loss(report.in_float)}; in half: {_loss(report.in_half)}",
        *(f"in half, but the worst {one.count}: {_loss(one.loss)}" for one in report.excluded),
    ]
    if not report.meaningful:
        lines.append(_NOISE)
    if not report.complete:
        lines.append(_INTERRUPTED)
    table = Table(title=f"Whose sums in half lose the picture in {report.precision}", title_justify="left")
    table.add_column("convolution", overflow="fold", min_width=_PART_WIDTH)
    for heading in ("products a value", "share of squared errors"):
        table.add_column(heading, justify="right")
    total = sum(one.squared_error for one in report.convolutions)
    ranked = report.ranked()
    for one in ranked[:_SHOWN_SUMS]:
        table.add_row(escape(one.node), f"{one.products:,}", f"{one.squared_error / total:.1%}" if total else "-")
    hidden = len(ranked) - _SHOWN_SUMS
    more = f" {hidden} more are in drift.json." if hidden > 0 else ""
    return [*map(Text, lines), table, Text(_SUMS_LEGEND + more)]


def as_text(shown: Iterable[RenderableType]) -> str:
    """The same without colours, 150 characters wide."""
    drawn = io.StringIO()
    console = Console(file=drawn, width=_FILE_WIDTH, color_system=None, force_terminal=False)
    for one in shown:
        console.print(one)
    return drawn.getvalue()


def _under(report: Report) -> str:
    weights, workload = report.weights, report.workload
    return f"{workload.name}, {workload.size} pixels, under {weights.kind} weights ({weights.name})"


def _worst_frames(report: Report) -> str:
    return f"the worst frames ({', '.join(map(str, report.frames))} of {report.workload.frames})"


def _head(report: DriftReport) -> list[str]:
    lines = [f"{report.precision} of {_under(report)}: {_loss(report.low)} over {_worst_frames(report)}"]
    if not report.meaningful:
        lines.append(_NOISE)
    if not report.complete:
        lines.append(_INTERRUPTED)
    return lines


def _loss(loss: Loss) -> str:
    if loss.psnr_min_db is None:
        return f"{loss.non_finite_frames} frames not finite"
    return f"min {loss.psnr_min_db:.1f} dB, max LSB {loss.max_lsb}"


def _table(report: DriftReport, level: Level, parts: tuple[PartLoss, ...]) -> Table:
    table = Table(title=_TITLES[level].format(report.precision), title_justify="left")
    table.add_column("part", overflow="fold", min_width=_PART_WIDTH)
    for heading in ("lowered dB", "SSIM", "LSB", "excluded dB", "LSB", "FLOP"):
        table.add_column(heading, justify="right")
    timed = any(part.time is not None for part in parts)
    if timed:
        table.add_column("time", justify="right")
    for part in parts:
        lowered, excluded = part.lowered, part.excluded
        cells = [escape(part.part), *_cells(lowered), _psnr(excluded), str(excluded.max_lsb), f"{part.arithmetic:.2%}"]
        table.add_row(*cells, *(["-" if part.time is None else f"{part.time:.0%}"] if timed else []))
    if timed and report.time_source:
        table.caption = escape(f"time: {report.time_source}; motion's holds the coordinates'")
    return table


def _cells(loss: Loss) -> tuple[str, str, str]:
    ssim = "-" if loss.ssim_min is None else f"{loss.ssim_min:.5f}"
    return _psnr(loss), ssim, str(loss.max_lsb)


def _psnr(loss: Loss) -> str:
    return "not finite" if loss.psnr_min_db is None else f"{loss.psnr_min_db:.1f}"


def _range_lines(report: DriftReport) -> list[str]:
    if not report.ranges:
        return [f"Every activation and weight fits {report.compute} over these frames."]
    limit, normal = report.limits
    over, under = report.overflows(), [f for f in report.ranges if f.kind == "underflow"]
    lines = []
    for title, findings in (
        (f"Beyond {report.compute}", over),
        (f"Mostly below {report.compute}'s normal range", under),
    ):
        if findings:
            lines += [f"{title}:", *(f"  {finding.sentence(limit, normal)}" for finding in findings[:_SHOWN_RANGES])]
        if len(findings) > _SHOWN_RANGES:
            lines.append(f"  and {len(findings) - _SHOWN_RANGES} more, in drift.json")
    return lines
