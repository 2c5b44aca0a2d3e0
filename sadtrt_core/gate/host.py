"""Whether host times of two runs may be compared: what else the two hosts did, and how fast they were."""

from __future__ import annotations

from sadtrt_core import stats
from sadtrt_core.records.measurements import Telemetry

FASTEST_SHARE = 0.25
FASTEST_LEAST = 10
"""Of fewer samples none is left out: a rank test of fewer could not show anything among many rows."""
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


def fastest_of_both(new: tuple[float, ...], old: tuple[float, ...]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The fastest quarter of each run's samples, in the order they were taken; more where that is too few in one.

    Whatever else a host does adds to a time and never takes from it, so the fastest samples are those that say most of
    the code. This is for times that only a host's clock gives; a GPU's own clock has no such neighbours. The share is
    the same in both: a run that took more samples, because its times were restless, would else seem the faster.
    """
    share = min(1.0, max(FASTEST_SHARE, FASTEST_LEAST / min(len(new), len(old))))
    return _fastest(new, share), _fastest(old, share)


def _fastest(samples: tuple[float, ...], share: float) -> tuple[float, ...]:
    count = round(share * len(samples))
    chosen = sorted(sorted(range(len(samples)), key=lambda index: samples[index])[:count])
    return tuple(samples[index] for index in chosen)


def _known(new: Telemetry | None, old: Telemetry | None, name: str) -> list[float]:
    """This run's figure and the baseline's, as far as they are known."""
    values = [getattr(telemetry, name) for telemetry in (new, old) if telemetry is not None]
    return [value for value in values if value is not None]
