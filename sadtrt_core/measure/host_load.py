"""How the host was while something was measured: host times suffer from whatever else it does."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import torch
from typing_extensions import Self

REFERENCE_CALLS = 20
SHORTEST_SECONDS = 0.2
"""Linux counts processor time in steps of 10 ms: over less than this the share would say nothing."""
Waits = dict[str, float]
"""Seconds that each thread of this process has been ready and without a processor, by its number."""
ProcessorTimes = tuple[float, float, float]
"""Seconds by the clock, seconds that all processors were busy, and seconds that this process kept them busy."""


class HostLoad:
    """A context manager around a measurement, after which it is known how the host was; None for what it does not tell.

    Entered again, for another repetition of the same case, it keeps the worst of all blocks.

    - `others_percent`: what other processes took of all processors' time. Time that a hypervisor took for other
      machines counts as others'. Leaving a block that took less than SHORTEST_SECONDS waits until that is over.
    - `waited_percent`: the part of the block in which the thread that waited longest was ready to run and had no
      processor. Others at work beside a free processor do not make it wait.
    - `yardstick_ms`: what a fixed computation took, the slower of before and after; only where `reference_loop` is
      asked for, since it keeps the processor busy for some milliseconds. It shows what no counter does: a slower clock,
      or a neighbour of a virtual machine on the other half of the core.
    """

    def __init__(
        self,
        read: Callable[[], ProcessorTimes | None] | None = None,
        read_waits: Callable[[], Waits | None] | None = None,
        reference_loop: bool = False,
    ) -> None:
        self._read, self._read_waits = read or read_processor_times, read_waits or read_waiting_times
        self._before: ProcessorTimes | None = None
        self._waits: Waits | None = None
        self._reference_loop = reference_loop
        self._start = 0.0
        self.others_percent: float | None = None
        self.waited_percent: float | None = None
        self.yardstick_ms: float | None = None

    def __enter__(self) -> Self:
        if self._reference_loop:
            self.yardstick_ms = _worst(self.yardstick_ms, time_reference_loop())
        self._before, self._waits = self._read(), self._read_waits()
        self._start = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            return
        waits, seconds = self._read_waits(), time.perf_counter() - self._start
        if waits is not None and self._waits is not None and seconds > 0:
            longest = max((total - self._waits.get(thread, 0.0) for thread, total in waits.items()), default=0.0)
            self.waited_percent = _worst(self.waited_percent, 100 * min(1.0, max(0.0, longest / seconds)))
        if self.yardstick_ms is not None:
            self.yardstick_ms = _worst(self.yardstick_ms, time_reference_loop())
        if self._before is None:
            return
        after = self._read()
        if after is not None and (short := SHORTEST_SECONDS - (after[0] - self._before[0])) > 0:
            time.sleep(short)
            after = self._read()
        if after is None:
            return
        wall, busy, own = (new - old for new, old in zip(after, self._before, strict=True))
        others = 100 * min(1.0, max(0.0, busy - own) / (wall * (os.cpu_count() or 1)))
        self.others_percent = _worst(self.others_percent, others)


def _worst(known: float | None, new: float) -> float:
    return new if known is None else max(known, new)


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


def read_waiting_times() -> Waits | None:
    """What Linux has counted so far; None elsewhere, or where the kernel keeps no such statistics."""
    waits: Waits = {}
    try:
        for thread in os.listdir("/proc/self/task"):
            try:
                words = Path(f"/proc/self/task/{thread}/schedstat").read_text().split()
            except ProcessLookupError:
                continue  # It has ended since it was listed.
            # Time on a processor, time waiting for one (both in ns), time slices (kernel's sched-stats.rst).
            waits[thread] = int(words[1]) / 1e9
    except OSError:
        return None
    return waits


def time_reference_loop() -> float:
    """Milliseconds of the fastest of YARDSTICK_CALLS products of two fixed matrices: some ten milliseconds in all."""
    matrix = torch.linspace(-1, 1, 256 * 256).reshape(256, 256)
    times = []
    for _ in range(REFERENCE_CALLS):
        start = time.perf_counter()
        torch.mm(matrix, matrix)
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)
