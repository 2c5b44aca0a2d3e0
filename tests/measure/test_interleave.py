"""Interleaved repetitions, on a clock that only the runners move: order, spacing, what is loaded, and what breaks."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sadtrt_core.errors import Unavailable
from sadtrt_core.measure import host_load, timing
from sadtrt_core.measure.interleave import Interleaver, Repetitions
from sadtrt_core.measure.sensors import Reading
from sadtrt_core.measure.timing import CPU_PLAN, GPU_PLAN, TimingPlan
from sadtrt_core.plan import precision_named
from sadtrt_core.renderer.stages import STAGES
from sadtrt_core.runners.base import Job
from sadtrt_core.runners.registry import RUNNERS

PLAN = TimingPlan(
    warmup_calls=4,
    warmup_seconds=0.0,
    sample_seconds=0.0,
    samples_min=12,
    samples_max=12,
    repetitions=3,
    apart_seconds=2.0,
    rewarm_calls=1,
)


class Bench:
    """A clock, and runners that take 0.1 s a call on it and write down when they are loaded, run and freed."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[tuple[float, str, str]] = []
        self.slept: list[float] = []
        self.loaded: set[str] = set()
        self.most_loaded = 0
        self.broken: list[tuple[str, str]] = []

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def note(self, name: str, what: str) -> None:
        self.log.append((self.now, name, what))

    def begins(self, name: str) -> list[float]:
        return [at for at, who, what in self.log if (who, what) == (name, "repeat")]

    def order(self, what: str) -> list[str]:
        return [who for _, who, did in self.log if did == what]


class Runner:
    stream = None
    job = SimpleNamespace(device=torch.device("cpu"))

    def __init__(self, bench: Bench, name: str, one_at_a_time: bool = False, dies_at: int | None = None) -> None:
        self.bench, self.name, self.one_at_a_time, self.dies_at = bench, name, one_at_a_time, dies_at
        self.calls = 0

    def execute(self) -> None:
        self.calls += 1
        if self.calls == self.dies_at:
            raise RuntimeError(f"{self.name} died")

    def synchronize(self) -> None:
        self.bench.now += 0.1


class Noted(Repetitions):
    """Says when it is repeated."""

    def repeat(self, *arguments: object) -> None:
        runner = self.sampler.runner
        runner.bench.note(runner.name, "repeat")
        super().repeat(*arguments)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench()
    monkeypatch.setattr(timing, "time", made)
    monkeypatch.setattr(host_load, "read_processor_times", lambda: None)
    monkeypatch.setattr(host_load, "read_waiting_times", lambda: None)
    monkeypatch.setattr(host_load, "time_reference_loop", lambda: 0.3)
    return made


def interleaver_of(bench: Bench, plan: TimingPlan = PLAN) -> Interleaver:
    return Interleaver(plan, bench.sleep)


def measure(bench: Bench, interleaver: Interleaver, runner: Runner, plan: TimingPlan = PLAN) -> Repetitions:
    """One row's own test, as the suite has it."""
    interleaver.evict(runner)
    bench.loaded.add(runner.name)
    bench.most_loaded = max(bench.most_loaded, len(bench.loaded))
    loaded = contextlib.ExitStack()
    loaded.callback(lambda: (bench.loaded.remove(runner.name), bench.note(runner.name, "freed")))
    timed = Noted(runner, plan, Unavailable("none"), clock=bench.perf_counter)
    with loaded:
        timed.repeat()
        loaded = loaded.pop_all()

    def broke(error: Exception) -> None:
        bench.broken.append((runner.name, str(error)))

    with loaded:
        interleaver.repeat()
        interleaver.keep(timed, runner, loaded.pop_all(), lambda: bench.note(runner.name, "told"), broke)
    return timed


def test_rows_are_repeated_in_turn_seconds_apart_and_few_runners_are_loaded(bench: Bench) -> None:
    interleaver = interleaver_of(bench)
    rows = {name: measure(bench, interleaver, Runner(bench, name)) for name in "abcde"}
    # Each row's own test, and then those that wait, the oldest first; the third repetition is the last.
    assert "".join(bench.order("repeat")) == "abacabdbcecd"
    interleaver.finish()
    assert bench.loaded == set()
    assert bench.most_loaded == PLAN.repetitions
    for name, row in rows.items():
        begins = bench.begins(name)
        assert len(begins) == PLAN.repetitions, name
        assert all(later - earlier >= PLAN.apart_seconds - 1e-9 for earlier, later in itertools.pairwise(begins))
        assert row.latency().visits == (0, 4, 8)
    assert bench.order("freed") == list("abcde")
    assert bench.order("told").count("a") == PLAN.repetitions - 1, "told after each repetition but the first"


def test_other_rows_fill_the_time_and_a_row_alone_is_waited_for(bench: Bench) -> None:
    interleaver = interleaver_of(bench)
    measure(bench, interleaver, Runner(bench, "alone"))
    interleaver.finish()
    # A first repetition takes 8 calls of 0.1 s, later ones 5.
    assert bench.slept == pytest.approx([1.2, 1.5])
    assert bench.begins("alone") == pytest.approx([0.0, 2.0, 4.0])
    bench.slept.clear()
    near = dataclasses.replace(PLAN, apart_seconds=0.8)
    interleaver = interleaver_of(bench, near)
    for name in "abcd":
        measure(bench, interleaver, Runner(bench, name), near)
    assert sum(bench.slept) == 0, "another row's first repetition takes as long"
    interleaver.close()


def test_one_repetition_is_one_stretch_and_frees_its_runner_at_once(bench: Bench) -> None:
    plan = dataclasses.replace(PLAN, repetitions=1)
    interleaver = interleaver_of(bench, plan)
    row = measure(bench, interleaver, Runner(bench, "a"), plan)
    assert bench.loaded == set()
    assert (row.latency().visits, len(row.latency().host_ms), bench.slept) == ((0,), 12, [])


def test_a_later_repetition_that_fails_ends_that_row_only(bench: Bench) -> None:
    interleaver = interleaver_of(bench)
    measure(bench, interleaver, Runner(bench, "a", dies_at=10))
    measure(bench, interleaver, Runner(bench, "b"))
    interleaver.finish()
    assert bench.broken == [("a", "a died")]
    assert (len(bench.begins("a")), len(bench.begins("b"))) == (2, 3)
    assert bench.loaded == set()


def test_what_fails_behind_a_repetition_is_that_rows_too_and_never_the_running_tests(bench: Bench) -> None:
    """Telling of the repetition, or freeing the runner after the last one, inside another row's test."""

    def fails(words: str) -> Callable[[], None]:
        def call() -> None:
            raise RuntimeError(words)

        return call

    interleaver = interleaver_of(bench)
    for name, telling, freeing in (("a", fails("not told"), lambda: None), ("b", lambda: None, fails("not freed"))):
        row = Repetitions(Runner(bench, name), PLAN, Unavailable("none"), clock=bench.perf_counter)
        row.repeat()
        loaded = contextlib.ExitStack()
        loaded.callback(freeing)
        broke = functools.partial(lambda name, error: bench.broken.append((name, str(error))), name)
        interleaver.keep(row, row.sampler.runner, loaded, telling, broke)
    measure(bench, interleaver, Runner(bench, "c"))
    assert bench.broken == [("a", "not told")]
    interleaver.finish()
    assert bench.broken == [("a", "not told"), ("b", "not freed")]
    assert len(bench.begins("c")) == PLAN.repetitions


def test_after_an_interrupt_close_frees_what_waits_without_repeating_it(bench: Bench) -> None:
    interleaver = interleaver_of(bench)
    runner = Runner(bench, "a")
    measure(bench, interleaver, Runner(bench, "b"))

    def interrupted() -> None:
        raise KeyboardInterrupt

    runner.execute = interrupted
    with pytest.raises(KeyboardInterrupt):
        measure(bench, interleaver, runner)
    before = len(bench.begins("b"))
    assert bench.loaded == {"b"}
    interleaver.close()
    assert bench.loaded == set()
    assert len(bench.begins("b")) == before
    interleaver.finish()
    assert len(bench.begins("b")) == before, "nothing waits any more"


def test_runners_that_share_what_they_compile_are_never_loaded_together(bench: Bench) -> None:
    interleaver = interleaver_of(bench)
    measure(bench, interleaver, Runner(bench, "compiled", one_at_a_time=True))
    measure(bench, interleaver, Runner(bench, "eager"))
    assert bench.loaded == {"compiled", "eager"}
    measure(bench, interleaver, Runner(bench, "compiled too", one_at_a_time=True))
    assert len(bench.begins("compiled")) == PLAN.repetitions
    events = [(name, what) for _, name, what in bench.log]
    assert events.index(("compiled", "freed")) < events.index(("compiled too", "repeat"))
    assert "compiled too" in bench.loaded
    interleaver.close()


def test_compiled_runners_and_clips_made_of_them_are_measured_singly() -> None:
    job = Job(None, STAGES["clip"], precision_named("fp32"), "torch", 2, torch.device("cpu"), Path("none"))
    for one in (job, dataclasses.replace(job, stage=STAGES["decode"])):
        kinds = {name: RUNNERS[name].create(one).one_at_a_time for name in ("pytorch", "torch-compile")}
        assert kinds == {"pytorch": False, "torch-compile": True}


def test_later_repetitions_warm_up_briefly(bench: Bench) -> None:
    runner = Runner(bench, "a")
    row = Repetitions(runner, PLAN, Unavailable("none"), clock=bench.perf_counter)
    warmed = []
    for _ in range(PLAN.repetitions):
        row.repeat()
        warmed.append(row.latency().warmup_calls)
    assert warmed == [4, 5, 6]
    assert row.complete


def test_all_repetitions_of_a_gpu_take_as_many_samples_as_one_stretch_did() -> None:
    for call_seconds in (0.0005, 0.0024, 0.003):
        taken = sum(GPU_PLAN.repetition(index).samples(call_seconds) for index in range(GPU_PLAN.repetitions))
        assert taken == GPU_PLAN.samples(call_seconds) == 1000
    assert GPU_PLAN.repetition(1).samples(0.5) == 10, "fewer would show the gate nothing"
    assert GPU_PLAN.repetition(0).warmup_floor_seconds == 0.1
    assert (GPU_PLAN.repetition(3).warmup_floor_seconds, GPU_PLAN.repetition(3).warmup_seconds) == (0.05, 0.05)
    assert (GPU_PLAN.repetitions, CPU_PLAN.repetitions) == (8, 1)
    assert CPU_PLAN.repetition(0) == CPU_PLAN


def test_telemetry_is_of_all_repetitions_and_marks_samples_of_the_one_it_disturbed(bench: Bench) -> None:
    class Sensors:
        visit = 0

        def read(self) -> Reading:
            return Reading(1500.0 if self.visit == 1 else 1980.0, 3201.0, 50.0, 400.0, 900.0)

    sensors = Sensors()
    row = Repetitions(Runner(bench, "a"), PLAN, sensors, clock=bench.perf_counter)

    def tick() -> float:
        bench.now += 0.002  # A reading never ends just as a sample begins.
        return bench.now - 0.001

    # Read at the repetition's begin and end only.
    row.watch._period, row.watch._clock = 1e6, tick
    for sensors.visit in range(PLAN.repetitions):
        row.repeat()
    seen = row.telemetry()
    assert seen is not None
    assert (seen.sm_clock_mhz[0], seen.sm_clock_mhz[2]) == (1500.0, 1980.0)
    assert row.latency().disturbed == (4, 5, 6, 7), "the second repetition's"
    assert row.latency().steady is False, "four samples a repetition are too few to say"
