"""Which samples of two runs the gate judges by, and how the hosts were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sadtrt_core import stats
from sadtrt_core.records.measurements import Latency, Telemetry

Repetitions = tuple[tuple[float, ...], ...]
"""Times in ms, repetition by repetition; one where all samples were taken in one stretch."""


@dataclass(frozen=True)
class JudgedSamples:
    """Times of the candidate and of each of the baseline's runs on one clock, and what a reader has to know of the
    choice.
    """

    new: Repetitions
    old: tuple[Repetitions, ...]
    remark: str = ""

    @property
    def all_new(self) -> tuple[float, ...]:
        """The candidate's, in the order they were taken."""
        return _joined(self.new)

    @property
    def all_old(self) -> tuple[float, ...]:
        """The baseline's, run after run, in the order they were taken."""
        return _joined(tuple(map(_joined, self.old)))

    @cached_property
    def new_units(self) -> np.ndarray:
        """The candidate's units (stats.py), in ms."""
        return stats.units((self.new,))

    @cached_property
    def old_units(self) -> np.ndarray:
        """The baseline's, in ms."""
        return stats.units(self.old)

    @property
    def of_runs(self) -> bool:
        """Whether the baseline's units are whole runs."""
        return len(self.old) >= stats.LEAST_RUNS

    @property
    def words(self) -> str:
        """What is held against what: "8 repetitions against 5 runs"."""
        new = "repetitions" if len(self.new) > 1 else "segments"
        old = "runs" if self.of_runs else "repetitions" if max(map(len, self.old)) > 1 else "segments"
        return f"{len(self.new_units)} {new} against {len(self.old_units)} {old}"


def _joined(repetitions: Repetitions) -> tuple[float, ...]:
    return tuple(ms for repetition in repetitions for ms in repetition)


def judged_samples(candidate: Latency, baselines: Sequence[Latency], metric: str) -> JudgedSamples:
    """The samples of `metric` ("device_ms" or "host_ms") that are neither disturbed nor, of device times, launch-bound,
    where those are at least half of each run; else those that are not launch-bound; else all.
    """
    runs = (candidate, *baselines)
    late = [frozenset(run.late if metric == "device_ms" else ()) for run in runs]
    marked = [waited | frozenset(run.disturbed) for run, waited in zip(runs, late, strict=True)]
    total = sum(len(getattr(run, metric)) for run in runs)
    for without in (marked, late):
        new, *old = (run.repetitions(metric, some) for run, some in zip(runs, without, strict=True))
        counts = [sum(map(len, repetitions)) for repetitions in (new, *old)]
        if all(2 * count >= len(getattr(run, metric)) for run, count in zip(runs, counts, strict=True)):
            remark = _left_out(total - sum(counts), sum(map(len, late)))
            if without is late and marked != late:
                remark += " (most samples were disturbed by clock drops or throttling)"
            return JudgedSamples(new, tuple(old), remark)
    new, *old = (run.repetitions(metric) for run in runs)
    return JudgedSamples(new, tuple(old), " (most include waiting for the host; all are judged)")


def _left_out(count: int, late: int) -> str:
    words = [f"{number} {word}" for number, word in ((count - late, "disturbed"), (late, "launch-bound")) if number]
    return f" ({' and '.join(words)} samples left out)" if words else ""


FASTEST_SHARE = 0.25
FASTEST_LEAST = 10
"""Of fewer samples none is left out: a few segments are needed to show any change."""
Problem = tuple[str, str]
"""Reason code and sentence."""


def busy_host(new: Telemetry | None, old: Telemetry | None, most_percent: float) -> Problem | None:
    """That the process waited for a processor for more than `most_percent` of the time in one of the runs; of a run
    where that is not known, that others took more than so much of all processors' time.
    """
    waited = _known(new, old, "waited_percent")
    if waited and max(waited) > most_percent:
        sentence = (
            f"this process waited for a processor for {max(waited):.0f}% of the time, more than {most_percent:g}%"
        )
        return "machine_busy", sentence
    mine, theirs = (run if run is not None and run.waited_percent is None else None for run in (new, old))
    others = _known(mine, theirs, "others_percent")
    if others and max(others) > most_percent:
        return "machine_busy", f"other processes took {max(others):.0f}% of the processors, more than {most_percent:g}%"
    return None


CLOCK_TOLERANCE = 0.05
"""How far the highest clocks of two runs may lie apart, or the limits of their power, as a fraction: a power limit that
is met lowers only the other readings."""


def another_clock(new: Telemetry | None, old: Telemetry | None) -> Problem | None:
    """That the highest SM or memory clock of one run is below the other's by more than CLOCK_TOLERANCE."""
    for name, word in (("sm_clock_mhz", "SM"), ("memory_clock_mhz", "memory")):
        spreads = [getattr(telemetry, name) for telemetry in (old, new) if telemetry is not None]
        highest = [spread[2] for spread in spreads if spread is not None]
        if len(highest) == 2 and min(highest) < max(highest) * (1 - CLOCK_TOLERANCE):
            code, was, now = name.removesuffix("_mhz"), *highest
            return f"{code}_differs", f"the {word} clock reached {was:.0f} MHz in the baseline, {now:.0f} MHz now"
    return None


def another_speed(new: Telemetry | None, old: Telemetry | None, tolerance: float) -> Problem | None:
    """That a fixed computation took longer in one run than in the other by more than `tolerance` (a fraction), or was
    timed in one of them only: then a slower machine could pass for slower code, or a faster one hide it.
    """
    times = _known(new, old, "yardstick_ms")
    if len(times) == 1:
        return "machine_speed", "only one of the runs says how fast the machine was: record the baseline again"
    if not times or not min(times) or max(times) / min(times) <= 1 + tolerance:
        return None
    sentence = f"a fixed computation took {times[1]:.3g} ms in the baseline's run and {times[0]:.3g} ms in this one"
    return "machine_speed", f"{sentence}: the machine itself was {'slower' if times[0] > times[1] else 'faster'}"


def noisy(fast: tuple[float, ...], tolerance: float) -> Problem | None:
    """That the median of the fastest samples is above the very fastest by more than `tolerance` (a fraction)."""
    low, middle = min(fast), stats.median(fast)
    if not low or middle / low <= 1 + tolerance:
        return None
    sentence = f"the fastest sample took {low:.4g} ms but the fastest ones {middle:.4g} ms: something disturbed most"
    return "too_noisy", sentence


def fastest_of_all(runs: Sequence[tuple[float, ...]]) -> list[tuple[float, ...]]:
    """The fastest quarter of each run's samples, in the order they were taken; more where that is too few in one.

    Whatever else a host does only adds to a time, so the fastest samples say most of the code. The share is the same
    in all: a run that took more samples, because its times were noisy, would else seem the faster.
    """
    share = min(1.0, max(FASTEST_SHARE, FASTEST_LEAST / min(map(len, runs))))
    return [_fastest(run, share) for run in runs]


def _fastest(samples: tuple[float, ...], share: float) -> tuple[float, ...]:
    count = round(share * len(samples))
    chosen = sorted(sorted(range(len(samples)), key=lambda index: samples[index])[:count])
    return tuple(samples[index] for index in chosen)


def _known(new: Telemetry | None, old: Telemetry | None, name: str) -> list[float]:
    """This run's figure and the baseline's, as far as they are known."""
    values = [getattr(telemetry, name) for telemetry in (new, old) if telemetry is not None]
    return [value for value in values if value is not None]
