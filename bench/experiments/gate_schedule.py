"""Which runs the gate experiment measures, in which order, and how many of them fit into its time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

STARTED = time.monotonic()
FRESH_AFTER = 5


@dataclass(frozen=True)
class Step:
    """What is measured at a time: a run in a process of its own (`fresh`), or one here for each of `levels`, the
    slowdown that is planted in every row of it, 0 for none.
    """

    levels: tuple[float, ...] = (0.0,)
    fresh: bool = False

    @property
    def words(self) -> str:
        names = (f"planted {100 * level:g}%" if level else "plain" for level in self.levels)
        return "fresh process" if self.fresh else " and ".join(names)


def schedule(plain: int, planted: int, levels: Sequence[float], fresh: int, together: bool) -> list[Step]:
    """All runs mixed, so that what is cut short has some of each.

    `together` measures the planted runs of all levels in turn with a plain one, in the first steps; after FRESH_AFTER
    of them the fresh runs come first. Else every run is a step of its own, each kind evenly among the others, so that
    all see the same weather.
    """
    if together:
        here = [Step((0.0, *levels)) if index < planted else Step() for index in range(plain)]
        return [*here[:FRESH_AFTER], *[Step(fresh=True)] * fresh, *here[FRESH_AFTER:]]
    slots = [((i + 0.5) / plain, Step()) for i in range(plain)]
    for order, level in enumerate(levels):
        slots += [((i + (order + 1) / (len(levels) + 2)) / planted, Step((level,))) for i in range(planted)]
    slots += [((i + 0.55) / fresh, Step(fresh=True)) for i in range(fresh)]
    steps = [step for _, step in sorted(slots, key=lambda slot: slot[0])]
    steps.remove(Step())
    return [Step(), *steps]  # The first of all loads the rows: nothing may be planted in it.


@dataclass
class Budget:
    """Seconds from the start that measuring may take, None for as long as it takes."""

    seconds: float | None
    clock: Callable[[], float] = time.monotonic
    _last: dict[bool, float] = field(default_factory=dict)

    def spent(self) -> float:
        return self.clock() - STARTED

    def fits(self, step: Step) -> bool:
        """Whether a step that takes as long as the last one would end in time. Fresh processes are a kind of their own,
        the first of which may take as long as everything so far: it has to load what this one has loaded.
        """
        return self.seconds is None or self.spent() + self._last.get(step.fresh, self.spent()) <= self.seconds

    def took(self, step: Step, seconds: float) -> None:
        self._last[step.fresh] = seconds

    def patience(self) -> float:
        """Seconds after which a fresh process must be hanging."""
        return 600.0 if self.seconds is None else max(30.0, self.seconds - self.spent() + 30.0)
