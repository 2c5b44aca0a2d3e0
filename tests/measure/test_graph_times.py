"""Times of short work by CUDA graphs: what they hold, what is cold, and that launching a replay is not in them."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
import torch

from sadtrt_core.measure.graph_times import copies_beyond_cache, graph_time_us, launches_in_graph


@pytest.mark.parametrize(("launch_us", "launches"), [(10.0, 20), (200.0, 20), (1000.0, 4), (9000.0, 2)])
def test_long_launches_are_repeated_less_often_but_at_least_twice(launch_us, launches):
    assert launches_in_graph(launch_us) == launches


@pytest.mark.parametrize("bytes_moved", [200_000_000, 9_175_040, 1_704_960, 409_600])
def test_what_is_called_cold_is_no_longer_in_the_cache_however_small_it_is(bytes_moved, monkeypatch):
    """Forty copies of 0.4 MB were 16 MB, all of which an H100's 50 MB hold."""
    cache = SimpleNamespace(L2_cache_size=50 * 2**20)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: cache)
    copies = copies_beyond_cache(bytes_moved, torch.device("cuda"))
    assert 3 * cache.L2_cache_size <= copies * bytes_moved <= 3 * cache.L2_cache_size + 2 * bytes_moved


class Machine:
    """A host that takes 8 us to launch anything, and a device that works through its queue meanwhile; microseconds."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.host = self.device = 0.0
        self.captured: list[float] | None = None
        machine = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                machine.device = self.at = max(machine.device, machine.host)

            def synchronize(self) -> None:
                machine.host = max(machine.host, machine.device)

            def elapsed_time(self, end) -> float:
                return (end.at - self.at) / 1e3

        class Graph:
            def replay(self) -> None:
                machine.enqueue(sum(self.holds))

        @contextlib.contextmanager
        def capture(graph, capture_error_mode):
            graph.holds = machine.captured = []
            yield
            machine.captured = None

        stream = SimpleNamespace(wait_stream=lambda other: None)
        replaced = {
            "Event": Event,
            "CUDAGraph": Graph,
            "graph": capture,
            "Stream": lambda: stream,
            "current_stream": lambda: stream,
            "stream": contextlib.nullcontext,
            "_sleep": lambda cycles: self.enqueue(cycles / 2e3),
        }
        for name, value in replaced.items():
            patch.setattr(torch.cuda, name, value, raising=False)

    def enqueue(self, microseconds: float) -> None:
        self.host += 8.0
        self.device = max(self.device, self.host) + microseconds

    def kernel(self, microseconds: float):
        def launch() -> None:
            if self.captured is None:
                self.enqueue(microseconds)
            else:
                self.captured.append(microseconds)

        return launch


def test_what_a_replay_takes_to_launch_is_not_in_a_kernel_s_time(monkeypatch):
    """Twenty kernels of 2 us end 8 us after an event that was recorded on an idle device: 2.4 us each."""
    machine = Machine(monkeypatch)
    assert graph_time_us([machine.kernel(2.0)]) == pytest.approx(2.0)
    assert graph_time_us([machine.kernel(2.0), machine.kernel(4.0)]) == pytest.approx(3.0)
