"""Watches a GPU's sensors from a thread while something is measured, and tells which samples they disturbed."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import numpy as np
from typing_extensions import Self

from sadtrt_core.errors import Unavailable
from sadtrt_core.measure.host_load import HostLoad
from sadtrt_core.measure.sensors import EMERGENCY_REASONS, Reading, Sensors
from sadtrt_core.records.measurements import Spread, Telemetry

CLOCK_DROP = 0.05
"""A reading this fraction below the steady SM clock disturbs the samples around it."""
STEADY_PERCENTILE = 90
"""The steady clock is this percentile of the readings, so that a clock that is down most of the time still shows."""
PERIOD_S = 0.02
SPREADS = ("sm_clock_mhz", "memory_clock_mhz", "temperature_c", "power_w", "memory_used_mb")
"""What is recorded of the readings with minimum, median and maximum."""

Window = tuple[float, float]
"""Begin and end of a sample in seconds of `time.perf_counter`."""


TimedReading = tuple[float, float, Reading]
"""Begin and end of a query of the sensors, which takes time, in the same seconds, and what it read."""


class TelemetrySampler:
    """A context manager that reads the sensors every `period_s` seconds from entry to exit.

    It may be entered again, for another repetition of the same case: what is disturbed is judged by the readings of
    all repetitions.

    Where there are none it does nothing: `telemetry` gives None and `absence` the reason. An error of the sensors ends
    the sampling and is raised on exit, so that a measurement never silently goes on unwatched.
    """

    def __init__(
        self,
        sensors: Sensors | Unavailable,
        period_s: float = PERIOD_S,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.absence = sensors.reason if isinstance(sensors, Unavailable) else None
        self._sensors = None if isinstance(sensors, Unavailable) else sensors
        self._period, self._clock = period_s, clock
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self.readings: list[TimedReading] = []

    def __enter__(self) -> Self:
        if self._sensors is not None:
            self._stop.clear()
            self.look()
            self._thread = threading.Thread(target=self._watch, name="telemetry", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error
        if self._error is None:
            self.look()

    def _watch(self) -> None:
        while not self._stop.wait(self._period):
            try:
                self.look()
            except Exception as error:
                self._error = error
                return

    def look(self) -> None:
        """Take one reading now."""
        assert self._sensors is not None, "there are no sensors to look at"
        begin = self._clock()
        reading = self._sensors.read()
        self.readings.append((begin, self._clock(), reading))

    def telemetry(self, windows: Sequence[Window] = (), host: HostLoad | None = None) -> Telemetry | None:
        """What was seen during the samples (everything, without any); None where nothing is known of GPU and host.

        `host` is how the host was meanwhile.
        """
        on_host: dict[str, Any] = {}
        if host is not None:
            on_host = {name: getattr(host, name) for name in ("others_percent", "waited_percent", "yardstick_ms")}
        if not self.readings:
            known = any(value is not None for value in on_host.values())
            return Telemetry(None, None, None, None, **on_host) if known else None
        readings = self._during(windows)
        spreads: dict[str, Any] = {
            name: spread_of([getattr(reading, name) for reading in readings]) for name in SPREADS
        }
        reasons = frozenset[str]().union(*(reading.throttle_reasons for reading in readings))
        return Telemetry(throttle_reasons=tuple(sorted(reasons)), **spreads, **on_host)

    def between(self, begin: float, end: float, name: str) -> list[float]:
        """What the readings from `begin` to `end` told of one quantity, in seconds of the clock."""
        inside = [reading for since, until, reading in self.readings if until >= begin and since <= end]
        return [value for reading in inside if (value := getattr(reading, name)) is not None]

    def disturbed(self, windows: Sequence[Window]) -> tuple[int, ...]:
        """Indices of the samples that a clock drop or a throttle reason may have touched.

        A reading says nothing of the time up to its neighbours, so a bad one marks every sample that overlaps the span
        from the reading before it to the reading after it.

        A reason in most of the readings is the state that the case was measured in, not a disturbance, unless it is an
        emergency (sensors.EMERGENCY_REASONS): under a heavy load a GPU is at its power limit all the time.
        """
        if not self.readings or not windows:
            return ()
        steady = self.steady_clock_mhz(windows)
        lasting = self._lasting_reasons(windows)
        last = len(self.readings) - 1
        spans = [
            (self.readings[max(0, i - 1)][0], self.readings[min(last, i + 1)][1])
            for i, (_, _, reading) in enumerate(self.readings)
            if is_bad(reading, steady, lasting)
        ]
        return tuple(
            index
            for index, (begin, end) in enumerate(windows)
            if any(begin <= until and end >= since for since, until in spans)
        )

    def steady_clock_mhz(self, windows: Sequence[Window] = ()) -> float | None:
        """The SM clock of the GPU while nothing limited it, in MHz; None where it is not told."""
        clocks = [reading.sm_clock_mhz for reading in self._during(windows)]
        known = [clock for clock in clocks if clock is not None]
        return float(np.percentile(known, STEADY_PERCENTILE, method="nearest")) if known else None

    def _lasting_reasons(self, windows: Sequence[Window]) -> frozenset[str]:
        """Throttle reasons of more than half of the readings during the samples, without emergencies."""
        readings = self._during(windows)
        counts = Counter(reason for reading in readings for reason in reading.throttle_reasons)
        return frozenset(reason for reason, count in counts.items() if 2 * count > len(readings)) - EMERGENCY_REASONS

    def _during(self, windows: Sequence[Window]) -> list[Reading]:
        """The readings from the first sample's begin to the last one's end, or all where none falls inside."""
        first, last = (windows[0][0], windows[-1][1]) if windows else (-math.inf, math.inf)
        inside = [reading for begin, end, reading in self.readings if end >= first and begin <= last]
        return inside or [reading for _, _, reading in self.readings]


def is_bad(reading: Reading, steady_clock_mhz: float | None, lasting: frozenset[str] = frozenset()) -> bool:
    """Whether a reading shows a throttle reason beside the `lasting` ones, or an SM clock more than CLOCK_DROP below
    the steady one.
    """
    if reading.throttle_reasons - lasting:
        return True
    if reading.sm_clock_mhz is None or steady_clock_mhz is None:
        return False
    return reading.sm_clock_mhz < steady_clock_mhz * (1 - CLOCK_DROP)


def spread_of(values: Sequence[float | None]) -> Spread | None:
    """Minimum, median and maximum of what is known, None where nothing is."""
    known = [value for value in values if value is not None]
    return (float(min(known)), float(np.median(known)), float(max(known))) if known else None
