"""The tables of a report as plain text cells, for the terminal, HTML and Markdown alike."""

from __future__ import annotations

from dataclasses import dataclass

from sadtrt_core import stats
from sadtrt_core.case import Case
from sadtrt_core.records.schema import Drift, Record, Run, Spread
from sadtrt_core.report.parts import TOLERANCE, parts_against_whole
from sadtrt_core.report.summary import ratio_to_reference, reference_record
from sadtrt_core.report.text import decibels, megabytes, milliseconds

KEY_HEADINGS = ("stage", "runner", "precision", "grid", "batch")


@dataclass(frozen=True)
class TextTable:
    """Headings and cells; the first `words` columns are words, the rest figures; a group starts at each of `breaks`."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int
    breaks: frozenset[int] = frozenset()
    note: str = ""


def report_tables(run: Run) -> tuple[TextTable, ...]:
    """The tables that hold anything: latency, drift, sum of parts, telemetry, what was not run."""
    tables = (latency_table(run), drift_table(run), parts_table(run), telemetry_table(run), absent_table(run))
    return tuple(table for table in tables if table.rows)


def latency_table(run: Run) -> TextTable:
    """Median times with their 95% intervals and the ratio to PyTorch fp32, stage by stage in the order of the run."""
    measured = _by_stage(run, [record for record in run.records if record.latency is not None])
    rows = tuple((*_key_cells(record.key), *_latency_cells(run, record)) for record in measured)
    return TextTable(
        "Latency",
        (
            *KEY_HEADINGS,
            "device ms",
            "95% interval",
            "host ms",
            "95% interval",
            "vs PyTorch fp32",
            "GPU MB",
            "engine MB",
        ),
        rows,
        len(KEY_HEADINGS),
        _breaks(measured),
        "Medians of one call. * not steady, or some samples disturbed by clock drops or throttling. + most device "
        "times include waiting for the host.",
    )


def drift_table(run: Run) -> TextTable:
    """What the picture loses, for every record with frames."""
    measured = _by_stage(run, [record for record in run.records if record.drift is not None])
    rows = tuple((*_key_cells(record.key), *_drift_cells(record.drift)) for record in measured if record.drift)
    references = sorted({record.drift.reference for record in measured if record.drift})
    note = f"Against {', '.join(references)}; PSNR at peak 1.0, a frame counts at most 120 dB." if references else ""
    if any(record.drift and not record.drift.meaningful for record in measured):
        note += " Under seeded weights these figures say nothing about a trained renderer."
    return TextTable(
        "Drift",
        (*KEY_HEADINGS, "PSNR min dB", "PSNR mean dB", "SSIM min", "max LSB", "worst frame", "flicker dB"),
        rows,
        len(KEY_HEADINGS),
        _breaks(measured),
        note,
    )


def parts_table(run: Run) -> TextTable:
    """The sum of appearance, motion, warp and decode against the generator."""
    rows = []
    for entry in parts_against_whole(run):
        verdict = "agrees" if entry.agrees else "does not add up"
        key = entry.whole.key
        times = (milliseconds(entry.parts_ms), milliseconds(entry.whole_ms))
        rows.append((*_key_cells(key)[1:], entry.clock, *times, f"{100 * entry.difference:+.1f}% {verdict}"))
    headings = (*KEY_HEADINGS[1:], "clock", "sum of parts ms", "generator ms", "difference")
    note = f"Appearance, motion, warp and decode; within {100 * TOLERANCE:.0f}% is called agreement."
    return TextTable("Sum of parts against the whole", headings, tuple(rows), 5, note=note)


def telemetry_table(run: Run) -> TextTable:
    """What the GPU did while each row was timed: clocks, heat, power, memory, energy, and what was disturbed.

    Rows that no GPU's sensors watched are left out: all they could say is how busy the host was.
    """
    watched = [record for record in run.records if record.telemetry is not None and record.telemetry.sm_clock_mhz]
    measured = _by_stage(run, watched)
    headings = ("SM MHz", "memory MHz", "deg C", "W", "used MB", "mJ a frame", "host busy", "disturbed", "throttled by")
    rows = tuple((*_key_cells(record.key), *_telemetry_cells(record)) for record in measured)
    note = (
        "Lowest to highest, one figure where they are the same. Energy is the whole board's, back to back. Disturbed: "
        "samples during which the SM clock fell by more than 5%, heat or the power supply throttled it, or another "
        "limit came or went; a power limit that lasts is the state that the row was measured in. Host busy: what "
        "other processes took of the host's processors."
    )
    return TextTable(
        "Telemetry", (*KEY_HEADINGS, *headings), rows, len(KEY_HEADINGS), _breaks(measured), note if rows else ""
    )


def absent_table(run: Run) -> TextTable:
    """What was skipped or failed, one line for each reason."""
    groups: dict[tuple[str, str], list[Case]] = {}
    for record in run.records:
        if record.status != "measured":
            groups.setdefault((record.status, record.reason or ""), []).append(record.key)
    rows = []
    for (status, reason), keys in sorted(groups.items()):
        rows.append((status, reason, _shorten(keys), str(len(keys))))
    return TextTable("Not measured, and why", ("", "reason", "what", "rows"), tuple(rows), 3)


def _shorten(keys: list[Case]) -> str:
    """Runners with their precisions, and the stages: what a reader needs to know of a group of keys."""
    runners: dict[str, list[str]] = {}
    for key in keys:
        runners.setdefault(key.runner, []).append(key.precision)
    what = "; ".join(f"{runner} {', '.join(dict.fromkeys(names))}" for runner, names in runners.items())
    return f"{what} ({', '.join(dict.fromkeys(key.stage for key in keys))})"


def _by_stage(run: Run, records: list[Record]) -> list[Record]:
    """Records with equal stages together, stages in the order they first appear in the run."""
    order = {stage: index for index, stage in enumerate(dict.fromkeys(record.key.stage for record in run.records))}
    return sorted(records, key=lambda record: order[record.key.stage])


def _breaks(records: list[Record]) -> frozenset[int]:
    return frozenset(
        index for index in range(1, len(records)) if records[index].key.stage != records[index - 1].key.stage
    )


def _key_cells(key: Case) -> tuple[str, ...]:
    return (key.stage, key.runner, key.precision, "-" if key.grid_sample == "none" else key.grid_sample, str(key.batch))


def _latency_cells(run: Run, record: Record) -> tuple[str, ...]:
    latency = record.latency
    assert latency is not None  # The caller selects records with a latency.
    mark = "" if latency.steady and not latency.disturbed else " *"
    pace = " +" if latency.launch_bound else ""
    return (
        milliseconds(latency.device_ms_median) + (mark + pace if latency.device_ms is not None else ""),
        "-" if latency.device_ms is None else _interval(latency.device_ms),
        milliseconds(latency.host_ms_median) + (mark if latency.device_ms is None else ""),
        _interval(latency.host_ms),
        _ratio(run, record),
        megabytes(record.resources.gpu_memory_mb if record.resources else None),
        megabytes(record.resources.engine_mb if record.resources else None),
    )


def _telemetry_cells(record: Record) -> tuple[str, ...]:
    seen, latency, used = record.telemetry, record.latency, record.resources
    assert seen is not None  # The caller selects records with telemetry.
    energy = used.energy_mj_per_frame if used else None
    disturbed = f"{len(latency.disturbed)} of {len(latency.judged_ms)}" if latency else "-"
    spreads = (seen.sm_clock_mhz, seen.memory_clock_mhz, seen.temperature_c, seen.power_w, seen.memory_used_mb)
    return (
        *map(_spread, spreads),
        "-" if energy is None else f"{energy:.4g}",
        "-" if seen.others_percent is None else f"{seen.others_percent:.0f}%",
        disturbed,
        ", ".join(seen.throttle_reasons) or "-",
    )


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    low, high = f"{spread[0]:.0f}", f"{spread[2]:.0f}"
    return low if low == high else f"{low} to {high}"


def _interval(samples: tuple[float, ...]) -> str:
    interval = stats.median_interval(samples)
    return f"{milliseconds(interval.low)} to {milliseconds(interval.high)}"


def _ratio(run: Run, record: Record) -> str:
    if reference_record(run, record.key) is record:
        return "reference"
    ratio = ratio_to_reference(run, record)
    if ratio is None:
        return "-"
    return f"{ratio:.2f}x faster" if ratio >= 1 else f"{1 / ratio:.2f}x slower"


def _drift_cells(drift: Drift) -> tuple[str, ...]:
    worst = str(drift.worst_frame)
    flicker = decibels(drift.flicker_min)
    if drift.has_non_finite:
        broken = f"NaN in {sum(drift.non_finite)} of {len(drift.non_finite)}"
        return (broken, "NaN", "NaN", str(drift.max_lsb_worst), worst, flicker)
    if all(value is None for value in drift.psnr_db):
        return ("identical", "identical", f"{drift.ssim_min:.4f}", str(drift.max_lsb_worst), "-", flicker)
    figures = (decibels(drift.psnr_min), decibels(drift.psnr_mean), f"{drift.ssim_min:.4f}", str(drift.max_lsb_worst))
    return (*figures, worst, flicker)
