"""A GPU for tests where there is none: time that kernels move on, an SM clock, and what a launch takes when idle."""

from __future__ import annotations

import contextlib
import ctypes
from types import SimpleNamespace

import numpy as np
import pytest
import torch

START_NS = 1_790_000_000_000_000_000


class SimulatedGpu:
    """Replaces libcuda and what the experiments ask of torch.cuda; time passes only by kernels and launches.

    `ghz` is the SM clock, `launch_ns` what the first kernel after idling waits, `kernel_ns` what any kernel takes.
    """

    def __init__(self, patch: pytest.MonkeyPatch, launch_ns: int = 0, kernel_ns: int = 0) -> None:
        self.now, self.idle = START_NS, True
        self.ghz, self.launch_ns, self.kernel_ns = 1.98, launch_ns, kernel_ns
        self.stream = SimpleNamespace(cuda_stream=7, device=torch.device("cpu"), synchronize=self._wait)
        self._names: list[str] = []
        gpu = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self, stream) -> None:
                self.at = gpu.now

            def synchronize(self) -> None:
                gpu._wait()

            def query(self) -> bool:
                return False  # The host enqueues in no time here.

            def elapsed_time(self, end) -> float:
                return (end.at - self.at) / 1e6

        replaced = {
            "init": lambda: None,
            "synchronize": lambda device=None: self._wait(),
            "stream": lambda stream: contextlib.nullcontext(),
            "current_stream": lambda device=None: self.stream,
            "Stream": lambda: self.stream,
            "Event": Event,
            "_sleep": lambda cycles: self.work(round(cycles / self.ghz)),
            "get_device_properties": lambda device: SimpleNamespace(multi_processor_count=3),
            "CUDAGraph": lambda: SimpleNamespace(replay=lambda: self.work(200_000)),
            "graph": lambda graph: contextlib.nullcontext(),
        }
        for name, value in replaced.items():
            patch.setattr(torch.cuda, name, value, raising=False)
        patch.setattr(ctypes, "CDLL", lambda name: self)

    def _wait(self) -> None:
        self.idle = True

    def work(self, nanoseconds: int) -> None:
        """A kernel that takes so long."""
        self.now += self.launch_ns * self.idle + self.kernel_ns + nanoseconds
        self.idle = False

    def cycles(self) -> int:
        return round((self.now - START_NS) * self.ghz)

    def cuModuleLoadData(self, module, image) -> int:
        return 0

    def cuModuleGetFunction(self, function, module, name) -> int:
        self._names.append(name.value.decode())
        function._obj.value = len(self._names)
        return 0

    def cuLaunchKernel(self, function, *rest) -> int:
        values = [ctypes.cast(pointer, ctypes.POINTER(ctypes.c_uint64)).contents.value for pointer in rest[-2]]
        getattr(self, self._names[function.value - 1])(*values)
        return 0

    def spin(self, nanoseconds: int) -> None:
        self.work(nanoseconds)

    def empty(self) -> None:
        self.work(0)

    def ticks(self, answer: int, nanoseconds: int) -> None:
        self.work(32)
        first = [self.now - 32, self.now, self.cycles()]
        self.now += nanoseconds
        self._store(answer, [*first, self.now, self.cycles()])

    def stamp(self, answer: int) -> None:
        self.work(0)
        self._store(answer, [self.now, self.cycles() + 1] * 3)

    def chase(self, answer: int, table: int, steps: int) -> None:
        self.work(0)
        first = [self.now, self.cycles()]
        self.now += 200 * steps
        self._store(answer, [*first, self.now, self.cycles(), 0])

    @staticmethod
    def _store(address: int, values: list[int]) -> None:
        kept = np.array(values, dtype=np.int64)
        ctypes.memmove(address, kept.ctypes.data, kept.nbytes)
