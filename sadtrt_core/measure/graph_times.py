"""Times of short GPU work by CUDA events: a CUDA graph of many launches, so that the host's own time is not seen.

"Cold" is a graph that cycles through so many copies of all tensors that nothing read next is still in the L2 cache.
"Warm" is one set of tensors again and again: what fits stays in L2, as it does for a layer just computed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch

REPLAYS = 40
MOST_COPIES = 1000  # Of an eighth of a megabyte they are beyond every cache there is.
_LAUNCHES = 20
_GRAPH_US = 4000  # A graph that takes so long needs no more launches: what a replay costs by itself is lost in it.
_UNCOUNTED = 5
_BLOCK_CYCLES = 400_000  # 200 us at 2 GHz: a replay, or an eager launch, is enqueued by then.

Launch = Callable[[], object]


def copies_beyond_cache(bytes_moved: int, device: torch.device) -> int:
    """How many copies of tensors of that many bytes are needed so that none of the next one is in L2: 2 at least.

    Together three times the cache; MOST_COPIES of tensors so small that these have less.
    """
    l2_bytes = torch.cuda.get_device_properties(device).L2_cache_size
    return max(2, min(MOST_COPIES, -(-3 * l2_bytes // bytes_moved)))


def launches_in_graph(launch_us: float) -> int:
    """How many launches of so many microseconds a graph has at least: 20, of long ones fewer, but 2."""
    return min(_LAUNCHES, max(2, int(_GRAPH_US / launch_us)))


def graph_time_us(launches: Sequence[Launch], at_least: int | None = None) -> float:
    """Microseconds of one launch: median over replays of a CUDA graph that cycles through `launches`."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for launch in launches[:2]:
            launch()
    torch.cuda.current_stream().wait_stream(stream)
    if at_least is None:
        at_least = launches_in_graph(_event_time_us(launches[0]))
    rounds = -(-at_least // len(launches))
    graph = torch.cuda.CUDAGraph()
    # Thread-local: another thread that reads clocks or memory meanwhile does not spoil the capture.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        for _ in range(rounds):
            for launch in launches:
                launch()
    times = [_event_time_us(graph.replay) for _ in range(REPLAYS + _UNCOUNTED)]
    return statistics.median(times[_UNCOUNTED:]) / (rounds * len(launches))


def _event_time_us(work: Launch) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    # On an idle GPU the first event would happen at once, and the launch behind it count (measure/blocking.py).
    torch.cuda._sleep(_BLOCK_CYCLES)
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e3


def copy_rate(device: torch.device) -> float:
    """Bytes read plus bytes written a second by a copy within the device's memory: 1 GiB on a GPU, 256 MiB else."""
    size = 2**30 if device.type == "cuda" else 2**28
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    if device.type == "cuda":
        seconds = graph_time_us([lambda: target.copy_(source)], 4) * 1e-6
    else:
        target.copy_(source)  # The pages of the target are made by the first write.
        times = []
        for _ in range(5):
            start = time.perf_counter()
            target.copy_(source)
            times.append(time.perf_counter() - start)
        seconds = statistics.median(times)
    return 2 * size / seconds
