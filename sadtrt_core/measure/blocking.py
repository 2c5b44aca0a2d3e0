"""A blocking kernel keeps the stream busy while the host enqueues what is timed, so that no launch is in a device time.

An event that is recorded on an idle stream happens at once, and whatever the host then takes to launch the work counts
as device time. Behind a kernel that spins until everything is enqueued, the time between two events is the device's
alone, as in NVBench (nvbench/detail/measure_cold.cuh).
"""

from __future__ import annotations

from collections import deque

import torch

from sadtrt_core import stats

BLOCK_SECONDS_MAX = 0.05
"""Work that the host takes longer to enqueue than this allows for is not blocked: it is launch-bound."""
_MARGIN = 1.5
_FLOOR_SECONDS = 50e-6
_CYCLES_PER_SECOND = 2e9
"""About the SM clock of GPUs at work; one that is faster by half still blocks for as long as the enqueuing takes."""


class BlockingKernel:
    """Blocks streams for as long as enqueuing one call has taken lately."""

    def __init__(self) -> None:
        self._enqueuing: deque[float] = deque(maxlen=16)

    def observe(self, seconds: float) -> None:
        """Enqueuing a call on an idle device took the host so long."""
        self._enqueuing.append(seconds)

    @property
    def seconds(self) -> float:
        """For how long the next call's stream is blocked; 0 where nothing is known yet or it would be too long."""
        if not self._enqueuing:
            return 0.0
        wanted = _MARGIN * stats.median(self._enqueuing) + _FLOOR_SECONDS
        return wanted if wanted <= BLOCK_SECONDS_MAX else 0.0

    def launch(self, stream: torch.cuda.Stream) -> None:
        """Enqueue a kernel on `stream` that spins for `seconds`."""
        if seconds := self.seconds:
            with torch.cuda.stream(stream):
                # Not documented, but what PyTorch's own tests keep a GPU busy with.
                torch.cuda._sleep(int(seconds * _CYCLES_PER_SECOND))
