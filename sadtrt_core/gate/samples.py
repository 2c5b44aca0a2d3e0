"""Which samples of two runs the gate judges by, and how far slow variation may move their medians."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sadtrt_core import stats
from sadtrt_core.records.measurements import Latency

Interleaver = tuple[tuple[float, ...], ...]
"""Times in ms, visit by visit; one visit where all samples were taken in one stretch."""


@dataclass(frozen=True)
class JudgedSamples:
    """Times of the candidate and of the baseline on one clock, and what a reader has to know of the choice."""

    new: Interleaver
    old: Interleaver
    remark: str = ""

    @property
    def all_new(self) -> tuple[float, ...]:
        """The candidate's, in the order they were taken."""
        return tuple(ms for visit in self.new for ms in visit)

    @property
    def all_old(self) -> tuple[float, ...]:
        """The baseline's, in the order they were taken."""
        return tuple(ms for visit in self.old for ms in visit)

    def slow_noise(self, effect_percent: float) -> float:
        """Relative standard deviation that slow variation puts on the ratio of the medians.

        Visits that differ by no more than the smallest effect of interest cannot raise an alarm by that: then only
        what varies within visits counts, so that two states of a GPU, less than the effect apart, hide nothing larger.
        Of visits that differ by more, what varies over all of them counts by the part that is beyond the effect.
        """
        return math.hypot(*(_slow_variation(run, effect_percent / 100) for run in (self.new, self.old)))


def _slow_variation(visits: Interleaver, effect: float) -> float:
    # Of fewer samples there is no slow variation to see.
    within = [stats.slow_variation(visit) for visit in visits if len(visit) >= 4]
    overall = stats.slow_variation([ms for visit in visits for ms in visit])
    if not within:
        return overall
    medians = [stats.median(visit) for visit in visits]
    apart = max(medians) / min(medians) - 1 if min(medians) else math.inf
    beyond = max(0.0, 1 - effect / apart) if apart else 0.0
    return max(stats.median(within), overall * beyond)


def judged_samples(candidate: Latency, baseline: Latency, metric: str) -> JudgedSamples:
    """The samples of `metric` ("device_ms" or "host_ms") that neither a disturbance nor, of device times, a late host
    changed, where those are at least half of each run; else those that are not late; else all.
    """
    runs = (candidate, baseline)
    late = [frozenset(run.late if metric == "device_ms" else ()) for run in runs]
    marked = [waited | frozenset(run.disturbed) for run, waited in zip(runs, late, strict=True)]
    total = sum(len(getattr(run, metric)) for run in runs)
    for without in (marked, late):
        kept = [_visits(run, metric, some) for run, some in zip(runs, without, strict=True)]
        counts = [sum(map(len, visits)) for visits in kept]
        if all(2 * count >= len(getattr(run, metric)) for run, count in zip(runs, counts, strict=True)):
            remark = _left_out(total - sum(counts), sum(map(len, late)))
            if without is late and marked != late:
                remark += " (most samples were disturbed by clock drops or throttling)"
            return JudgedSamples(kept[0], kept[1], remark)
    whole = [_visits(run, metric, frozenset()) for run in runs]
    return JudgedSamples(whole[0], whole[1], " (most include waiting for the host; all are judged)")


def _left_out(count: int, late: int) -> str:
    words = [f"{number} {word}" for number, word in ((count - late, "disturbed"), (late, "late")) if number]
    return f" ({' and '.join(words)} samples left out)" if words else ""


def _visits(latency: Latency, metric: str, left_out: frozenset[int]) -> Interleaver:
    times: Sequence[float] = getattr(latency, metric)
    starts = latency.visits or (0,)
    ends = (*starts[1:], len(times))
    parts = [
        tuple(times[i] for i in range(a, b) if i not in left_out) for a, b in zip(starts, ends, strict=True) if a < b
    ]
    return tuple(part for part in parts if part)
