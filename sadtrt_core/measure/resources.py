"""What a loaded runner takes: device memory, as the driver sees it, and rate, power and energy without a pause."""

from __future__ import annotations

import gc
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

from sadtrt_core.errors import Unavailable
from sadtrt_core.measure.sensors import Sensors
from sadtrt_core.measure.telemetry import TelemetrySampler, spread_of
from sadtrt_core.records.measurements import Sustained
from sadtrt_core.runners.base import StageRunner


def device_memory_used(device: torch.device) -> float | None:
    """MB (1e6 bytes) in use on the whole device, None on a CPU. Cached blocks of PyTorch count: they are taken."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    free, total = torch.cuda.mem_get_info(device)
    return (total - free) / 1e6


def device_memory_free_of_leftovers(device: torch.device) -> float | None:
    """`device_memory_used` after giving back what earlier runners left cached, so that the next one pays for itself.

    Runners that are still loaded keep their memory; the difference to later is the next one's as long as none of them
    runs in between. Gaps in blocks that PyTorch cannot give back may be filled without being counted.
    """
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
    return device_memory_used(device)


SUSTAINED_SECONDS = 0.5
CLIP_SECONDS = 2.0
"""Of a clip on a GPU: what a viewer of one would wait for."""
LONGEST_SECONDS = 3.0
"""When a counter that has not moved twice is given up."""
CHUNK_SECONDS = 0.005
"""Calls are enqueued for about so long before the host waits for them."""
POLL_SECONDS = 0.001
"""Between two looks at the counter."""

Mark = tuple[float, int]
"""A moment of a stretch: seconds of the clock, and calls until then."""
Step = tuple[float, float]
"""When the energy counter was seen to have moved, in the same seconds, and what it read, in mJ."""


def sustain(
    runner: StageRunner,
    sensors: Sensors | Unavailable,
    call_seconds: float,
    frames: int,
    seconds: float = SUSTAINED_SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Sustained, float | None]:
    """Call an activated and bound runner without a pause, and tell how fast it was and the energy of a frame in mJ.

    Energy is the whole board's, None without sensors. Its counter moves in steps of some tens of milliseconds: the
    stretch goes from one of its steps to a later one, as nearly as a call begins there, and what the counter gained a
    second between these two steps is the power that a frame's time is multiplied by. Where the GPU has no counter, it
    is the mean of the power that was read. `call_seconds` is what one call takes, `frames` are
    those of a call.
    """
    counter = None if isinstance(sensors, Unavailable) or sensors.energy_mj() is None else sensors.energy_mj
    chunk = max(1, round(CHUNK_SECONDS / max(call_seconds, 1e-9)))
    with TelemetrySampler(sensors, clock=clock) as watch:
        marks, steps = _stretch(runner, counter, chunk, seconds, clock)
    counted = len(steps) > 1
    if counted:
        marks = [min(marks, key=lambda mark: abs(mark[0] - step[0])) for step in (steps[0], steps[-1])]
    (begin, first_calls), (end, last_calls) = marks[0], marks[-1]
    power, limit, clocks = (watch.between(begin, end, name) for name in ("power_w", "power_limit_w", "sm_clock_mhz"))
    made = Sustained(
        frames * (last_calls - first_calls),
        end - begin,
        power_w=statistics.fmean(power) if power else None,
        power_limit_w=min(limit, default=None),
        sm_clock_mhz=spread_of(clocks),
    )
    if counted:
        milliwatts = (steps[-1][1] - steps[0][1]) / (steps[-1][0] - steps[0][0])
        return made, milliwatts * made.seconds / made.frames
    return made, None if counter is not None or made.power_w is None else made.power_w * made.ms_per_frame


def _stretch(
    runner: StageRunner,
    counter: Callable[[], float | None] | None,
    chunk: int,
    seconds: float,
    clock: Callable[[], float],
) -> tuple[list[Mark], list[Step]]:
    """Calls for `seconds`, or until the counter moved twice; a mark each `chunk` calls, and the counter's steps.

    The counter is read by a thread: a look takes the driver some milliseconds, in which the device would idle.
    """
    start, calls = clock(), 0
    marks: list[Mark] = [(start, 0)]
    steps: list[Step] = []
    stop = threading.Event()

    def watch(count: Callable[[], float | None]) -> None:
        before = count()
        while not stop.wait(POLL_SECONDS):
            now, counted = clock(), count()
            if counted is not None and counted != before:
                steps.append((now, counted))
                before = counted

    with ThreadPoolExecutor(1, "energy counter") as pool:
        watching = None if counter is None else pool.submit(watch, counter)
        try:
            while (spent := clock() - start) < seconds or (watching and len(steps) < 2 and spent < LONGEST_SECONDS):
                if watching is not None and watching.done():
                    break  # By an error, which is raised below.
                for _ in range(chunk):
                    runner.execute()
                runner.synchronize()
                calls += chunk
                marks.append((clock(), calls))
        finally:
            stop.set()
        if watching is not None:
            watching.result()
    return marks, steps
