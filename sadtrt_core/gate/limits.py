"""What the gate lets pass: limits for each metric, with overrides for a stage, runner or precision, read from TOML."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sadtrt_core.case import Case
from sadtrt_core.errors import UserError, shown
from sadtrt_core.files import read_toml
from sadtrt_core.renderer.stages import STAGES
from sadtrt_core.report.metrics import default_limits
from sadtrt_core.runners.registry import RUNNERS

OVERRIDE_SELECTORS = ("stage", "runner", "precision")
#: What is set for all rows alike.
GENERAL = ("false_alarm", "too_noisy_percent", "busy_percent")
#: Below this device time in ms a few microseconds are percents (bench/README.md).
SHORT_MS = 0.2
#: Below these device times in ms, runners that launch every kernel from the host have the host's times.
LAUNCH_BOUND_MS = {"pytorch": 20.0, "pytorch-channels-last": 20.0, "tensorrt-enqueue": 1.0}
#: How far a candidate may fall behind its baseline before a row is a regression, by key; None: not judged. Percentages
#: are of the baseline, drops in dB or SSIM, `lsb_rise` in grey levels. The keys and defaults are METRICS'.
Limits = Mapping[str, float | None]


@dataclass(frozen=True)
class Override:
    """Limits that differ where every given selector equals the row's; `limits` holds only those that differ.

    With `below_ms` it is only for rows whose baseline has a device time and its median is below so many ms.
    """

    stage: str | None
    runner: str | None
    precision: str | None
    limits: Mapping[str, float | None]
    below_ms: float | None = None

    def applies_to(self, key: Case, device_ms: float | None) -> bool:
        """Whether this override is for `key`, which took `device_ms` in the baseline."""
        if self.below_ms is not None and (device_ms is None or device_ms >= self.below_ms):
            return False
        return self.selects(key)

    def selects(self, key: Case) -> bool:
        """Whether the row's names are those that the override is for."""
        return all(getattr(self, name) in (None, getattr(key, name)) for name in OVERRIDE_SELECTORS)

    def __str__(self) -> str:
        chosen = ((name, getattr(self, name)) for name in OVERRIDE_SELECTORS)
        return ", ".join(f"{name} {value}" for name, value in chosen if value is not None) or "every row"


#: Limits of such rows are no lower than these, whatever is set for all rows; a project's own overrides come after.
#: Where the host has most of a call, its tails are what else it did: identical runs differ manyfold in how many calls
#: are slow (results/baselines/gate-experiment-h100).
_HOSTS_OWN = {"host_slowdown_percent": 25.0, "host_p99_slowdown_percent": None, "host_slow_samples_points": None}
DEFAULT_OVERRIDES = (
    *(Override(None, runner, None, _HOSTS_OWN, below_ms) for runner, below_ms in LAUNCH_BOUND_MS.items()),
    Override(None, None, None, {"slowdown_percent": 5.0, **_HOSTS_OWN}, SHORT_MS),
    # PyTorch's memory depends on what the rows before have left to its allocator and to cuDNN: two runs of one commit
    # differed by 25% (results/baselines/h200-trt8.6 and h200-trt8.6-stages).
    *(
        Override(None, name, None, {"memory_growth_percent": 30.0})
        for name in ("pytorch", "pytorch-channels-last", "pytorch-cuda-graph")
    ),
)


@dataclass(frozen=True)
class Thresholds:
    """All that the gate decides by.

    `false_alarm` is the probability, over all tests of tails of one comparison together, that equal samples are called
    unequal. A row whose baseline's own variation could hide a change of `too_noisy_percent` is not comparable.
    Host times are not judged where the process waited for a processor for more than `busy_percent` of either run.
    Very short rows, host times of rows that the host launches kernel by kernel, and PyTorch's memory have limits no
    lower than DEFAULT_OVERRIDES says, where the metric is judged at all, unless one of `overrides` says otherwise.
    """

    limits: Limits = field(default_factory=default_limits)
    overrides: tuple[Override, ...] = ()
    false_alarm: float = 0.01
    too_noisy_percent: float = 50.0
    busy_percent: float = 10.0

    def for_key(self, key: Case, device_ms: float | None = None) -> Limits:
        """The limits for one row, which took `device_ms` in the baseline; of several overrides the later wins."""
        limits = self.limits
        for override in DEFAULT_OVERRIDES:
            if override.applies_to(key, device_ms):
                limits = {**limits, **_no_lower(limits, override.limits)}
        for override in self.overrides:
            if override.applies_to(key, device_ms):
                limits = {**limits, **override.limits}
        return limits

    @classmethod
    def from_table(cls, table: Mapping[str, Any], where: str = "gate") -> Thresholds:
        """Thresholds from a parsed TOML table; see `read` for its form. UserError names what is wrong in it."""
        names = set(default_limits())
        general: dict[str, float] = {}
        limits: dict[str, float | None] = {}
        for name, value in table.items():
            if name in names:
                limits[name] = _limit(value, f"{where}.{name}")
            elif name in GENERAL:
                general[name] = _number(value, f"{where}.{name}")
            elif name != "override":
                known = ", ".join(sorted({*names, *GENERAL, "override"}))
                raise UserError(f"{where} has the unknown entry {shown(name)}; it knows {known}")
        if not 0 < general.get("false_alarm", 0.01) < 0.5:
            raise UserError(f"{where}.false_alarm must be a probability between 0 and 0.5")
        overrides = table.get("override", [])
        if not isinstance(overrides, list) or not all(isinstance(entry, dict) for entry in overrides):
            raise UserError(f"{where}.override should be a list of tables, written [[{where}.override]]")
        return cls(
            limits=default_limits() | limits,
            overrides=tuple(_override(entry, f"{where}.override[{i}]") for i, entry in enumerate(overrides)),
            **general,
        )

    @classmethod
    def read(cls, path: Path) -> Thresholds:
        """Thresholds from `[tool.sadtrt.gate]` of a pyproject.toml, or the table `[gate]` of any other TOML file.

        A pyproject.toml without that table gives the defaults. A limit that is `false` is not judged; `below_ms` beside
        the selectors is described at `Override`:

            [tool.sadtrt.gate]
            slowdown_percent = 3.0
            [[tool.sadtrt.gate.override]]
            stage = "decode"
            precision = "fp16"
            slowdown_percent = 5.0
            energy_growth_percent = false

        Raises UserError if the file cannot be read, is not TOML or has an entry that is not known.
        """
        path = Path(path)
        data = read_toml(path)
        names = ("tool", "sadtrt", "gate") if path.name == "pyproject.toml" else ("gate",)
        if names == ("gate",) and "gate" not in data:
            raise UserError(f"{path} should hold a table [gate] with the thresholds")
        table: Any = data
        for depth, name in enumerate(names, 1):
            # Beside [tool] there is much that is not ours; beside [gate], or [tool.sadtrt.gate], nothing is.
            if name == "gate" and (unknown := sorted(set(table) - {name})):
                raise UserError(f"{path} has the unknown table {shown(unknown[0])} where {'.'.join(names)} is expected")
            table = table.get(name, {})
            if not isinstance(table, dict):
                raise UserError(f"{'.'.join(names[:depth])} in {path} should be a table")
        return cls.from_table(table, ".".join(names))


def _no_lower(limits: Limits, least: Mapping[str, float | None]) -> dict[str, float | None]:
    """Those of `least`, where the limit there is is not above them; what either does not judge is not judged."""
    present = {name: (limits[name], value) for name, value in least.items()}
    return {name: None if old is None or new is None else max(old, new) for name, (old, new) in present.items()}


def _override(entry: Mapping[str, Any], where: str) -> Override:
    names = set(default_limits())
    if unknown := sorted(set(entry) - names - {*OVERRIDE_SELECTORS, "below_ms"}):
        raise UserError(f"{where} has the unknown entry {shown(unknown[0])}")
    selectors = {name: entry.get(name) for name in OVERRIDE_SELECTORS}
    if all(value is None for value in selectors.values()) and "below_ms" not in entry:
        raise UserError(f"{where} should say for which stage, runner or precision it is, or below_ms")
    for name, value in selectors.items():
        if value is not None and not isinstance(value, str):
            raise UserError(f"{where}.{name} should be a name in quotes but is {shown(value)}")
        # A precision may be a plan's, whose names nobody lists.
        known = {"stage": tuple(STAGES), "runner": tuple(RUNNERS)}.get(name)
        if value is not None and known is not None and value not in known:
            raise UserError(f"{where}.{name} {shown(value)} is not known: expected one of {', '.join(known)}")
    limits = {name: _limit(entry[name], f"{where}.{name}") for name in entry if name in names}
    below = _number(entry["below_ms"], f"{where}.below_ms") if "below_ms" in entry else None
    return Override(limits=limits, below_ms=below, **selectors)


def _limit(value: Any, where: str) -> float | None:
    return None if value is False else _number(value, where)


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= sys.float_info.max:
        raise UserError(f"{where} should be a number of at least 0, or false, but is {shown(value)}")
    return float(value)
