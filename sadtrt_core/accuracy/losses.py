"""What each part of the renderer costs in a lower precision, its roundings simulated: from stages down to nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from sadtrt_core.accuracy.findings import Loss, Report, heading, make_report, table, worst_frames
from sadtrt_core.accuracy.parts import Level, Part, block_parts, node_flops, split, stage_parts
from sadtrt_core.accuracy.ranges import RangeFinding, find_ranges, range_lines
from sadtrt_core.accuracy.simulate import Simulator, simulator_of
from sadtrt_core.errors import UserError
from sadtrt_core.measure.drift import measure_drift
from sadtrt_core.precision import PRECISIONS, Precision
from sadtrt_core.progress import SILENT, Reporter
from sadtrt_core.records.store import read_run
from sadtrt_core.renderer.stages import GENERATOR_PARTS
from sadtrt_core.session import Session
from sadtrt_core.stats import median

_STAGES_OPENED = 2
#: Each stage's share of time, and whose latencies they are.
TimeShares = tuple[Mapping[str, float], str]
#: Whose latencies are taken where several runners have them, the nearest to what is shipped first.
_RUNNERS = ("tensorrt", "tensorrt-enqueue", "torch-compile", "pytorch", "onnxruntime")
_TITLES: dict[Level, str] = {
    "stage": "What each stage costs in {}, the worst first",
    "block": "What each block of the worst stages costs in {}",
    "nodes": "What each group of nodes of the worst block costs in {}",
}
_LEGEND = (
    "lowered: the part in {0}, the rest fp32. excluded: the part fp32, the rest {0}. dB, SSIM and LSB of the worst "
    "frame against the same graph in fp32; FLOP: the part's share of the arithmetic."
)


@dataclass(frozen=True)
class PartLoss:
    """What one part costs: `lowered` in the low type with the rest fp32, `excluded` in fp32 with the rest low.

    `arithmetic` is its share of the generator's operations, 0 to 1; `time` its share of the measured time of the
    generator's stages, None where no run has it.
    """

    part: str
    level: Level
    within: str | None
    patterns: tuple[str, ...]
    lowered: Loss
    excluded: Loss
    arithmetic: float
    time: float | None = None

    @property
    def badness(self) -> tuple[float, float]:
        """To sort by, the worst first: what it costs in the low type; the other direction settles ties."""
        return self.lowered.decibels, -self.excluded.decibels


@dataclass(frozen=True)
class Losses:
    """Where one precision loses the picture. `frames` are the indices measured on, the sequence's worst.

    `low` is everything in the precision, over those frames. `complete` is False where it was interrupted.
    """

    frames: tuple[int, ...]
    low: Loss
    parts: tuple[PartLoss, ...]
    ranges: tuple[RangeFinding, ...]
    complete: bool

    def ranked(self, level: Level) -> list[PartLoss]:
        """The parts of one level, the one that costs most by itself first."""
        found = [part for part in self.parts if part.level == level]
        return sorted(found, key=lambda part: (part.badness, part.part))


def measure_losses(simulator: Simulator, precision: Precision, count: int = 4, reporter: Reporter = SILENT) -> Losses:
    """What every stage costs in `precision`, every block of the two worst stages, every group of the worst block.

    `count` is the number of frames to measure on, the worst under the precision; the reference is the same graph in
    fp32. An interruption (KeyboardInterrupt) ends it early with what there is. Raises UserError for a precision that
    computes in float32, which loses nothing.
    """
    if precision.compute == "float32":
        raise UserError(f"precision {precision.name!r} computes in float32: there is no loss to measure")
    graph, everything = simulator.graph, range(len(simulator.inputs))
    reporter.progress("drift: rendering the sequence", 0, None)
    fp32, low = simulator.frames(PRECISIONS["fp32"], everything), simulator.frames(precision, everything)
    frames = worst_frames(measure_drift(fp32, low), count)
    reference = fp32[list(frames)]
    flops = node_flops(graph, simulator.shapes)
    total = sum(flops.values())
    found: dict[Part, PartLoss] = {}
    done = planned = 0

    def loss(changed: Precision) -> Loss:
        nonlocal done
        reporter.progress(f"drift: {changed.name}", done, planned)
        done += 1
        return Loss.of(measure_drift(reference, simulator.frames(changed, frames)))

    def measure(parts: Sequence[Part]) -> None:
        nonlocal planned
        planned += 2 * len(parts)
        for part in parts:
            found[part] = PartLoss(
                part=part.name,
                level=part.level,
                within=part.within,
                patterns=part.patterns,
                lowered=loss(part.lowered(precision)),
                excluded=loss(part.excluded(precision)),
                arithmetic=sum(flops.get(node, 0) for node in part.nodes) / total,
            )

    def worst(parts: Sequence[Part], many: int) -> list[Part]:
        return sorted(parts, key=lambda part: found[part].badness)[:many]

    ranges: tuple[RangeFinding, ...] = ()
    complete = True
    try:
        owners = {node: part.name for part in block_parts(graph) for node in part.nodes}
        reporter.progress("drift: ranges of the activations", 0, None)
        ranges = find_ranges(simulator, frames, precision, owners)
        stages = stage_parts(graph)
        measure(stages)
        opened = worst([part for part in stages if not part.coordinates], _STAGES_OPENED)
        blocks = [piece for part in opened for piece in split(graph, part, "block")]
        measure(blocks)
        # The coordinates have no blocks: as a stage they compete with the blocks of the others.
        for part in worst([*blocks, *(part for part in stages if part.coordinates)], 1):
            measure(split(graph, part, "nodes"))
    except KeyboardInterrupt:
        complete = False
    of_low = Loss.of(measure_drift(reference, low[list(frames)]))
    return Losses(frames, of_low, tuple(found.values()), ranges, complete)


def session_losses(session: Session, precision: Precision, worst: int, reporter: Reporter = SILENT) -> Report:
    """Where `precision` loses the picture of the session's renderer, on the `worst` frames of its sequence.

    Shares of time come from the newest run of the session's results folder, where it has them. Raises UserError as
    `measure_losses` does.
    """
    size, weights = session.recorded_workload.size, session.renderer.weights.digest
    shares = latest_time_shares(session.options.results, precision.name, size, weights)
    simulator = simulator_of(session, precision.quantize is not None)
    return losses_report(session, precision, measure_losses(simulator, precision, worst, reporter), shares)


def losses_report(session: Session, precision: Precision, found: Losses, shares: TimeShares | None = None) -> Report:
    """The losses for people and as JSON, with the stages' shares of time where there are any."""
    times, source = shares or ({}, None)
    timed = [replace(part, time=times.get(part.part) if part.level == "stage" else None) for part in found.parts]
    found = replace(found, parts=tuple(timed))
    findings = {
        "compute": precision.compute,
        "reference": "the same graph in fp32",
        "complete": found.complete,
        "low": found.low,
        "parts": found.parts,
        "ranges": found.ranges,
        "time_source": source,
    }
    tables = []
    for level, title in _TITLES.items():
        parts = found.ranked(level)
        if parts:
            tables.append(_table(title.format(precision.name), parts, source))
    head = heading(session, f"{precision.name} of", found.frames, found.low.at_least)
    legend = [_LEGEND.format(precision.compute), *range_lines(found.ranges, precision.compute)]
    return make_report(session, precision.name, found.frames, findings, [head], tables, legend)


def _table(title: str, parts: Sequence[PartLoss], time_source: str | None) -> Table:
    timed = any(part.time is not None for part in parts)
    made = table(title, "part", "lowered dB", "SSIM", "LSB", "excluded dB", "LSB", "FLOP", *["time"] * timed)
    for part in parts:
        lowered, excluded = part.lowered, part.excluded
        ssim = "-" if lowered.ssim_min is None else f"{lowered.ssim_min:.5f}"
        figures = [lowered.cell, ssim, lowered.max_lsb, excluded.cell, excluded.max_lsb, f"{part.arithmetic:.2%}"]
        if timed:
            figures.append("-" if part.time is None else f"{part.time:.0%}")
        made.add_row(escape(part.part), *map(str, figures))
    if timed and time_source:
        made.caption = escape(f"time: {time_source}; motion's holds the coordinates'")
    return made


def latest_time_shares(results: Path, precision: str, size: int, weights: str) -> TimeShares | None:
    """Each stage's share (0 to 1) of the generator's stages at batch 1, and whose latencies they are.

    From the newest run in a results folder; None where there is none that can be read, or it lacks a stage, the
    precision or the size, or is of other weights: the demo's shares are not SadTalker's. The coordinates are computed
    inside the motion stage, so its share holds theirs.
    """
    try:
        run = read_run(results / "latest")
    except UserError:
        return None  # No run yet, or one of another version: shares of time are then simply not shown.
    if run.workload.size != size or run.weights.digest != weights:
        return None
    rows = {
        (record.key.runner, record.key.stage): median(record.latency.judged_ms)
        for record in run.records
        if record.latency is not None and record.key.precision == precision and record.key.batch == 1
    }
    for runner in _RUNNERS:
        times = {stage: rows[runner, stage] for stage in GENERATOR_PARTS if (runner, stage) in rows}
        total = sum(times.values())
        if len(times) == len(GENERATOR_PARTS) and total > 0:
            where = run.environment.gpu or run.environment.cpu
            source = f"{runner} {precision} on {where}, run of {run.started_utc}"
            return {stage: time / total for stage, time in times.items()}, source
    return None
