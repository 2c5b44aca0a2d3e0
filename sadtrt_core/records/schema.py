"""What one run records: plain frozen values, checked when made, with raw samples and no derived figure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sadtrt_core.case import Case
from sadtrt_core.codec import JsonValue
from sadtrt_core.records.measurements import Drift, Latency, Resources, Sustained, Telemetry
from sadtrt_core.renderer.renderer import Weights

SCHEMA_VERSION = 1

Status = Literal["measured", "skipped", "failed"]
TensorRTFlavour = Literal["tensorrt", "tensorrt_rtx"]


@dataclass(frozen=True)
class Record(JsonValue):
    """Everything one run knows about one key.

    A skipped or failed record says why; a failed one may keep what had been measured before it failed.
    `benchmark_version` is raised when the benchmark itself changes, which makes older baselines not comparable.
    """

    key: Case
    status: Status
    reason: str | None = None
    latency: Latency | None = None
    drift: Drift | None = None
    resources: Resources | None = None
    telemetry: Telemetry | None = None
    notes: tuple[str, ...] = ()
    benchmark_version: int = 1
    sustained: Sustained | None = None
    #: Digest of the ranges that int8 and fp8 were calibrated with; None elsewhere, and in older records.
    calibration: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "notes", tuple(self.notes))
        if self.status == "measured" and self.latency is None and self.drift is None:
            raise ValueError(f"{self.key.label()} is called measured but holds neither latency nor drift")
        if self.status != "measured" and not (self.reason or "").strip():
            raise ValueError(f"{self.key.label()} is {self.status} but gives no reason")
        if self.status == "skipped" and (self.latency or self.drift):
            raise ValueError(f"{self.key.label()} is called skipped but holds a measurement")


#: How far energy may lie from power times time, and power above the board's limit: two sensors, sampled differently.
ENERGY_TOLERANCE = 0.1


def energy_problem(record: Record) -> str | None:
    """What is wrong with a record's energy: it is not the mean power times the time a frame of its own window, or that
    power is more than the board may draw. None where all agrees, and where no window was recorded.
    """
    energy = None if record.resources is None else record.resources.energy_mj_per_frame
    window = record.sustained
    if energy is None or window is None or window.power_w is None:
        return None
    expected = window.power_w * window.ms_per_frame
    if abs(energy - expected) > ENERGY_TOLERANCE * expected:
        return (
            f"{energy:.4g} mJ a frame, but {window.power_w:.0f} W for {window.ms_per_frame:.4g} ms are {expected:.4g}"
        )
    if window.power_limit_w is not None and window.power_w > window.power_limit_w * (1 + ENERGY_TOLERANCE):
        return f"{window.power_w:.0f} W on a board that may draw {window.power_limit_w:.0f} W"
    return None


@dataclass(frozen=True)
class Environment(JsonValue):
    """Where a run happened; None for what that machine has not. `tensorrt` is its version, such as "8.6.0"."""

    gpu: str | None
    compute_capability: str | None
    driver: str | None
    cuda: str | None
    tensorrt: str | None
    tensorrt_flavour: TensorRTFlavour | None
    torch: str | None
    onnxruntime: str | None
    python: str
    cpu: str
    cpu_count: int
    platform: str
    sadtrt_version: str
    commit: str | None
    dirty: bool


@dataclass(frozen=True)
class Workload(JsonValue):
    """What was rendered: its name, number of frames, side of the square picture in pixels, digest of the inputs."""

    name: str
    frames: int
    size: int
    digest: str

    def __post_init__(self) -> None:
        if self.frames < 1 or self.size < 1:
            raise ValueError(f"a workload has at least one frame and pixel but got {self.frames} and {self.size}")


@dataclass(frozen=True)
class Run(JsonValue):
    """One run; `complete` is False until it finished, also in a run that was interrupted.

    `order_seed` is what the order of the rows was drawn with, None where they were not shuffled.
    """

    schema_version: int
    started_utc: str
    finished_utc: str | None
    complete: bool
    environment: Environment
    weights: Weights
    workload: Workload
    options: dict[str, str]
    records: tuple[Record, ...]
    order_seed: int | None = None

    def __post_init__(self) -> None:
        if self.schema_version != SCHEMA_VERSION:
            raise ValueError(
                f"schema version is {self.schema_version} but this sadtrt reads and writes version {SCHEMA_VERSION}"
            )
        for name in ("started_utc", "finished_utc"):
            _check_time(name, getattr(self, name))
        if self.complete and self.finished_utc is None:
            raise ValueError("a complete run must say when it finished")
        seen: set[Case] = set()
        for record in self.records:
            if record.key in seen:
                raise ValueError(f"a run holds each key once but {record.key.label()} twice")
            seen.add(record.key)
            if self.weights.kind == "seeded" and record.drift is not None and record.drift.meaningful:
                raise ValueError(f"drift of {record.key.label()} under seeded weights must be marked as not meaningful")


def _check_time(name: str, text: str | None) -> None:
    if text is None:
        return
    try:
        datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ")
    except ValueError as error:
        raise ValueError(f"{name} must be a UTC time like 2025-01-31T12:00:00Z but is {text!r}") from error
