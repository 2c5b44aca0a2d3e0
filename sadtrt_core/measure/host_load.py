"""What other processes took of the processors while something was measured: host times suffer from it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

SHORTEST_SECONDS = 0.2
"""Linux counts processor time in steps of 10 ms: over less than this the share would say nothing."""
ProcessorTimes = tuple[float, float, float]
"""Seconds by the clock, seconds that all processors were busy, and seconds that this process kept them busy."""


class HostLoad:
    """A context manager around a measurement; `others_percent` is known after it, None outside Linux.

    Leaving a block that took less than SHORTEST_SECONDS waits until that is over.

    A neighbour on another core slows the caches and the memory too, so the share is of all processors' time, whether or
    not this process ever waited. Time that a hypervisor took for other machines counts as others'.
    """

    def __init__(self, read: Callable[[], ProcessorTimes | None] | None = None) -> None:
        self._read = read or read_processor_times
        self._before: ProcessorTimes | None = None
        self.others_percent: float | None = None

    def __enter__(self) -> Self:
        self._before = self._read()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is None or error is not None:
            return
        after = self._read()
        if after is not None and (short := SHORTEST_SECONDS - (after[0] - self._before[0])) > 0:
            time.sleep(short)
            after = self._read()
        if after is None:
            return
        wall, busy, own = (new - old for new, old in zip(after, self._before, strict=True))
        self.others_percent = 100 * min(1.0, max(0.0, busy - own) / (wall * (os.cpu_count() or 1)))


def read_processor_times() -> ProcessorTimes | None:
    """What Linux has counted so far; None elsewhere."""
    try:
        words = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    except OSError:
        return None
    # user nice system idle iowait irq softirq steal, in ticks (proc(5)); guest time is part of user time already.
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, words[1:9])
    ticks = os.sysconf("SC_CLK_TCK")
    own = os.times()
    return time.perf_counter(), (user + nice + system + irq + softirq + steal) / ticks, own.user + own.system
