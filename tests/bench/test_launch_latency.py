"""The launch experiment without a GPU: its ways of timing, its arithmetic and what it says."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "bench" / "experiments"), str(Path(__file__).parent), *sys.path])


def test_a_launch_is_told_from_clocks_that_run_at_different_rates():
    from launch_latency import lines

    extra = {"idle": 12.0, "held": 1.5, "in a row": 1.0}
    delays = [
        {"delay_us": us, "ways": {way: {"median_us": us * 1.0024 + more} for way, more in extra.items()}}
        for us in (20, 60, 200, 1_000, 5_000)
    ]
    found = lines(delays)
    assert found["idle"] == {"at_zero_us": pytest.approx(12), "slope_percent": pytest.approx(0.24)}
    assert found["held"]["at_zero_us"] == pytest.approx(1.5)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch):
    import launch_latency
    from simulated_gpu import SimulatedGpu

    monkeypatch.setattr(launch_latency.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(launch_latency, "GPU_PLAN", SimpleNamespace(visit=lambda index: WARM_UP, **vars(WARM_UP)))
    return SimulatedGpu(monkeypatch, launch_ns=10_000)


WARM_UP = SimpleNamespace(warmup_calls=3, warmup_seconds=0.0, warmup_floor_seconds=0.0)


def test_on_a_gpu_whose_launches_take_ten_microseconds_the_hold_hides_them(gpu, capsys):
    import launch_latency
    from spin_kernel import SpinKernel

    found = launch_latency.lines(launch_latency.measure_delays(SpinKernel()))
    assert found["idle"] == {"at_zero_us": pytest.approx(10), "slope_percent": pytest.approx(0, abs=1e-4)}
    assert found["held"]["at_zero_us"] == pytest.approx(0, abs=1e-6)
    said = capsys.readouterr().out
    assert "delay of 20 us: idle +10.0 us (+50.00%), held +0.0 us (+0.00%)" in said


def test_rounds_that_differ_in_one_way_of_timing_and_not_in_another_are_shown(gpu, monkeypatch):
    import launch_latency
    from launch_latency import measure, row_sentence

    launches = iter([10_000, 130_000, 10_000])

    class Row:
        stream = gpu.stream

        def execute(self) -> None:
            gpu.work(4_000_000)

        def synchronize(self) -> None:
            gpu.idle = True

    monkeypatch.setattr(launch_latency.time, "sleep", lambda seconds: setattr(gpu, "launch_ns", next(launches)))
    figures = measure(Row(), 3).figures()
    assert figures["ways"]["idle"]["rounds_us"] == pytest.approx([4010, 4130, 4010])
    assert figures["ways"]["held"]["rounds_us"] == pytest.approx([4000, 4000, 4000])
    sentence = row_sentence("generator:tensorrt:fp16-mixed", figures)
    assert "idle 4.01 ms (rounds within 2.99%), held 4 ms (rounds within 0.00%)" in sentence
    assert "was there first" not in sentence
