"""Measures what each part of the renderer costs in a lower precision, from stages down to nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sadtrt_core.accuracy.findings import Loss, PartLoss
from sadtrt_core.accuracy.parts import Part, block_parts, node_flops, split, stage_parts
from sadtrt_core.accuracy.ranges import RangeFinding, find_ranges
from sadtrt_core.accuracy.simulate import Simulator
from sadtrt_core.errors import UserError
from sadtrt_core.measure.drift import measure_drift
from sadtrt_core.precision import PRECISIONS, Precision
from sadtrt_core.progress import SILENT, Reporter
from sadtrt_core.records.measurements import Drift

REFERENCE = "the same graph in fp32"
_STAGES_OPENED = 2


@dataclass(frozen=True)
class Losses:
    """What was measured before the end or an interruption; see DriftReport."""

    frames: tuple[int, ...]
    low: Loss
    parts: tuple[PartLoss, ...]
    ranges: tuple[RangeFinding, ...]
    complete: bool


def worst_frames(drift: Drift, count: int) -> tuple[int, ...]:
    """Indices of the frames with the lowest PSNR, broken ones before all, in the order of the sequence."""

    def badness(index: int) -> tuple[bool, float]:
        value = drift.psnr_db[index]
        return (not drift.non_finite[index], float("inf") if value is None else value)

    return tuple(sorted(sorted(range(len(drift.psnr_db)), key=badness)[:count]))


def measure_losses(
    simulator: Simulator,
    precision: Precision,
    count: int = 4,
    times: Mapping[str, float] | None = None,
    reporter: Reporter = SILENT,
) -> Losses:
    """What every stage costs in `precision`, every block of the two worst stages, every group of the worst block.

    `count` is the number of frames to measure on, the worst under the precision. `times` has shares of measured time
    by stage. An interruption (KeyboardInterrupt) ends it early with what there is. Raises UserError for a precision
    that computes in float32, which loses nothing.
    """
    if precision.compute == "float32":
        raise UserError(f"precision {precision.name!r} computes in float32: there is no loss to measure")
    graph, everything = simulator.graph, range(len(simulator.inputs))
    reporter.progress("drift: rendering the sequence", 0, None)
    fp32 = simulator.frames(PRECISIONS["fp32"], everything)
    drift = measure_drift(fp32, simulator.frames(precision, everything), reference_name=REFERENCE)
    frames = worst_frames(drift, count)
    reference = fp32[list(frames)]
    flops = node_flops(graph, simulator.shapes)
    total = sum(flops.values())
    found: dict[str, PartLoss] = {}
    done = planned = 0

    def loss(changed: Precision) -> Loss:
        nonlocal done
        reporter.progress(f"drift: {changed.name}", done, planned)
        measured = Loss.of(measure_drift(reference, simulator.frames(changed, frames)))
        done += 1
        return measured

    def measure(parts: Sequence[Part]) -> None:
        nonlocal planned
        planned += 2 * len(parts)
        for part in parts:
            lowered, excluded = loss(part.lowered(precision)), loss(part.excluded(precision))
            share = sum(flops.get(node, 0.0) for node in part.nodes) / total
            time = (times or {}).get(part.name) if part.level == "stage" else None
            found[part.name] = PartLoss(
                part.name, part.level, part.within, part.patterns, lowered, excluded, share, time
            )

    def worst(parts: Sequence[Part]) -> list[Part]:
        return sorted(parts, key=lambda part: found[part.name].badness)

    ranges: tuple[RangeFinding, ...] = ()
    complete = True
    try:
        owner = {node: part.name for part in block_parts(graph) for node in part.nodes}
        reporter.progress("drift: ranges of the activations", 0, None)
        ranges = find_ranges(simulator, frames, precision, lambda node: owner.get(node, node))
        stages = stage_parts(graph)
        measure(stages)
        opened = worst([part for part in stages if not part.coordinates])[:_STAGES_OPENED]
        blocks = [piece for part in opened for piece in split(graph, part, "block")]
        measure(blocks)
        # The coordinates have no blocks: as a stage they compete with the blocks of the others.
        for part in worst([*blocks, *(part for part in stages if part.coordinates)])[:1]:
            measure(split(graph, part, "nodes"))
    except KeyboardInterrupt:
        complete = False
    return Losses(frames, Loss.of(drift_of(drift, frames)), tuple(found.values()), ranges, complete)


def drift_of(drift: Drift, frames: Sequence[int]) -> Drift:
    """The drift of some of the frames; without flicker, whose pairs of frames are not all there."""
    return Drift(
        psnr_db=tuple(drift.psnr_db[i] for i in frames),
        ssim=tuple(drift.ssim[i] for i in frames),
        max_lsb=tuple(drift.max_lsb[i] for i in frames),
        non_finite=tuple(drift.non_finite[i] for i in frames),
        meaningful=drift.meaningful,
        reference=drift.reference,
    )
