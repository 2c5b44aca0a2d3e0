"""What the tables say of a record's times, and of what was measured beside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from sadtrt_core import stats
from sadtrt_core.records.measurements import Spread
from sadtrt_core.records.schema import Record, Run, energy_problem
from sadtrt_core.report.ratios import best, best_name, ratio_words
from sadtrt_core.report.text import megabytes, milliseconds, plain


def lowest_to_highest(name: str, part: str = "telemetry") -> Callable[[Record, Run | None], str]:
    """Lowest to highest, one figure where they are the same."""

    def cell(record: Record, run: Run | None) -> str:
        spread: Spread | None = getattr(getattr(record, part), name, None)
        if spread is None:
            return "-"
        low, high = f"{spread[0]:.0f}", f"{spread[2]:.0f}"
        return low if low == high else f"{low} to {high}"

    return cell


def _time_interval(record: Record, clock: str) -> stats.Interval | None:
    if record.latency is None or getattr(record.latency, clock) is None:
        return None
    return stats.time_interval(stats.units([record.latency.repetitions(clock)]))


def bound(clock: str, which: Literal["low", "high"]) -> Callable[[Record, Run | None], float | None]:
    return lambda record, run: getattr(_time_interval(record, clock), which, None)


def interval_cell(clock: str) -> Callable[[Record, Run | None], str]:
    def cell(record: Record, run: Run | None) -> str:
        interval = _time_interval(record, clock)
        if interval is None:
            return "-"
        return f"{milliseconds(interval.low)} to {milliseconds(interval.high)} ({interval.units})"

    return cell


def megabytes_cell(name: str) -> Callable[[Record, Run | None], str]:
    return lambda record, run: megabytes(getattr(record.resources, name, None))


def device_cell(record: Record, run: Run | None) -> str:
    latency = record.latency
    if latency is None or latency.device_ms is None:
        return "-"
    return milliseconds(latency.device_ms_median) + _mark(record) + (" +" if latency.launch_bound else "")


def host_cell(record: Record, run: Run | None) -> str:
    latency = record.latency
    if latency is None:
        return "-"
    return milliseconds(latency.host_ms_median) + (_mark(record) if latency.device_ms is None else "")


def _mark(record: Record) -> str:
    if record.status != "measured":
        return " (failed)"
    return "" if record.latency is None or (record.latency.steady and not record.latency.disturbed) else " *"


def best_cell(record: Record, run: Run | None) -> str:
    words, name = ratio_words(record, run, best), best_name(record, run)
    return words if name is None or words in ("-", "reference") else f"{words} than {name}"


def energy_cell(record: Record, run: Run | None) -> str:
    energy = None if record.resources is None else record.resources.energy_mj_per_frame
    return "-" if energy is None else f"{plain(energy)}{'' if energy_problem(record) is None else ' !'}"


def disturbed(record: Record, run: Run | None) -> int | None:
    # Nothing was seen to disturb what nothing watched.
    latency = record.latency
    watched = latency is not None and (latency.disturbed or record.telemetry)
    return len(latency.disturbed) if latency is not None and watched else None


def disturbed_cell(record: Record, run: Run | None) -> str:
    latency = record.latency
    return f"{len(latency.disturbed)} of {len(latency.judged_ms)}" if latency else "-"


def late(record: Record, run: Run | None) -> int | None:
    # Nothing was blocked before version 4.
    latency = record.latency
    return len(latency.late) if latency is not None and latency.device_ms and record.benchmark_version >= 4 else None
