"""A few samples of a row with probes around and after them: what a GPU's clocks, caches, memory and front end did."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from probe_kernels import ANSWERS, SM_SLOTS, ProbeKernels, chain, chase_ns, clock_between, ticks_ghz

from sadtrt_core import stats
from sadtrt_core.measure.timing import LatencySampler
from sadtrt_core.runners.base import StageRunner

SAMPLES = 10
"""Probed samples of the row in a round; the probes that disturb the caches come after them."""
BARE_SAMPLES = 5
"""Samples before those, taken as the suite takes them, which show whether the probes change what they look at."""
TICKS_NS = 50_000
COPY_BYTES = 256 << 20
L2_BYTES = 8 << 20
FAR_BYTES = 512 << 20
L2_STEPS, FAR_STEPS = 1_000, 300
MATMUL_SIZE = 4096
EMPTY_KERNELS = 200

Events = tuple[torch.cuda.Event, torch.cuda.Event]


@dataclass(frozen=True)
class Round:
    """Times of the probed samples in ms, and the medians of what the probes told. `begin_s` is in seconds of
    `time.perf_counter`.
    """

    begin_s: float
    samples_ms: tuple[float, ...]
    probes: dict[str, float | None]

    @property
    def median_ms(self) -> float:
        return stats.median(self.samples_ms)


class Prober:
    """The probes and their buffers, on the stream of an activated and bound runner. Raises as PtxModule does."""

    def __init__(self, runner: StageRunner, stream: torch.cuda.Stream) -> None:
        self._runner, self._stream, self._kernels = runner, stream, ProbeKernels()
        device = runner.job.device
        self._sms = torch.cuda.get_device_properties(device).multi_processor_count
        self._ticks = torch.zeros((SAMPLES, 2, ANSWERS), dtype=torch.int64, device=device)
        self._stamps = torch.zeros((SAMPLES, 2, SM_SLOTS, 2), dtype=torch.int64, device=device)
        self._chases = torch.zeros((2, ANSWERS), dtype=torch.int64, device=device)
        self._copy = [torch.zeros(COPY_BYTES, dtype=torch.uint8, device=device) for _ in range(2)]
        self._factor = torch.randn((MATMUL_SIZE, MATMUL_SIZE), dtype=torch.float16, device=device)
        self._product = torch.empty_like(self._factor)
        self._chains = [torch.from_numpy(chain(size)).to(device) for size in (L2_BYTES, FAR_BYTES)]
        self._empty_graph = self._capture_empty(device)
        torch.cuda.synchronize()  # What was filled on PyTorch's stream is read on the runner's.

    def _capture_empty(self, device: torch.device) -> torch.cuda.CUDAGraph:
        self._kernels.empty(self._stream)  # The first launch loads the kernel, which a capture must not.
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(EMPTY_KERNELS):
                self._kernels.empty(torch.cuda.current_stream(device))
        return graph

    def round(self, meanwhile: Callable[[], Any] = lambda: None) -> Round:
        """BARE_SAMPLES samples, then SAMPLES with a probe of the SM clock on either side, then the other probes;
        `meanwhile` is called while the GPU works on those.
        """
        self._stamps.zero_()
        torch.cuda.synchronize()
        begin_s = time.perf_counter()
        bare = LatencySampler(self._runner)
        for _ in range(BARE_SAMPLES):
            bare.sample()
        samples_ms = [self._sample(place) for place in range(SAMPLES)]
        after = self._other_probes()
        meanwhile()
        self._stream.synchronize()
        # The first one finds the caches as the probes of the round before left them.
        taken = {"bare_row_ms": stats.median(bare.device_ms[1:]), "bare_host_ms": stats.median(bare.host_ms[1:])}
        return Round(begin_s, tuple(samples_ms), taken | self._of_samples() | self._of_others(after))

    def _sample(self, place: int) -> float:
        """Device time in ms; the begin event is not recorded on an idle stream here."""
        stream, kernels = self._stream, self._kernels
        kernels.ticks(stream, self._ticks[place, 0], TICKS_NS)
        kernels.stamp(stream, self._stamps[place, 0], self._sms)
        begin = _event(stream)
        self._runner.execute()
        end = _event(stream)
        kernels.stamp(stream, self._stamps[place, 1], self._sms)
        kernels.ticks(stream, self._ticks[place, 1], TICKS_NS)
        stream.synchronize()
        return begin.elapsed_time(end)

    def _other_probes(self) -> dict[str, Events]:
        """Enqueue them all; events around those that are timed by events."""
        stream, taken = self._stream, {}
        with torch.cuda.stream(stream):
            work: dict[str, Callable[[], object]] = {
                "copy": lambda: self._copy[1].copy_(self._copy[0]),
                "matmul": lambda: torch.mm(self._factor, self._factor, out=self._product),
                "empty": self._empty_graph.replay,
            }
            for name, enqueue in work.items():
                begin = _event(stream)
                enqueue()
                taken[name] = (begin, _event(stream))
        for answer, table, steps in zip(self._chases, self._chains, (L2_STEPS, FAR_STEPS), strict=True):
            # The first way brings the lines of the small table into the L2 cache.
            for _ in range(2 if steps == L2_STEPS else 1):
                self._kernels.chase(stream, answer, table, steps)
        return taken

    def _of_samples(self) -> dict[str, float | None]:
        clocks = ticks_ghz(self._ticks.cpu().numpy())
        stamps = self._stamps.cpu().numpy()
        between = [found for before, after in stamps if (found := clock_between(before, after)) is not None]
        told = np.median(between, axis=0) if between else (None, None, None)
        names = ("row_ms_by_globaltimer", "sm_ghz_during", "sm_ghz_during_slowest_sm")
        probes: dict[str, float | None] = {
            "sm_ghz_before": float(np.median(clocks[:, 0])),
            "sm_ghz_after": float(np.median(clocks[:, 1])),
        }
        probes |= {name: None if value is None else float(value) for name, value in zip(names, told, strict=True)}
        # A million cycles are a millisecond at a GHz.
        cycles = [ms * ghz for ms, ghz, _ in between]
        return probes | {"row_million_cycles": stats.median(cycles) if cycles else None}

    def _of_others(self, taken: dict[str, Events]) -> dict[str, float | None]:
        ms = {name: begin.elapsed_time(end) for name, (begin, end) in taken.items()}
        near, far = self._chases.cpu().numpy()
        (near_ns, near_cycles), (far_ns, _) = chase_ns(near, L2_STEPS), chase_ns(far, FAR_STEPS)
        return {
            # Every byte is read and written.
            "copy_gb_per_s": 2 * COPY_BYTES / ms["copy"] / 1e6,
            "matmul_tflops": 2 * MATMUL_SIZE**3 / ms["matmul"] / 1e9,
            "empty_kernel_us": 1e3 * ms["empty"] / EMPTY_KERNELS,
            "l2_load_ns": near_ns,
            "l2_load_cycles": near_cycles,
            "memory_load_ns": far_ns,
        }


def _event(stream: torch.cuda.Stream) -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record(stream)
    return event
