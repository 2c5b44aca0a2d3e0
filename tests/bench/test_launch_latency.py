"""The launch experiment without a GPU: the order in which it enqueues, its arithmetic and what it concludes."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

ROOT = Path(__file__).parents[2]
CLOCKS = {"globaltimer_percent": -0.24, "events_percent": 0.0, "globaltimer_step_ns": 32.0}


@pytest.fixture(autouse=True)
def _paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "bench" / "experiments"), str(Path(__file__).parent), *sys.path])


def delays(idle_us: float, blocked_us: float, slope: float = 0.0024):
    """What measuring gives where a launch takes so long in either way, and the clocks run at different rates."""
    extra = {"idle": idle_us, "blocked": blocked_us, "in a row": 1.0}
    return [
        {"delay_us": us, "ways": {way: {"median_us": us * (1 + slope) + more} for way, more in extra.items()}}
        for us in (20, 60, 200, 1_000, 5_000)
    ]


def test_a_launch_is_told_from_clocks_that_run_at_different_rates():
    from launch_latency import judge

    found = judge(delays(12.0, 1.5), CLOCKS, None)
    assert found["lines"]["idle"] == {"at_zero_us": pytest.approx(12), "slope_percent": pytest.approx(0.24)}
    assert found["lines"]["blocked"]["at_zero_us"] == pytest.approx(1.5)
    assert found["saved_us"] == pytest.approx(10.5)
    assert found["block"] is True
    assert found["sentences"][-1].endswith("17.5% of a stage of 60 us: the next version of the benchmark should block")


@pytest.mark.parametrize(("idle_us", "blocked_us"), [(2.0, 1.9), (1.0, 12.0), (12.0, 8.0)])
def test_blocking_that_saves_little_or_leaves_most_of_the_error_is_not_worth_it(idle_us, blocked_us):
    from launch_latency import judge

    row = {"row": "warp:tensorrt:fp16-mixed", "ways": {way: {"median_us": 60.0} for way in ("idle", "blocked")}}
    row["ways"]["in a row"] = {"median_us": 55.0}
    found = judge(delays(idle_us, blocked_us), CLOCKS, row)
    assert found["block"] is False
    assert found["sentences"][-1].endswith("not worth another version of the benchmark")
    assert "warp:tensorrt:fp16-mixed: idle 60.00 us, blocked 60.00 us, in a row 55.00 us" in found["sentences"]


def test_everything_is_enqueued_behind_the_blocking_kernel_in_the_order_of_a_sample(monkeypatch: pytest.MonkeyPatch):
    from launch_latency import BLOCK_US, Taken, _between_events, _blocked

    done: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream) -> None:
            done.append("event")

        def elapsed_time(self, end) -> float:
            assert done[-1] == "wait"
            return 0.06

    monkeypatch.setattr(torch.cuda, "Event", Event)
    runner = SimpleNamespace(
        stream=object(), execute=lambda: done.append("run"), synchronize=lambda: done.append("wait")
    )
    enqueue_us: list[float] = []
    assert _blocked(runner, lambda: done.append("block"), enqueue_us) == 60.0
    assert done == ["block", "event", "run", "event", "wait"]
    assert len(enqueue_us) == 1
    done.clear()
    assert _between_events(runner, 3) == 60.0
    assert done == ["event", "run", "run", "run", "event", "wait"]
    ways = {way: [60.0, 61.0, 62.0] for way in ("idle", "blocked", "in a row")}
    figures = Taken(ways, [10.0, 10.0, BLOCK_US + 1.0]).figures()
    assert (figures["too_late"], figures["ways"]["idle"]["median_us"]) == (0.3333, 61.0)


def test_on_a_gpu_whose_launches_take_ten_microseconds_blocking_hides_them(monkeypatch: pytest.MonkeyPatch, capsys):
    import launch_latency
    from simulated_gpu import SimulatedGpu
    from spin_kernel import SpinKernel

    monkeypatch.setattr(launch_latency, "CALLS", 80)
    SimulatedGpu(monkeypatch, launch_ns=10_000)
    found = launch_latency.judge(launch_latency.measure_delays(SpinKernel()), CLOCKS, None)
    assert found["lines"]["idle"] == {"at_zero_us": pytest.approx(10), "slope_percent": pytest.approx(0, abs=1e-4)}
    assert found["lines"]["blocked"]["at_zero_us"] == pytest.approx(0, abs=1e-6)
    assert found["block"] is True
    said = capsys.readouterr().out
    assert "delay of 20 us: idle +10.0 us (+50.00%, middle half 0.0 us), blocked +0.0 us" in said


def test_clocks_are_compared_over_the_same_stretch(monkeypatch: pytest.MonkeyPatch):
    import launch_latency
    from probe_kernels import ProbeKernels
    from simulated_gpu import SimulatedGpu

    gpu = SimulatedGpu(monkeypatch)
    host = iter((5.0, 7.0))
    monkeypatch.setattr(launch_latency.time, "perf_counter", lambda: next(host))
    # The sleep is 2 s on the GPU less what the kernel beside it takes, and 0.1% more.
    monkeypatch.setattr(launch_latency.time, "sleep", lambda seconds: gpu.work(2_002_000_000 - 1_032))
    rates = launch_latency.clock_rates(ProbeKernels())
    assert rates == {"globaltimer_step_ns": 32.0, "globaltimer_percent": 0.1, "events_percent": 0.1}
