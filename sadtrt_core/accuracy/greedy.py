"""The search itself: fp32 where it buys the most for the least, on the worst frames first, confirmed on all.

Errors of different parts add up, nearly: their squares do where they are independent. So each part's error alone is
measured once, the parts are kept in the order of squared error a unit of cost until the sum left would fit, and what
that predicts is then measured, completed, and pruned by measurement alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sadtrt_core.accuracy.findings import Loss
from sadtrt_core.accuracy.losses import drift_of, worst_frames
from sadtrt_core.accuracy.parts import Part, split
from sadtrt_core.accuracy.trials import Budget, Trials
from sadtrt_core.progress import SILENT, Reporter
from sadtrt_core.records.measurements import Drift

#: Cost of a part that has no arithmetic to speak of: a cast more, never nothing.
_LEAST_COST = 1e-6
#: A frame that is the reference's to the last bit still has this squared error: the ceiling of PSNR, 120 dB.
_FLOOR = 1e-12


@dataclass(frozen=True)
class Kept:
    """A part that a plan keeps; `without` is the loss over the worst frames if it were not."""

    part: Part
    cost: float
    without: Loss


@dataclass(frozen=True)
class Outcome:
    """What a search found. `drift` is over all frames, `worst` names those it was looked for on.

    `met` says whether the budget holds; else this is the best that was found. `low` is everything in the base type,
    `fp32` everything kept, both over all frames. `cost` is the share of the arithmetic kept in fp32, 0 to 1.
    `finalists` are all sets of parts that held the budget where the search narrowed them down, the last one kept.
    """

    met: bool
    kept: tuple[Kept, ...]
    drift: Drift
    cost: float
    low: Drift
    fp32: Loss
    worst: tuple[int, ...]
    finalists: tuple[tuple[Part, ...], ...] = ()


class Search:
    """One search over the parts of a graph. `flops` are the operations of every node; `count` frames are tried first.

    Deterministic: with the same journal it asks for the same trials, which is how it resumes.
    """

    def __init__(
        self,
        trials: Trials,
        parts: Sequence[Part],
        flops: dict[str, float],
        budget: Budget,
        count: int = 4,
        reporter: Reporter = SILENT,
    ) -> None:
        self.trials, self.parts, self.flops = trials, tuple(parts), flops
        self.budget, self.count, self.reporter = budget, count, reporter
        self.total = sum(flops.values())

    def run(self) -> Outcome:
        """The cheapest plan found that holds the budget on every frame, or the best there is where none does."""
        every = self.trials.every_frame
        low = self.trials.keeping((), every)
        worst = worst_frames(low, self.count)
        fp32 = Loss.of(self.trials.keeping(self.parts, every))
        if self.budget.met_by(Loss.of(low)):
            return Outcome(True, (), low, 0.0, low, fp32, worst, ((),))
        if not self.budget.met_by(fp32):
            self.reporter.log(
                f"fp32 throughout gives {picture_words(fp32)}: no plan can hold {self.budget}; looking for the best"
            )
            return self._best(low, fp32, worst)
        while True:
            enough = self._greedy(worst)
            needed = self._needed((), enough, worst)
            kept = self._refine(needed, worst)
            drift = self.trials.keeping(kept, every)
            if self.budget.met_by(Loss.of(drift)):
                break
            failing = tuple(i for i in every if not self.budget.met_by(Loss.of(drift_of(drift, [i]))))
            self.reporter.log(f"frames {', '.join(map(str, failing))} do not hold it: searching on them too")
            worst = tuple(sorted({*worst, *failing}))
        # A plan that keeps all of it is fp32 by another name.
        met = self.cost(kept) < 1 - 1e-9
        finalists = tuple(dict.fromkeys((kept, needed, enough)))
        return Outcome(met, self.explained(kept, worst), drift, self.cost(kept), low, fp32, worst, finalists)

    def cost(self, parts: Sequence[Part]) -> float:
        """Share of the arithmetic in these parts, 0 to 1."""
        return self.share(node for part in parts for node in part.nodes)

    def share(self, nodes: Iterable[str]) -> float:
        """Share of the arithmetic in these nodes, 0 to 1."""
        return sum(self.flops.get(node, 0.0) for node in nodes) / self.total

    def _greedy(self, worst: Sequence[int]) -> tuple[Part, ...]:
        """Parts kept in the order of what they buy for what they cost, until the budget holds."""
        alone = {part.name: _squares(self.trials.alone(part, worst)) for part in self.parts}
        allowed = 10 ** (-self.budget.min_psnr_db / 10)
        kept: list[Part] = []
        left = list(self._by_worth(alone))
        while left:
            kept.append(left.pop(0))
            predicted = max(sum(alone[part.name][i] for part in left) for i in range(len(worst)))
            if predicted <= allowed and self._meets(kept, worst):
                break
        return tuple(kept)

    def _by_worth(self, alone: dict[str, list[float]]) -> list[Part]:
        worth = {part: sum(alone[part.name]) / max(self.cost([part]), _LEAST_COST) for part in self.parts}
        return sorted(self.parts, key=lambda part: (-worth[part], part.name))

    def _needed(self, fixed: Sequence[Part], parts: Sequence[Part], worst: Sequence[int]) -> tuple[Part, ...]:
        """Those of the parts, beside the fixed ones, without which the budget breaks; the dearest is asked first."""
        needed = tuple(parts)
        for part in sorted(parts, key=self._dearest_first):
            others = _without(needed, part)
            if self._meets([*fixed, *others], worst):
                needed = others
        return needed

    def _dearest_first(self, part: Part) -> tuple[float, str]:
        return -self.cost([part]), part.name

    def _refine(self, kept: Sequence[Part], worst: Sequence[int]) -> tuple[Part, ...]:
        """With those pieces of the parts alone that are needed; what only moves values needs no fp32 of its own."""
        result = tuple(kept)
        for part in sorted(kept, key=self._dearest_first):
            if part.coordinates:
                continue
            pieces = split(self.trials.simulator.graph, part, "nodes")
            others = _without(result, part)
            if len(pieces) < 2 or not self._meets([*others, *pieces], worst):
                continue
            result = (*others, *self._needed(others, pieces, worst))
        return result

    def _meets(self, kept: Sequence[Part], worst: Sequence[int]) -> bool:
        return self.budget.met_by(Loss.of(self.trials.keeping(kept, worst)))

    def _best(self, low: Drift, fp32: Loss, worst: Sequence[int]) -> Outcome:
        """The plan after which keeping more of the graph hardly helps: each part is to buy a decibel at least."""
        alone = {part.name: _squares(self.trials.alone(part, worst)) for part in self.parts}
        kept: tuple[Part, ...] = ()
        reached = Loss.of(drift_of(low, worst)).decibels
        for part in self._by_worth(alone):
            decibels = Loss.of(self.trials.keeping((*kept, part), worst)).decibels
            if decibels >= reached + 1:
                kept, reached = (*kept, part), decibels
        drift = self.trials.keeping(kept, self.trials.every_frame)
        return Outcome(False, self.explained(kept, worst), drift, self.cost(kept), low, fp32, tuple(worst))

    def explained(self, kept: Sequence[Part], worst: Sequence[int]) -> tuple[Kept, ...]:
        """Every part with what the worst frames lose without it, the one that matters most first."""
        found = []
        for part in kept:
            others = _without(kept, part)
            found.append(Kept(part, self.cost([part]), Loss.of(self.trials.keeping(others, worst))))
        return tuple(sorted(found, key=lambda item: (item.without.decibels, item.part.name)))


def _without(parts: Sequence[Part], one: Part) -> tuple[Part, ...]:
    return tuple(part for part in parts if part is not one)


def _squares(drift: Drift) -> list[float]:
    """Mean squared error of every frame, from its PSNR at peak 1.0."""
    values = []
    for value, broken in zip(drift.psnr_db, drift.non_finite, strict=True):
        values.append(math.inf if broken else _FLOOR if value is None else max(_FLOOR, 10 ** (-value / 10)))
    return values


def picture_words(loss: Loss) -> str:
    """A loss in words."""
    broken = f"{loss.non_finite_frames} frames that are not finite"
    return broken if loss.psnr_min_db is None else f"{loss.psnr_min_db:.1f} dB and {loss.max_lsb} of 255"
