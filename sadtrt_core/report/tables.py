"""The tables of a report as plain text cells, for the terminal, HTML and Markdown alike, and as summary.csv."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from sadtrt_core.case import Case
from sadtrt_core.precision import PRECISIONS
from sadtrt_core.records.picture import CODEC_LOSS_DB, NOTICEABLE_FLIP, visible
from sadtrt_core.records.schema import Record, Run
from sadtrt_core.renderer.stages import GENERATOR_PARTS, SOURCE_AND_FRAME, STAGES
from sadtrt_core.report.metrics import CSV_ORDER, Value, Where, columns
from sadtrt_core.report.ratios import NO_WORSE_DB
from sadtrt_core.report.text import milliseconds
from sadtrt_core.runners.registry import RUNNERS
from sadtrt_core.stats import SLOW_FACTOR

CASE_HEADINGS = ("stage", "runner", "precision", "grid", "batch")


@dataclass(frozen=True)
class TextTable:
    """Headings and cells; the first `words` columns are words, the rest figures; a group starts at each of `breaks`.

    `values` are what cells are sorted by where their text would sort otherwise, row by row, None for no figure.
    """

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int
    breaks: frozenset[int] = frozenset()
    note: str = ""
    values: tuple[tuple[Value, ...], ...] = ()

    def shown(self) -> TextTable:
        """The table without the columns that are empty in every row."""
        columns = range(len(self.headings))
        kept = [index for index in columns if any(row[index] not in ("-", "") for row in self.rows)]
        return replace(
            self,
            headings=tuple(self.headings[index] for index in kept),
            rows=tuple(tuple(row[index] for index in kept) for row in self.rows),
            words=sum(index < self.words for index in kept),
            values=tuple(tuple(row[index] for index in kept) for row in self.values),
        )


def breaks_of(keys: Sequence[object]) -> frozenset[int]:
    """Where a new group begins: the rows whose key is another than the row's before."""
    return frozenset(index for index in range(1, len(keys)) if keys[index] != keys[index - 1])


def report_tables(run: Run) -> tuple[TextTable, ...]:
    """The tables that have rows: latency, its tails, drift, sum of parts, back to back, telemetry, what was not run."""
    made = (latency_table, tails_table, drift_table, parts_table, sustained_table, telemetry_table, absent_table)
    return tuple(table for table in (make(run) for make in made) if table.rows)


def latency_table(run: Run) -> TextTable:
    """Median times with their 95% intervals and the ratios to PyTorch, stage by stage."""
    note = (
        "Medians of one call; n: repetitions, or segments of a single one, that an interval rests on. Best PyTorch: "
        "its fastest row of the same stage and batch whose worst frame's PSNR is not lower by more than "
        f"{NO_WORSE_DB:g} dB, else fp32. * not steady, or some samples disturbed by clock drops or throttling. + most "
        "device times include waiting for the host."
    )
    return _metric_table("Latency", run, "latency", [one for one in run.records if one.latency is not None], note)


def tails_table(run: Run) -> TextTable:
    """What the slowest calls took, for every record with times."""
    note = (
        f"p90 and p99: what 90 and 99% of the calls did not exceed. Slow: more than {SLOW_FACTOR:g} times the median."
    )
    return _metric_table("Tails", run, "tails", [one for one in run.records if one.latency is not None], note)


def drift_table(run: Run) -> TextTable:
    """What the picture loses, for every record with frames."""
    measured = [record for record in run.records if record.drift is not None]
    references = sorted({record.drift.reference for record in measured if record.drift})
    note = f"Against {', '.join(references)}; PSNR at peak 1.0, a frame counts at most 120 dB." if references else ""
    if any(record.drift and visible(record.drift) for record in measured):
        note += (
            " FLIP: the largest pixel. After H.264: the frames encoded, of the reference encoded. Visible: no where "
            f"FLIP stays below {NOTICEABLE_FLIP:g}; not after encoding where of every frame in which it does not H.264 "
            f"leaves the worst tile within {CODEC_LOSS_DB:g} dB of the reference's; else yes."
        )
    if any(record.drift and not record.drift.meaningful for record in measured):
        note += " Under seeded weights these figures say nothing about a trained renderer."
    return _metric_table("Drift", run, "drift", measured, note)


def in_order(records: Sequence[Record]) -> list[Record]:
    """The records by stage, runner and precision as their tables have them, and batch, however a run shuffled them.

    Names that are in no table come after those that are.
    """

    def place(record: Record) -> tuple[list[tuple[int, str]], int]:
        key = record.key
        words = ((key.stage, list(STAGES)), (key.runner, list(RUNNERS)), (key.precision, list(PRECISIONS)))
        return [(table.index(word) if word in table else len(table), word) for word, table in words], key.batch

    return sorted(records, key=place)


def _metric_table(title: str, run: Run, where: Where, records: list[Record], note: str) -> TextTable:
    """A row a record, a column a metric that is shown there, in the order of `in_order`."""
    records = in_order(records)
    # What came later than the table has a column where a record has it, so that older runs read as they did.
    shown = tuple(
        metric
        for metric in columns(where)
        if metric.name in CSV_ORDER
        or "csv" not in metric.shown
        or any(metric.value(one, run) is not None for one in records)
    )
    rows = tuple((*record.key.cells, *(metric.text(record, run) for metric in shown)) for record in records)
    breaks = breaks_of([record.key.stage for record in records])
    headings = (*CASE_HEADINGS, *(metric.title for metric in shown))
    values = tuple((*record.key.cells, *(metric.value(record, run) for metric in shown)) for record in records)
    return TextTable(title, headings, rows, len(CASE_HEADINGS), breaks, note, values)


def parts_table(run: Run) -> TextTable:
    """The sum of the parts against the generator: of appearance and frame, or where that was not measured of all."""
    rows = []
    entries = parts_against_whole(run)
    for entry in entries:
        times = (milliseconds(entry.parts_ms), milliseconds(entry.whole_ms))
        difference = f"{100 * entry.difference:+.1f}% {'agrees' if entry.agrees else 'does not add up'}"
        rows.append((*entry.whole.key.cells[1:], entry.clock, *times, difference))
    headings = (*CASE_HEADINGS[1:], "clock", "sum of parts ms", "generator ms", "difference")
    *first, last = entries[0].parts if entries else SOURCE_AND_FRAME
    note = f"{', '.join(first).capitalize()} and {last}; within {100 * TOLERANCE:.0f}% is called agreement."
    return TextTable("Sum of parts against the whole", headings, tuple(rows), 5, note=note)


def sustained_table(run: Run) -> TextTable:
    """A cold start, and calls without a pause: rate, power against the board's limit, clock, energy of that stretch."""
    shown = columns("sustained")
    rows = [record for record in run.records if any(metric.value(record, run) is not None for metric in shown)]
    note = "Load and first call are of a process that is running already."
    if any(record.resources and record.resources.energy_mj_per_frame is not None for record in rows):
        note += (
            " All else is of calls back to back, another time than the latency's: energy a frame is this stretch's "
            "mean power times its time a frame. ! they differ by more than a tenth, or the power is over the board's "
            "limit."
        )
    return _metric_table("Cold start, and back to back", run, "sustained", rows, note if rows else "")


def telemetry_table(run: Run) -> TextTable:
    """What the GPU did while each row was timed: clocks, heat, power, memory, and what was disturbed.

    Rows that no GPU's sensors watched are left out: all they could say is how busy the host was.
    """
    watched = [record for record in run.records if record.telemetry is not None and record.telemetry.sm_clock_mhz]
    note = (
        "Lowest to highest, one figure where they are the same. Disturbed: "
        "samples during which the SM clock fell by more than 5%, heat or the power supply throttled it, or another "
        "limit came or went; a power limit that lasts is the state that the row was measured in. Host busy: what "
        "other processes took of the host's processors."
    )
    return _metric_table("Telemetry", run, "telemetry", watched, note if watched else "")


def absent_table(run: Run) -> TextTable:
    """What was skipped or failed, one line for each reason."""
    groups: dict[tuple[str, str], list[Case]] = {}
    for record in in_order(run.records):
        if record.status != "measured":
            groups.setdefault((record.status, record.reason or ""), []).append(record.key)
    rows = tuple((*why, _shorten(keys), str(len(keys))) for why, keys in sorted(groups.items()))
    return TextTable("Not measured, and why", ("", "reason", "what", "rows"), rows, 3)


def _shorten(keys: list[Case]) -> str:
    """Runners with their precisions, and the stages: what a reader needs to know of a group of keys."""
    runners: dict[str, list[str]] = {}
    for key in keys:
        runners.setdefault(key.runner, []).append(key.precision)
    what = "; ".join(f"{runner} {', '.join(dict.fromkeys(names))}" for runner, names in runners.items())
    return f"{what} ({', '.join(dict.fromkeys(key.stage for key in keys))})"


WHOLE = "generator"
TOLERANCE = 0.10
"""How far the sum may lie from the whole, as a fraction, before the report points at it.

The parts run with a pause between them and write what the whole may fuse away, so they need not agree exactly.
"""


@dataclass(frozen=True)
class PartsSum:
    """Medians in ms of a generator and of its parts' sum, both on one clock, "device" or "host"."""

    whole: Record
    parts: tuple[str, ...]
    clock: str
    parts_ms: float
    whole_ms: float

    @property
    def difference(self) -> float:
        """The sum over the whole, minus one: 0.05 where the parts take 5% longer together."""
        return self.parts_ms / self.whole_ms - 1

    @property
    def agrees(self) -> bool:
        """Whether the difference is within TOLERANCE."""
        return abs(self.difference) <= TOLERANCE


def parts_against_whole(run: Run) -> tuple[PartsSum, ...]:
    """One entry for each measured generator whose parts were measured the same way: appearance and frame, or, in a run
    that has no such pair, all four.

    A part counts with the whole's own grid sample, or with any other where it has just one.
    """
    return _sums(run, SOURCE_AND_FRAME) or _sums(run, GENERATOR_PARTS)


def _sums(run: Run, names: tuple[str, ...]) -> tuple[PartsSum, ...]:
    sums = []
    timed = [one for one in in_order(run.records) if one.status == "measured" and one.latency is not None]
    for whole in (one for one in timed if one.key.stage == WHOLE):
        parts = [whole, *(_part(timed, whole, stage) for stage in names)]
        everything = [part.latency for part in parts if part is not None and part.latency is not None]
        if len(everything) < len(parts):
            continue
        clock = "device" if all(latency.device_ms is not None for latency in everything) else "host"
        whole_ms, *times = (getattr(latency, f"{clock}_ms_median") for latency in everything)
        if whole_ms > 0:
            sums.append(PartsSum(whole, names, clock, sum(times), whole_ms))
    return tuple(sums)


def _part(timed: Sequence[Record], whole: Record, stage: str) -> Record | None:
    wanted = replace(whole.key, stage=stage)
    alike = [one for one in timed if replace(one.key, grid_sample=wanted.grid_sample) == wanted]
    exact = [one for one in alike if one.key == wanted]
    return exact[0] if exact else alike[0] if len(alike) == 1 else None


# fmt: off
LEADING_COLUMNS = (
    "stage", "runner", "precision", "grid_sample", "batch", "device_ms_median", "host_ms_median",
    "gpu_memory_mb", "engine_mb", "psnr_min", "psnr_mean", "ssim_min", "max_lsb", "weights", "size",
    "gpu", "tensorrt", "torch",
    "status", "reason",
)
LAST_COLUMNS = ("notes", "benchmark_version", "onnxruntime", "driver", "commit")
# fmt: on


def summary_rows(run: Run) -> pd.DataFrame:
    """A row for every record, in the order of `in_order`; NaN where a figure was not measured.

    Times are in ms with 95% intervals of the median, sizes in MB, PSNR in dB (a frame counts at most 120), energy in
    mJ, clocks in MHz, temperature in deg C, power in W (medians). The ratios are how many times faster than PyTorch at
    the same stage and batch (ratios.py). A metric that came later stands behind all others.
    """
    where = run.environment
    facts = {
        "weights": f"{run.weights.kind}:{run.weights.name}",
        "size": run.workload.size,
        **{name: getattr(where, name) for name in ("gpu", "tensorrt", "torch", "onnxruntime", "driver", "commit")},
    }
    rows = []
    for record in in_order(run.records):
        own = {name: getattr(record, name) for name in ("status", "reason", "benchmark_version")}
        figures = {metric.name: metric.value(record, run) for metric in columns("csv")}
        rows.append(record.key.to_json() | facts | own | figures | {"notes": "; ".join(record.notes) or None})
    names = [metric.name for metric in columns("csv")]
    known = [name for name in names if name in CSV_ORDER and name not in LEADING_COLUMNS]
    later = [name for name in names if name not in CSV_ORDER]
    table = pd.DataFrame(rows, columns=[*LEADING_COLUMNS, *known, *LAST_COLUMNS, *later])
    # Int64 has a missing value of its own, so that counts do not become 3.0 where some rows have none.
    counts = [name for name in names if all(_is_count(row[name]) for row in rows)]
    return table.astype(dict.fromkeys(counts, "Int64"))


def _is_count(value: object) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool))


def summary_csv(run: Run) -> str:
    """`summary_rows` as CSV text, NaN and None as empty cells."""
    return summary_rows(run).to_csv(index=False, na_rep="", lineterminator="\n")
