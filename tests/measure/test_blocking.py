"""Holding a device back until the host has enqueued a call, on a device and a host with clocks of their own."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
import torch

from sadtrt_core.measure import timing
from sadtrt_core.measure.blocking import BLOCK_SECONDS_MAX, BlockingKernel
from sadtrt_core.measure.timing import LatencySampler, TimingPlan

PLAN = TimingPlan(warmup_calls=5, warmup_seconds=0.0, sample_seconds=1.0, samples_min=20, samples_max=20)
GHZ = 1.98


class Machine:
    """A host whose calls take time and a device that works through its queue meanwhile; seconds."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.host = self.device = 0.0
        self.slept: list[float] = []
        machine = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self, stream: object) -> None:
                machine.enqueue(0.0)
                self.at = machine.device

            def query(self) -> bool:
                return self.at <= machine.host

            def synchronize(self) -> None:
                machine.wait()

            def elapsed_time(self, end: Event) -> float:
                return 1e3 * (end.at - self.at)

        def sleep(cycles: int) -> None:
            self.slept.append(cycles / (1e9 * GHZ))
            self.enqueue(self.slept[-1])

        patch.setattr(torch.cuda, "Event", Event)
        patch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
        patch.setattr(torch.cuda, "_sleep", sleep, raising=False)
        patch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: self.host))

    def enqueue(self, seconds: float) -> None:
        self.device = max(self.device, self.host) + seconds

    def wait(self) -> None:
        self.host = max(self.host, self.device)


class Runner:
    """Launches kernels one by one: each takes the host `launch` and the device `work` seconds."""

    def __init__(self, machine: Machine, kernels: int, launch: float, work: float) -> None:
        self.machine, self.kernels, self.launch, self.work = machine, kernels, launch, work
        self.stream = SimpleNamespace()

    def execute(self) -> None:
        for _ in range(self.kernels):
            self.machine.host += self.launch
            self.machine.enqueue(self.work)

    def synchronize(self) -> None:
        self.machine.wait()


def measured(runner: Runner) -> LatencySampler:
    sampler = LatencySampler(runner)
    sampler.warm_up(PLAN)
    for _ in range(20):
        sampler.sample()
    return sampler


def test_device_time_holds_no_launches_and_host_time_all_of_them(monkeypatch):
    machine = Machine(monkeypatch)
    # 100 kernels of 2 us that take 5 us each to launch: a GPU that waits for its host most of the time.
    latency = measured(Runner(machine, 100, 5e-6, 2e-6)).result()
    assert latency.device_ms == pytest.approx([0.2] * 20)
    assert latency.host_ms == pytest.approx([0.502] * 20), "what a caller waits for, without being held back"
    assert latency.late == ()
    assert not latency.launch_bound


def test_one_launch_of_everything_is_held_back_no_longer_than_it_takes(monkeypatch):
    machine = Machine(monkeypatch)
    latency = measured(Runner(machine, 1, 150e-6, 4e-3)).result()
    assert latency.device_ms == pytest.approx([4.0] * 20)
    assert latency.host_ms == pytest.approx([4.15] * 20)
    assert 150e-6 < min(machine.slept) <= max(machine.slept) < 400e-6


def test_a_call_that_takes_the_host_too_long_is_not_held_back_and_marked(monkeypatch):
    machine = Machine(monkeypatch)
    sampler = measured(Runner(machine, 100, BLOCK_SECONDS_MAX / 50, 1e-6))
    assert machine.slept == []
    assert sampler.late == list(range(20))
    latency = sampler.result()
    assert latency.launch_bound
    assert latency.device_ms[0] == pytest.approx(100 * BLOCK_SECONDS_MAX / 50 * 1e3, rel=0.02)


def test_samples_in_which_the_host_was_slower_than_usual_are_marked_and_kept(monkeypatch):
    machine = Machine(monkeypatch)
    runner = Runner(machine, 100, 5e-6, 2e-6)
    sampler = measured(runner)
    runner.launch = 20e-6
    sampler.sample_device()
    runner.launch = 5e-6
    sampler.sample_host()
    sampler.sample()
    latency = sampler.result()
    assert latency.late == (20,)
    assert latency.device_ms[20] > 1
    assert latency.device_ms[21] == pytest.approx(0.2)


def test_the_hold_follows_what_enqueuing_takes():
    hold = BlockingKernel()
    assert hold.seconds == 0.0, "nothing is known yet"
    hold.observe(60.0)  # The first call compiles.
    assert hold.seconds == 0.0, "nobody waits a minute"
    for _ in range(3):
        hold.observe(1e-3)
    assert 1e-3 < hold.seconds < 2e-3


def test_a_window_spans_both_calls(monkeypatch):
    machine = Machine(monkeypatch)
    sampler = LatencySampler(Runner(machine, 1, 0.0, 1e-3))
    sampler.sample()
    assert sampler.windows == [pytest.approx((0.0, 2e-3))]


def test_a_host_part_without_a_device_part_is_refused(monkeypatch):
    """As a profiler that repeats the benchmark's target does: samples of the two clocks would no longer be pairs."""
    sampler = LatencySampler(Runner(Machine(monkeypatch), 1, 0.0, 1e-3))
    sampler.sample()
    with pytest.raises(RuntimeError, match="without its device part"):
        sampler.sample_host()
    assert len(sampler.host_ms) == len(sampler.device_ms) == 1
