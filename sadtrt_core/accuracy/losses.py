"""Measures what each part of the renderer costs in a lower precision, from stages down to nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from sadtrt_core.accuracy.findings import Loss, PartLoss
from sadtrt_core.accuracy.parts import Part, block_parts, node_flops, split, stage_parts
from sadtrt_core.accuracy.ranges import RangeFinding, find_ranges
from sadtrt_core.accuracy.simulate import Simulator
from sadtrt_core.errors import UserError
from sadtrt_core.measure.drift import measure_drift
from sadtrt_core.precision import PRECISIONS, Precision
from sadtrt_core.records.measurements import Drift

REFERENCE = "the same graph in fp32"
_STAGES_OPENED = 2


@dataclass(frozen=True)
class Progress:
    """How far localising is: what is done now, 0 to 1 of that and of how many steps."""

    doing: str
    done: int
    total: int


@dataclass(frozen=True)
class Localised:
    """What was measured before localising ended or was interrupted; see DriftReport."""

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


def localise(
    simulator: Simulator,
    precision: Precision,
    count: int = 4,
    times: Mapping[str, float] | None = None,
    tell: Callable[[Progress], None] = lambda progress: None,
) -> Localised:
    """What every stage costs in `precision`, every block of the two worst stages, every group of the worst block.

    `count` is the number of frames to measure on, the worst under the precision. `times` has shares of measured time
    by stage. An interruption (KeyboardInterrupt) ends it early with what there is. Raises UserError for a precision
    that computes in float32, which loses nothing.
    """
    if precision.compute == "float32":
        raise UserError(f"precision {precision.name!r} computes in float32: there is no loss to localise")
    return _Localiser(simulator, precision, times or {}, tell).run(count)


class _Localiser:
    def __init__(
        self,
        simulator: Simulator,
        precision: Precision,
        times: Mapping[str, float],
        tell: Callable[[Progress], None],
    ) -> None:
        self.simulator, self.precision, self.times, self.tell = simulator, precision, times, tell
        self.flops = node_flops(simulator.graph, simulator.shapes)
        self.total = sum(self.flops.values())
        self.done, self.planned = 0, 0
        self.found: list[PartLoss] = []

    def run(self, count: int) -> Localised:
        everything = range(len(self.simulator.inputs))
        self._tell("rendering the sequence")
        fp32 = self.simulator.frames(PRECISIONS["fp32"], everything)
        drift = measure_drift(fp32, self.simulator.frames(self.precision, everything), reference_name=REFERENCE)
        frames = worst_frames(drift, count)
        reference = fp32[list(frames)]
        low = Loss.of(drift_of(drift, frames))
        ranges: tuple[RangeFinding, ...] = ()
        try:
            ranges = self._ranges(frames)
            self._measure_all(frames, reference)
        except KeyboardInterrupt:
            return Localised(frames, low, tuple(self.found), ranges, complete=False)
        return Localised(frames, low, tuple(self.found), ranges, complete=True)

    def _ranges(self, frames: Sequence[int]) -> tuple[RangeFinding, ...]:
        owner = {node: part.name for part in block_parts(self.simulator.graph) for node in part.nodes}
        self._tell("ranges of the activations")
        return find_ranges(self.simulator, frames, self.precision, lambda node: owner.get(node, node))

    def _measure_all(self, frames: Sequence[int], reference: Tensor) -> None:
        graph = self.simulator.graph
        stages = stage_parts(graph)
        self._measure(stages, frames, reference)
        opened = self._worst(stages, [part for part in stages if not part.coordinates])[:_STAGES_OPENED]
        blocks = tuple(piece for part in opened for piece in split(graph, part, "block"))
        self._measure(blocks, frames, reference)
        # The coordinates have no blocks: as a stage they compete with the blocks of the others.
        leaves = [*blocks, *(part for part in stages if part.coordinates)]
        for worst in self._worst(leaves, leaves)[:1]:
            self._measure(split(graph, worst, "nodes"), frames, reference)

    def _worst(self, among: Sequence[Part], parts: Sequence[Part]) -> list[Part]:
        losses = {loss.part: loss for loss in self.found if any(part.name == loss.part for part in among)}
        return sorted(parts, key=lambda part: (losses[part.name].alone.decibels, -losses[part.name].excluded.decibels))

    def _measure(self, parts: Sequence[Part], frames: Sequence[int], reference: Tensor) -> None:
        self.planned += 2 * len(parts)
        for part in parts:
            losses = []
            for precision in (part.lowered(self.precision), part.excluded(self.precision)):
                self._tell(precision.name)
                losses.append(Loss.of(measure_drift(reference, self.simulator.frames(precision, frames))))
                self.done += 1
            alone, excluded = losses
            share = sum(self.flops.get(node, 0.0) for node in part.nodes) / self.total
            time = self.times.get(part.name) if part.level == "stage" else None
            self.found.append(PartLoss(part.name, part.level, part.within, part.patterns, alone, excluded, share, time))
        self._tell("done")

    def _tell(self, doing: str) -> None:
        self.tell(Progress(doing, self.done, self.planned))


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
