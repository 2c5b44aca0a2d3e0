"""METRICS: every figure that is made of a record, once: what it is called, how to get it, its limit, where it is shown.

summary.csv, the tables of terminal, HTML and Markdown, pytest-benchmark's `extra_info` and the gate read this table.
A new metric is a function of a record and one row; a record keeps raw samples, so few need anything else."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from typing import Any, Literal

from sadtrt_core import stats
from sadtrt_core.records.picture import mean_error_db, median_face_db, visible
from sadtrt_core.records.schema import Record, Run, energy_problem
from sadtrt_core.report.drift_cells import (
    capped_mean,
    encoded_cell,
    frame_in_face,
    largest,
    of_frames,
    picture,
    tile_cell,
    tile_place,
    worst_face,
)
from sadtrt_core.report.latency_cells import (
    best_cell,
    bound,
    device_cell,
    disturbed,
    disturbed_cell,
    energy_cell,
    host_cell,
    interval_cell,
    late,
    lowest_to_highest,
    megabytes_cell,
)
from sadtrt_core.report.ratios import as_shipped, best, best_name, ratio, ratio_words, strict
from sadtrt_core.report.text import decibels, milliseconds, plain

Value = float | int | bool | str | None
Part = Literal["latency", "drift", "resources", "telemetry", "sustained"]
Where = Literal["csv", "latency", "tails", "drift", "telemetry", "sustained"]
Clock = Literal["device_ms", "host_ms"]
#: What is made of a record and the others of its run.
OF_RUN = frozenset({"ratio_to_pytorch_fp32", "ratio_to_pytorch_default", "ratio_to_best_pytorch", "best_pytorch"})


@dataclass(frozen=True)
class Limit:
    """How the gate judges a metric: `key` in [tool.sadtrt.gate] and its default there (None: not judged).

    The change is held against the limit, in percent of the baseline or as a plain difference, and growth below `slack`
    (in the metric's unit) is never reported. `reason` is the code and `verdict` the word of a finding that is worse,
    `name` the metric's name in findings where that is another. `capped` names a limit that both values are cut to
    before they are compared; `value` gets the judged value under the limits where it is not the metric's own. `doubt`
    says why a record's figure can judge nothing, None where it can.
    """

    key: str
    default: float | None
    reason: str
    verdict: Literal["worse picture", "heavier", "slower"] = "worse picture"
    percent: bool = False
    slack: float = 0.0
    name: str | None = None
    capped: str | None = None
    value: Callable[[Record, Any], float] | None = None
    doubt: Callable[[Record], str | None] | None = None


@dataclass(frozen=True)
class Metric:
    """One figure of a record.

    `name` is its column in summary.csv, its key in `extra_info` and its name in the gate; `heading` and `unit` stand
    over its column in tables. `value` is given the record, and its run where one is at hand. `cell` writes it for
    people, four digits where none is given. `better` says which way is better, None for what is neither.
    `limit` is how the gate judges it by itself: times have a rule of their own (gate/latency.py) and name their limits
    in `limits`.
    """

    name: str
    part: Part
    value: Callable[[Record, Run | None], Value]
    heading: str = ""
    unit: str = ""
    better: Literal["lower", "higher"] | None = None
    shown: tuple[Where, ...] = ("csv",)
    cell: Callable[[Record, Run | None], str] | None = None
    limit: Limit | None = None
    limits: tuple[tuple[str, float | None], ...] = ()

    def text(self, record: Record, run: Run | None) -> str:
        """The figure for people, a dash where there is none."""
        if self.cell is not None:
            return self.cell(record, run)
        value = self.value(record, run)
        if value is None or isinstance(value, (str, bool)):
            return "-" if value is None else str(value)
        return plain(value)

    @property
    def title(self) -> str:
        """Heading and unit, for the head of a column."""
        return f"{self.heading} {self.unit}".strip() or self.name


def _of(part: Part, value: Callable[[Any], Value]) -> Callable[[Record, Run | None], Value]:
    """`value` of one part of a record, None where the record has none."""
    return lambda record, run: None if getattr(record, part) is None else value(getattr(record, part))


def _field(part: Part, name: str) -> Callable[[Record, Run | None], Value]:
    return _of(part, attrgetter(name))


def _middle(part: Part, name: str) -> Callable[[Record, Run | None], Value]:
    """The median of a spread."""
    return _of(part, lambda one: None if getattr(one, name) is None else getattr(one, name)[1])


def _tail(clock: Clock, limits: tuple[tuple[str, float | None], ...]) -> tuple[Metric, ...]:
    """The metrics of a clock's tail: 90th and 99th percentile in ms, and how many percent of the samples are slow."""

    def of_times(value: Callable[[tuple[float, ...]], float]) -> Callable[[Record, Run | None], Any]:
        return _of("latency", lambda one: None if getattr(one, clock) is None else value(getattr(one, clock)))

    def cell(value: Callable[[Record, Run | None], Any]) -> Callable[[Record, Run | None], str]:
        return lambda record, run: milliseconds(value(record, run))

    heading = clock.removesuffix("_ms")
    slow = of_times(lambda times: 100 * stats.slow_share(times, stats.median(times)))
    shown: tuple[Where, ...] = ("csv", "tails")
    p90, p99 = (of_times(partial(stats.percentile, percent=percent)) for percent in (90, 99))
    return (
        Metric(f"{clock}_p90", "latency", p90, f"{heading} p90", "ms", "lower", shown, cell(p90)),
        Metric(f"{clock}_p99", "latency", p99, f"{heading} p99", "ms", "lower", shown, cell(p99), limits=limits),
        Metric(f"{clock}_slow", "latency", slow, f"{heading} slow", "%", "lower", shown),
    )


def _growth(key: str, default: float, reason: str, slack: float = 0.0) -> Limit:
    return Limit(key, default, reason, "heavier", percent=True, slack=slack)


# fmt: off
_ROWS = (
    Metric("device_ms_median", "latency", _field("latency", "device_ms_median"), "device", "ms", "lower",
           ("csv", "latency"), device_cell, limits=(("slowdown_percent", 3.5),)),
    Metric("device_ms_ci_low", "latency", bound("device_ms", "low"), "95% interval (n)",
           shown=("csv", "latency"), cell=interval_cell("device_ms")),
    Metric("device_ms_ci_high", "latency", bound("device_ms", "high")),
    Metric("host_ms_median", "latency", _field("latency", "host_ms_median"), "host", "ms", "lower",
           ("csv", "latency"), host_cell, limits=(("host_slowdown_percent", 10.0), ("cpu_slowdown_percent", 20.0))),
    Metric("host_ms_ci_low", "latency", bound("host_ms", "low"), "95% interval (n)",
           shown=("csv", "latency"), cell=interval_cell("host_ms")),
    Metric("host_ms_ci_high", "latency", bound("host_ms", "high")),
    Metric("ratio_to_pytorch_fp32", "latency", partial(ratio, choice=strict), "vs PyTorch fp32", better="higher",
           shown=("csv", "latency"), cell=partial(ratio_words, choice=strict)),
    Metric("ratio_to_pytorch_default", "latency", partial(ratio, choice=as_shipped), "vs PyTorch as shipped",
           better="higher", shown=("csv", "latency"), cell=partial(ratio_words, choice=as_shipped)),
    Metric("ratio_to_best_pytorch", "latency", partial(ratio, choice=best),
           "vs best PyTorch of no worse picture", better="higher", shown=("csv", "latency"), cell=best_cell),
    Metric("best_pytorch", "latency", best_name),
    Metric("repetitions", "latency", _of("latency", lambda one: len(one.repetitions()))),
    *_tail("device_ms", (("p99_slowdown_percent", 20.0), ("slow_samples_points", 0.5))),
    *_tail("host_ms", (("host_p99_slowdown_percent", 50.0), ("host_slow_samples_points", 0.5))),
    Metric("samples", "latency", _of("latency", lambda one: len(one.judged_ms))),
    Metric("steady", "latency", _field("latency", "steady")),
    Metric("late", "latency", late),
    Metric("psnr_min", "drift", _field("drift", "psnr_min"), "PSNR min", "dB", "higher", ("csv", "drift"),
           picture(lambda one: decibels(one.psnr_min), "identical", "NaN in {count} of {frames}"),
           Limit("psnr_min_drop_db", 0.5, "psnr_min_drop", capped="psnr_enough_db"), (("psnr_enough_db", 90.0),)),
    Metric("psnr_mean", "drift", _field("drift", "psnr_mean"), "PSNR mean", "dB", "higher", ("csv", "drift"),
           picture(lambda one: decibels(one.psnr_mean), "identical", "NaN"),
           Limit("psnr_mean_drop_db", 0.3, "psnr_mean_drop", value=capped_mean)),
    Metric("ssim_min", "drift", _field("drift", "ssim_min"), "SSIM min", "", "higher", ("csv", "drift"),
           picture(lambda one: f"{one.ssim_min:.4f}", None, "NaN"), Limit("ssim_drop", 0.001, "ssim_drop")),
    Metric("max_lsb", "drift", _field("drift", "max_lsb_worst"), "max", "LSB", "lower", ("csv", "drift"),
           picture(lambda one: str(one.max_lsb_worst), None, None), Limit("lsb_rise", 0.0, "lsb_rise")),
    Metric("worst_frame", "drift", _field("drift", "worst_frame"), "worst frame", shown=("csv", "drift"),
           cell=picture(frame_in_face, "-", None)),
    Metric("flicker_min", "drift", _field("drift", "flicker_min"), "flicker", "dB", "higher",
           ("csv", "drift"), picture(lambda one: decibels(one.flicker_min), None, None),
           Limit("flicker_drop_db", 0.5, "flicker_drop", name="flicker_db", capped="psnr_enough_db")),
    Metric("mean_error_db", "drift", _of("drift", of_frames("psnr_db", mean_error_db)), "mean error", "dB", "higher"),
    Metric("psnr_unclipped_min", "drift", _of("drift", of_frames("unclipped_db", min)), better="higher"),
    Metric("tile_min", "drift", _of("drift", of_frames("tile_db", min)), "worst tile dB (frame: x, y)", "", "higher",
           ("csv", "drift"), picture(tile_cell, "identical", "NaN"),
           Limit("tile_drop_db", 1.0, "tile_drop", capped="psnr_enough_db")),
    Metric("tile_place", "drift", _of("drift", tile_place)),
    Metric("face_min", "drift", _of("drift", of_frames("face_db", min)), "face", "dB", "higher", ("csv", "drift"),
           picture(lambda one: decibels(of_frames("face_db", min)(one)), "identical", "NaN")),
    Metric("flip", "drift", _of("drift", largest("flip")), better="lower"),
    Metric("flip_most", "drift", _of("drift", largest("flip_most")), "FLIP", "", "lower", ("csv", "drift"),
           limit=Limit("flip_rise", 0.02, "flip_rise")),
    Metric("encoded_db", "drift", _of("drift", of_frames("encoded_db", mean_error_db)), "after H.264", "dB", "higher",
           ("csv", "drift"), picture(encoded_cell, None, "NaN")),
    Metric("codec_db", "drift", _of("drift", of_frames("codec_db", mean_error_db))),
    Metric("visible", "drift", _of("drift", visible), "visible", shown=("csv", "drift")),
    Metric("worst_face", "drift", _of("drift", worst_face), "worst face", shown=("csv", "drift")),
    Metric("median_face_db", "drift", _of("drift", median_face_db), "median face", "dB", "higher", ("csv", "drift"),
           cell=lambda record, run: decibels(None if record.drift is None else median_face_db(record.drift))),
    Metric("non_finite_frames", "drift", _of("drift", lambda one: sum(one.non_finite)), better="lower"),
    Metric("drift_meaningful", "drift", _field("drift", "meaningful")),
    Metric("drift_reference", "drift", _field("drift", "reference")),
    Metric("sm_clock_mhz", "telemetry", _middle("telemetry", "sm_clock_mhz"), "SM", "MHz",
           shown=("csv", "telemetry"), cell=lowest_to_highest("sm_clock_mhz")),
    Metric("memory_clock_mhz", "telemetry", _middle("telemetry", "memory_clock_mhz"), "memory",
           "MHz", shown=("telemetry",), cell=lowest_to_highest("memory_clock_mhz")),
    Metric("temperature_c", "telemetry", _middle("telemetry", "temperature_c"), "", "deg C",
           shown=("csv", "telemetry"), cell=lowest_to_highest("temperature_c")),
    Metric("power_w", "telemetry", _middle("telemetry", "power_w"), "", "W",
           shown=("csv", "telemetry"), cell=lowest_to_highest("power_w")),
    Metric("memory_used_mb", "telemetry", _middle("telemetry", "memory_used_mb"), "used", "MB",
           shown=("telemetry",), cell=lowest_to_highest("memory_used_mb")),
    Metric("engine_mb", "resources", _field("resources", "engine_mb"), "engine", "MB", "lower",
           ("csv", "latency"), megabytes_cell("engine_mb"),
           _growth("engine_growth_percent", 5.0, "engine_growth", 0.5)),
    # A few percent of a small figure are an allocator's granularity: hence the slack.
    Metric("gpu_memory_mb", "resources", _field("resources", "gpu_memory_mb"), "GPU", "MB", "lower",
           ("csv", "latency"), megabytes_cell("gpu_memory_mb"),
           _growth("memory_growth_percent", 10.0, "memory_growth", 32.0)),
    Metric("energy_mj_per_frame", "resources", _field("resources", "energy_mj_per_frame"), "", "mJ a frame",
           "lower", ("csv", "sustained"), energy_cell,
           replace(_growth("energy_growth_percent", 20.0, "energy_growth"), doubt=energy_problem)),
    Metric("energy_problem", "sustained", lambda record, run: energy_problem(record)),
    Metric("sustained_ms_per_frame", "sustained", _field("sustained", "ms_per_frame"), "", "ms a frame",
           "lower", ("csv", "sustained")),
    Metric("frames_per_second", "sustained", _field("sustained", "frames_per_second"), "", "frames/s",
           "higher", ("csv", "sustained")),
    Metric("sustained_power_w", "sustained", _field("sustained", "power_w"), "mean", "W", shown=("csv", "sustained")),
    Metric("power_limit_w", "sustained", _field("sustained", "power_limit_w"), "limit", "W",
           shown=("csv", "sustained")),
    Metric("sustained_sm_clock_mhz", "sustained", _middle("sustained", "sm_clock_mhz"), "SM", "MHz",
           shown=("csv", "sustained"), cell=lowest_to_highest("sm_clock_mhz", "sustained")),
    Metric("load_s", "resources", _field("resources", "load_s"), "load", "s", "lower", ("csv", "sustained")),
    Metric("first_call_ms", "resources", _field("resources", "first_call_ms"), "first call", "ms", "lower",
           ("csv", "sustained")),
    Metric("others_percent", "telemetry", _field("telemetry", "others_percent"), "host busy",
           shown=("telemetry",), cell=lambda record, run: "-" if record.telemetry is None
           or record.telemetry.others_percent is None else f"{record.telemetry.others_percent:.0f}%"),
    Metric("disturbed", "latency", disturbed, "disturbed", shown=("csv", "telemetry"), cell=disturbed_cell),
    Metric("throttle_reasons", "telemetry", _of("telemetry", lambda one: " ".join(one.throttle_reasons) or None),
           "throttled by", shown=("csv", "telemetry"),
           cell=lambda record, run: ", ".join(record.telemetry.throttle_reasons if record.telemetry else ()) or "-"),
)
# fmt: on
METRICS: dict[str, Metric] = {metric.name: metric for metric in _ROWS}


#: The columns that readers of summary.csv and of the latency table know, in their order; others come after.
CSV_ORDER = (
    *("device_ms_median", "host_ms_median", "gpu_memory_mb", "engine_mb"),
    *("psnr_min", "psnr_mean", "ssim_min", "max_lsb", "ratio_to_pytorch_fp32"),
    *("device_ms_ci_low", "device_ms_ci_high", "host_ms_ci_low", "host_ms_ci_high"),
    *("samples", "steady", "disturbed", "late", "worst_frame", "non_finite_frames", "flicker_min"),
    *("drift_meaningful", "drift_reference", "energy_mj_per_frame"),
    *("sm_clock_mhz", "temperature_c", "power_w", "throttle_reasons"),
)
_LATENCY_ORDER = (
    *("device_ms_median", "device_ms_ci_low", "host_ms_median", "host_ms_ci_low"),
    *("ratio_to_best_pytorch", "ratio_to_pytorch_default", "ratio_to_pytorch_fp32", "gpu_memory_mb", "engine_mb"),
)
_SUSTAINED_ORDER = (
    *("load_s", "first_call_ms", "frames_per_second", "sustained_ms_per_frame"),
    *("sustained_power_w", "power_limit_w", "sustained_sm_clock_mhz", "energy_mj_per_frame"),
)


def columns(where: Where) -> tuple[Metric, ...]:
    """The metrics that are shown somewhere, in the order of its columns."""
    first = {"csv": CSV_ORDER, "latency": _LATENCY_ORDER, "sustained": _SUSTAINED_ORDER}.get(where, ())
    shown = [metric for metric in METRICS.values() if where in metric.shown]
    return tuple(sorted(shown, key=lambda one: first.index(one.name) if one.name in first else len(first)))


def default_limits() -> dict[str, float | None]:
    """Every limit that the gate knows, by its key in [tool.sadtrt.gate], with its default."""
    found: dict[str, float | None] = {}
    for metric in METRICS.values():
        found |= dict(metric.limits)
        if metric.limit is not None:
            found[metric.limit.key] = metric.limit.default
    return found


def extra_info(record: Record) -> dict[str, Value]:
    """The metrics of what a record holds, for pytest-benchmark's JSON: None where there is no finite figure."""
    values = {
        metric.name: metric.value(record, None)
        for metric in METRICS.values()
        if getattr(record, metric.part) is not None and metric.name not in OF_RUN
    }
    return {name: None if isinstance(one, float) and not math.isfinite(one) else one for name, one in values.items()}
