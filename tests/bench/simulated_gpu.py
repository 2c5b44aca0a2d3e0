"""A GPU for tests where there is none: time that kernels move on, an SM clock, and what a launch takes when idle."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
import torch

START_NS = 1_790_000_000_000_000_000


class SimulatedGpu:
    """Replaces what timing asks of torch.cuda; time passes only by kernels and launches.

    `ghz` is the SM clock, `launch_ns` what the first kernel after idling waits, `kernel_ns` what any kernel takes.
    """

    def __init__(self, patch: pytest.MonkeyPatch, launch_ns: int = 0, kernel_ns: int = 0) -> None:
        self.now, self.idle = START_NS, True
        self.ghz, self.launch_ns, self.kernel_ns = 1.98, launch_ns, kernel_ns
        self.stream = SimpleNamespace(cuda_stream=7, device=torch.device("cpu"), synchronize=self._wait)
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
            "synchronize": lambda device=None: self._wait(),
            "stream": lambda stream: contextlib.nullcontext(),
            "current_stream": lambda device=None: self.stream,
            "Stream": lambda: self.stream,
            "Event": Event,
            "_sleep": lambda cycles: self.work(round(cycles / self.ghz)),
        }
        for name, value in replaced.items():
            patch.setattr(torch.cuda, name, value, raising=False)

    def _wait(self) -> None:
        self.idle = True

    def work(self, nanoseconds: int) -> None:
        """A kernel that takes so long."""
        self.now += self.launch_ns * self.idle + self.kernel_ns + nanoseconds
        self.idle = False
