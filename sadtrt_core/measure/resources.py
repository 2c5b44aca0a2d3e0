"""What a loaded runner takes: device memory, as the driver sees it, and the energy of one call."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import torch

from sadtrt_core.errors import Unavailable
from sadtrt_core.measure.sensors import Sensors
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

    Runners that are still loaded keep what they hold; the difference to later is the next one's as long as none of them
    runs in between. Only gaps that PyTorch cannot give back, in its blocks of 2 and 20 MB that others hold a part of,
    may be filled without being counted.
    """
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
    return device_memory_used(device)


ENERGY_SECONDS = 0.5
LONGEST_SECONDS = 3.0
"""When a counter that has not moved twice is given up."""
CHUNK_SECONDS = 0.005
"""Calls are enqueued for about so long between two looks at the counter, so that the GPU does not idle."""


def energy_per_call(
    runner: StageRunner,
    sensors: Sensors | Unavailable,
    call_seconds: float,
    seconds: float = ENERGY_SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> float | None:
    """Millijoules that one call of an activated and bound runner takes, the whole board's; None without sensors.

    The counter moves in steps of some tens of milliseconds. Counting calls from one of its steps to a later one keeps
    that from becoming the error of the result. Where the GPU has no counter, its power is integrated by the trapezoid
    rule instead. `call_seconds` is what one call takes.
    """
    if isinstance(sensors, Unavailable):
        return None
    chunk = max(1, round(CHUNK_SECONDS / max(call_seconds, 1e-9)))
    has_counter = sensors.energy_mj() is not None
    return (_by_counter if has_counter else _by_power)(runner, sensors, chunk, seconds, clock)


def _run(runner: StageRunner, calls: int) -> None:
    for _ in range(calls):
        runner.execute()
    runner.synchronize()


def _by_counter(
    runner: StageRunner, sensors: Sensors, chunk: int, seconds: float, clock: Callable[[], float]
) -> float | None:
    calls, start = 0, clock()
    before = sensors.energy_mj()
    steps: list[tuple[int, float]] = []  # Calls so far and the counter, each time that it moved.
    while (now := clock() - start) < LONGEST_SECONDS and (now < seconds or len(steps) < 2):
        _run(runner, chunk)
        calls += chunk
        counted = sensors.energy_mj()
        if counted is not None and counted != before:
            steps.append((calls, counted))
            before = counted
    if len(steps) < 2:
        return None
    (first_calls, first), (last_calls, last) = steps[0], steps[-1]
    return (last - first) / (last_calls - first_calls)


def _by_power(
    runner: StageRunner, sensors: Sensors, chunk: int, seconds: float, clock: Callable[[], float]
) -> float | None:
    calls, joules = 0, 0.0
    start = now = clock()
    watts = sensors.read().power_w
    while now - start < seconds:
        _run(runner, chunk)
        calls += chunk
        later, next_watts = clock(), sensors.read().power_w
        if watts is None or next_watts is None:
            return None
        joules += (watts + next_watts) / 2 * (later - now)
        now, watts = later, next_watts
    return 1e3 * joules / calls if calls else None
