"""The search on the rounded graph: fp32 where it buys the most for the least, on the worst frames first.

Errors of different parts add up, nearly: their squares do where they are independent. So each part's error alone is
measured once, the parts are kept in the order of squared error a unit of cost until the sum left would fit, and what
that predicts is then measured, completed, and pruned by measurement alone. Every frame that is measured is kept on disk
at once: a search that was killed goes on where it was.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from sadtrt_core.accuracy.findings import Budget, Loss, worst_frames
from sadtrt_core.accuracy.parts import Part, block_parts, keeping, node_flops, split
from sadtrt_core.accuracy.simulate import Simulator
from sadtrt_core.codec import json_digest
from sadtrt_core.errors import UserError
from sadtrt_core.files import keep_file, read_file
from sadtrt_core.measure.drift import measure_drift
from sadtrt_core.plan import precision_digest
from sadtrt_core.precision import ComputeType, Precision
from sadtrt_core.progress import SILENT, Reporter
from sadtrt_core.records.measurements import Drift

#: Cost of a part that has no arithmetic to speak of: a cast more, never nothing.
_LEAST_COST = 1e-6
#: A frame that is the reference's to the last bit still has this squared error: the ceiling of PSNR, 120 dB.
_FLOOR = 1e-12
_JOURNAL_LIMIT = 1 << 23  # Bytes; a hundred candidates over 32 frames take 300 kilobytes.


#: Frames by their indices, those by the digest of the precision: PSNR in dB, SSIM, largest uint8 difference and whether
#: a pixel is not finite, as in Drift.
Measured = dict[str, dict[str, list[Any]]]
#: Whether parts kept in fp32 are enough.
Holds = Callable[[Sequence[Part]], bool]


class Trials:
    """Drift of precisions against the reference (T, 3, H, W), each frame rendered once and remembered in `journal`.

    The journal's name has to stand for all that the figures depend on beside the precision. One that is
    damaged is not read, as `reporter` is told.
    """

    def __init__(
        self, simulator: Simulator, reference: Tensor, base: ComputeType, journal: Path, reporter: Reporter = SILENT
    ) -> None:
        self.simulator, self.reference, self.base = simulator, reference, base
        self.journal, self.reporter = journal, reporter
        self.measured = kept_trials(journal, reporter)
        self.rendered = 0

    @property
    def every_frame(self) -> range:
        """Indices of the whole sequence."""
        return range(len(self.simulator.inputs))

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """What may be kept in fp32: every block, and the coordinates."""
        return block_parts(self.simulator.graph)

    @cached_property
    def _flops(self) -> dict[str, int]:
        return node_flops(self.simulator.graph, self.simulator.shapes)

    def cost(self, nodes: Iterable[str]) -> float:
        """Share of the arithmetic in these nodes, 0 to 1."""
        return sum(self._flops.get(node, 0) for node in nodes) / sum(self._flops.values())

    def keeping(self, kept: Iterable[Part], frames: Sequence[int]) -> Drift:
        """Drift over these frames with the parts in fp32 and everything else in the base type."""
        return self.of(keeping(self.base, kept), frames)

    def alone(self, part: Part, frames: Sequence[int]) -> Drift:
        """Drift over these frames with this part in the base type and everything else fp32."""
        return self.of(part.lowered(keeping(self.base, ())), frames)

    def of(self, precision: Precision, frames: Sequence[int]) -> Drift:
        """Drift over these frames of any precision; one that quantizes needs a simulator with ranges.

        What is rendered is on disk before this returns. Raises UserError where it cannot be written.
        """
        known = self.measured.setdefault(precision_digest(precision)[:32], {})
        missing = [index for index in frames if str(index) not in known]
        if missing:
            self.reporter.progress("trying precisions", self.rendered, None)
            self.rendered += 1
            drift = measure_drift(self.reference[missing], self.simulator.frames(precision, missing))
            values = zip(drift.psnr_db, drift.ssim, drift.max_lsb, drift.non_finite, strict=True)
            known.update((str(index), list(value)) for index, value in zip(missing, values, strict=True))
            # A plan claims these figures without rendering them again, hence the digest.
            text = json.dumps({"measured": self.measured, "sha256": json_digest(self.measured)}, allow_nan=False)
            keep_file(self.journal, text)
        psnr_db, ssim, max_lsb, non_finite = zip(*(known[str(index)] for index in frames), strict=True)
        return Drift(psnr_db, ssim, max_lsb, non_finite)


def kept_trials(journal: Path, reporter: Reporter) -> Measured:
    """What a search's journal holds; nothing of one that is damaged or absent, and the former is said."""
    if not os.path.lexists(journal):
        return {}
    try:
        content = json.loads(read_file(journal, _JOURNAL_LIMIT))
        measured: Measured = content["measured"]
        if content["sha256"] != json_digest(measured):
            raise UserError("its figures were changed after they were written")
        for frames in filter(None, measured.values()):
            psnr_db, ssim, max_lsb, non_finite = zip(*frames.values(), strict=True)
            Drift(psnr_db, ssim, max_lsb, non_finite)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        reporter.log(f"starting the search anew: the journal {journal} cannot be read ({error})")
        return {}
    if measured:
        reporter.log(f"going on from {len(measured)} candidates measured before ({journal})")
    return measured


@dataclass(frozen=True)
class Outcome:
    """What a search found. `drift` is over all frames, `worst` names those it was looked for on.

    `met` says whether the budget holds; else this is the best that was found. `kept` has every part that stays fp32
    with the loss over the worst frames if it did not, that which matters most first; `cost` is their share of the
    arithmetic, 0 to 1. `low` is everything in the base type, `fp32` everything kept, both over all frames. `finalists`
    are the sets of parts that the search narrowed down, that first which is kept.
    """

    met: bool
    kept: Mapping[Part, Loss]
    drift: Drift
    cost: float
    low: Loss
    fp32: Loss
    worst: tuple[int, ...]
    finalists: tuple[tuple[Part, ...], ...]


def cheapest(trials: Trials, budget: Budget, count: int) -> Outcome:
    """The cheapest plan found that holds the budget on every frame, or the best there is where none does.

    `count` frames are tried first. Deterministic: with the same journal it asks for the same trials, which is how it
    resumes.
    """
    every = trials.every_frame
    all_low = trials.keeping((), every)
    low, fp32 = Loss.of(all_low), Loss.of(trials.keeping(trials.parts, every))
    worst = worst_frames(all_low, count)
    finalists: tuple[tuple[Part, ...], ...] = ((),)
    if not budget.met_by(low) and budget.met_by(fp32):
        worst, finalists = _narrowed(trials, budget, worst)
    elif not budget.met_by(low):
        trials.reporter.log(
            f"fp32 throughout gives {picture_words(fp32)}: no plan can hold {budget}; looking for the best"
        )
        finalists = (_best(trials, worst),)
    kept = finalists[0]
    drift, cost = trials.keeping(kept, every), trials.cost(node for part in kept for node in part.nodes)
    # A plan that keeps all of it is fp32 by another name.
    met = budget.met_by(Loss.of(drift)) and cost < 1 - 1e-9
    return Outcome(met, explained(trials, kept, worst), drift, cost, low, fp32, worst, finalists)


def _narrowed(
    trials: Trials, budget: Budget, worst: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[tuple[Part, ...], ...]]:
    """The frames it took, and sets of parts that hold the budget on them, the last found first."""
    every = trials.every_frame

    def holds(parts: Sequence[Part]) -> bool:
        return budget.met_by(Loss.of(trials.keeping(parts, worst)))

    while True:
        enough = _greedy(trials, worst, budget, holds)
        needed = _needed(trials, (), enough, holds)
        kept = _refine(trials, needed, holds)
        if budget.met_by(Loss.of(trials.keeping(kept, every))):
            return worst, tuple(dict.fromkeys((kept, needed, enough)))
        failing = [index for index in every if not budget.met_by(Loss.of(trials.keeping(kept, [index])))]
        trials.reporter.log(f"frames {', '.join(map(str, failing))} do not hold it: searching on them too")
        worst = tuple(sorted({*worst, *failing}))


def _greedy(trials: Trials, worst: Sequence[int], budget: Budget, holds: Holds) -> tuple[Part, ...]:
    """Parts kept in the order of what they buy for what they cost, until the budget holds."""
    alone = _errors_alone(trials, worst)
    allowed = 10 ** (-budget.min_psnr_db / 10)
    kept: tuple[Part, ...] = ()
    for part in alone:
        kept = (*kept, part)
        left = [errors for other, errors in alone.items() if other not in kept]
        predicted = max(map(sum, zip(*left, strict=True)), default=0.0)
        if predicted <= allowed and holds(kept):
            break
    return kept


def _errors_alone(trials: Trials, worst: Sequence[int]) -> dict[Part, list[float]]:
    """Mean squared error of every worst frame with one part in the base type, from its PSNR at peak 1.0.

    In the order of what keeping the part buys for what it costs.
    """

    alone = {part: squared_errors(trials.alone(part, worst)) for part in trials.parts}
    worth = {part: sum(errors) / max(trials.cost(part.nodes), _LEAST_COST) for part, errors in alone.items()}
    return {part: alone[part] for part in sorted(worth, key=lambda part: (-worth[part], part.name))}


def squared_errors(drift: Drift) -> list[float]:
    """Mean squared error of every frame, from its PSNR at peak 1.0; infinite where a pixel is not finite."""

    def squared(value: float | None, broken: bool) -> float:
        if broken:
            return math.inf
        return _FLOOR if value is None else max(_FLOOR, 10 ** (-value / 10))

    return list(map(squared, drift.psnr_db, drift.non_finite))


def _needed(trials: Trials, fixed: Sequence[Part], parts: Sequence[Part], holds: Holds) -> tuple[Part, ...]:
    """Those of the parts, beside the fixed ones, without which the budget breaks; the dearest is asked first."""
    needed = tuple(parts)
    for part in _dearest_first(trials, parts):
        others = _without(needed, part)
        if holds([*fixed, *others]):
            needed = others
    return needed


def _dearest_first(trials: Trials, parts: Sequence[Part]) -> list[Part]:
    return sorted(parts, key=lambda part: (-trials.cost(part.nodes), part.name))


def _refine(trials: Trials, kept: Sequence[Part], holds: Holds) -> tuple[Part, ...]:
    """With those pieces of the parts alone that are needed; what only moves values needs no fp32 of its own."""
    result = tuple(kept)
    for part in _dearest_first(trials, kept):
        if part.coordinates:
            continue
        pieces = split(trials.simulator.graph, part, "nodes")
        others = _without(result, part)
        if len(pieces) > 1 and holds([*others, *pieces]):
            result = (*others, *_needed(trials, others, pieces, holds))
    return result


def _best(trials: Trials, worst: Sequence[int]) -> tuple[Part, ...]:
    """The parts after which keeping more of the graph hardly helps: each is to buy a decibel at least."""
    kept: tuple[Part, ...] = ()
    reached = Loss.of(trials.keeping(kept, worst)).decibels
    for part in _errors_alone(trials, worst):
        decibels = Loss.of(trials.keeping((*kept, part), worst)).decibels
        if decibels >= reached + 1:
            kept, reached = (*kept, part), decibels
    return kept


def explained(trials: Trials, kept: Sequence[Part], worst: Sequence[int]) -> dict[Part, Loss]:
    """Every part with what the worst frames lose without it, the one that matters most first."""
    found = {part: Loss.of(trials.keeping(_without(kept, part), worst)) for part in kept}
    return dict(sorted(found.items(), key=lambda item: (item[1].decibels, item[0].name)))


def _without(parts: Sequence[Part], one: Part) -> tuple[Part, ...]:
    return tuple(part for part in parts if part is not one)


def picture_words(loss: Loss) -> str:
    """A loss in words."""
    broken = f"{loss.non_finite_frames} frames that are not finite"
    return broken if loss.psnr_min_db is None else f"{loss.psnr_min_db:.1f} dB and {loss.max_lsb} of 255"
