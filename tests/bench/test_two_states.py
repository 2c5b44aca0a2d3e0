"""Runs of the same code on a simulated GPU with two states, 2.7% apart, that last for seconds: what the gate says."""

from __future__ import annotations

import contextlib
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from record_examples import key, measured, run_of
from simulated_gpu import START_NS, SimulatedGpu

from sadtrt_core.errors import Unavailable
from sadtrt_core.gate.judge import compare_runs
from sadtrt_core.gate.limits import Thresholds
from sadtrt_core.measure import host_load, timing
from sadtrt_core.measure.interleave import Interleaver, Repetitions
from sadtrt_core.measure.timing import GPU_PLAN, TimingPlan
from sadtrt_core.records.schema import Run


class RestlessGpu(SimulatedGpu):
    """A GPU that is 2.7% slower a third of the time, for two to four seconds on end."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__(patch)
        self._random = np.random.default_rng(3)
        # Fast and slow in turn.
        self._changes = START_NS + 1e9 * np.cumsum(self._random.uniform([3, 2], [6, 4], (1000, 2)))
        patch.setattr(timing, "time", SimpleNamespace(perf_counter=self.seconds))
        patch.setattr(host_load, "read_processor_times", lambda: None)
        patch.setattr(host_load, "read_waiting_times", lambda: None)
        patch.setattr(host_load, "time_reference_loop", lambda: 0.3)

    def seconds(self) -> float:
        return (self.now - START_NS) / 1e9

    def sleep(self, seconds: float) -> None:
        self.now += round(seconds * 1e9)

    def run(self, ms: float) -> None:
        slow = np.searchsorted(self._changes, self.now) % 2
        self.work(round(1e6 * ms * (1.027 if slow else 1.0) * self._random.normal(1, 0.002)))
        self.idle = True


class Runner:
    """A stage that takes so long in the faster state."""

    one_at_a_time = False
    job = SimpleNamespace(device=torch.device("cpu"))

    def __init__(self, gpu: RestlessGpu, ms: float) -> None:
        self.gpu, self.ms, self.stream = gpu, ms, gpu.stream

    def execute(self) -> None:
        self.gpu.run(self.ms)

    def synchronize(self) -> None:
        pass


def suite_run(gpu: RestlessGpu, plan: TimingPlan, rows: dict[str, float]) -> Run:
    """All rows as the suite measures them."""
    interleaver = Interleaver(plan, gpu.sleep)
    timings = {}
    for name, ms in rows.items():
        runner = Runner(gpu, ms)
        interleaver.evict(runner)
        timings[name] = Repetitions(runner, plan, Unavailable("none"), clock=gpu.seconds)
        timings[name].repeat()
        interleaver.repeat()
        interleaver.keep(timings[name], runner, contextlib.ExitStack(), lambda: None, lambda error: None)
    interleaver.finish()
    return run_of(*(measured(key(name), latency=row.latency(), drift=None) for name, row in timings.items()))


def alarms(runs: list[Run]) -> int:
    """How many of all pairs of runs, both ways, the gate calls a regression."""
    return sum(compare_runs(*pair, Thresholds()).exit_code == 1 for pair in itertools.permutations(runs, 2))


@pytest.mark.parametrize("rows", [{"generator": 4.75}, {"generator": 4.75, "decode": 2.4, "motion": 2.0}])
def test_states_as_far_apart_as_an_h200s_raise_no_alarm_and_hide_no_more_than_themselves(monkeypatch, rows) -> None:
    gpu = RestlessGpu(monkeypatch)
    several = [suite_run(gpu, GPU_PLAN, rows) for _ in range(5)]
    assert alarms(several) == 0
    assert {len(record.latency.visits) for run in several for record in run.records} == {8}
    # States hide what they differ by: what is slower by more than that and the limit together is caught in any.
    slower = suite_run(gpu, GPU_PLAN, {name: 1.08 * ms for name, ms in rows.items()})
    verdicts = {row.verdict for run in several for row in compare_runs(slower, run, Thresholds()).rows}
    assert verdicts == {"slower"}
