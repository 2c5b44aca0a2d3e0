"""What a loaded runner takes: device memory, as the driver sees it, and rate, power and energy without a pause."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable

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
"""Calls are enqueued for about so long between two looks at the counter, so that the GPU does not idle."""

Mark = tuple[float, int, float | None]
"""A moment of a stretch: seconds of the clock, calls until then, the energy counter in mJ."""


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
    stretch goes from one of its steps to a later one, which keeps that from becoming the error of the result. Where the
    GPU has no counter, energy is the mean power times the time. `call_seconds` is what one call takes, `frames` are
    those of a call.
    """
    has_counter = not isinstance(sensors, Unavailable) and sensors.energy_mj() is not None
    counter = sensors.energy_mj if not isinstance(sensors, Unavailable) else lambda: None
    chunk = max(1, round(CHUNK_SECONDS / max(call_seconds, 1e-9)))
    with TelemetrySampler(sensors, clock=clock) as watch:
        marks = _marks(runner, counter, chunk, seconds, clock)
    (begin, first_calls, first), (end, last_calls, last) = marks
    power, limit, clocks = (watch.between(begin, end, name) for name in ("power_w", "power_limit_w", "sm_clock_mhz"))
    made = Sustained(
        frames * (last_calls - first_calls),
        end - begin,
        power_w=statistics.fmean(power) if power else None,
        power_limit_w=min(limit, default=None),
        sm_clock_mhz=spread_of(clocks),
    )
    if first is not None and last is not None:
        return made, (last - first) / made.frames
    return made, None if has_counter or made.power_w is None else made.power_w * made.ms_per_frame


def _marks(
    runner: StageRunner,
    counter: Callable[[], float | None],
    chunk: int,
    seconds: float,
    clock: Callable[[], float],
) -> tuple[Mark, Mark]:
    """Begin and end of a stretch: two steps of the counter where it moved twice, else all of it without a counter."""
    start, calls, before = clock(), 0, counter()
    steps: list[Mark] = []
    while (spent := clock() - start) < seconds or (before is not None and len(steps) < 2 and spent < LONGEST_SECONDS):
        for _ in range(chunk):
            runner.execute()
        runner.synchronize()
        calls += chunk
        now, counted = clock(), counter()
        if counted is not None and counted != before:
            steps.append((now, calls, counted))
            before = counted
    return (steps[0], steps[-1]) if len(steps) > 1 else ((start, 0, None), (now, calls, None))
