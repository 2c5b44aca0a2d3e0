"""Rows of the gate experiment: runners that stay loaded, timed as the suite times them, with planted slowdowns."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sadtrt_core.measure.rows import BENCHMARK_VERSION, resources

from sadtrt_core import stats
from sadtrt_core.case import Case
from sadtrt_core.engine import tensorrt_api as api
from sadtrt_core.engine.build import BuildOptions
from sadtrt_core.engine.cache import engine_key, engine_path
from sadtrt_core.measure.interleave import RowTiming
from sadtrt_core.measure.resources import device_memory_free_of_leftovers, energy_per_call
from sadtrt_core.measure.timing import LatencySampler, TimingPlan
from sadtrt_core.records.schema import Latency, Record, Resources
from sadtrt_core.runners.base import Job, StageRunner
from sadtrt_core.runners.registry import RunnerKind, runner_named
from sadtrt_core.runners.tensorrt import engine_job
from sadtrt_core.session import Session


class Slowed:
    """A runner that does `extra` after every call, on the stream of the call; what LatencySampler uses of it."""

    def __init__(self, runner: StageRunner, extra: Callable[[], None]) -> None:
        self.job, self.stream, self._runner, self._extra = runner.job, runner.stream, runner, extra

    def execute(self) -> None:
        self._runner.execute()
        self._extra()

    def synchronize(self) -> None:
        self._runner.synchronize()


def busy_loop(seconds: float) -> None:
    """Keep this thread's core busy."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


def spin_kernel(stream: torch.cuda.Stream, cycles: int) -> Callable[[], None]:
    """A function that enqueues a kernel on `stream` that spins for so many cycles of the GPU's clock."""

    def extra() -> None:
        with torch.cuda.stream(stream):
            torch.cuda._sleep(cycles)

    return extra


def cycles_per_ms(stream: torch.cuda.Stream) -> float:
    """How many cycles a kernel spins in a millisecond, by events."""
    cycles = 20_000_000
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    with torch.cuda.stream(stream):
        torch.cuda._sleep(cycles)  # The first launch loads the kernel.
        begin.record(stream)
        torch.cuda._sleep(cycles)
        end.record(stream)
    end.synchronize()
    return cycles / begin.elapsed_time(end)


def slowed(active: StageRunner, fraction: float, plan: TimingPlan) -> Slowed:
    """The runner with work after every call that takes `fraction` of its own time, what its launch costs included."""
    if active.stream is None:
        (alone,) = _in_turn_ms((active,), plan)
        seconds = fraction * stats.median(alone) / 1e3
        return Slowed(active, lambda: busy_loop(seconds))
    # A kernel more takes some microseconds however short it is: of a short stage that alone may be a percent. In turn,
    # because a GPU that changes its state between the two would seem to need all the planted time for the launch.
    alone, launched = _in_turn_ms((active, Slowed(active, spin_kernel(active.stream, 1))), plan)
    launch = stats.median([after - before for before, after in zip(alone, launched, strict=True)])
    spin = fraction * stats.median(alone) - max(0.0, launch)
    return Slowed(active, spin_kernel(active.stream, max(1, round(cycles_per_ms(active.stream) * spin))))


def _in_turn_ms(runners: Sequence[Any], plan: TimingPlan) -> list[list[float]]:
    """Times of each of the runners in ms, a call of each after the other."""
    samplers = [LatencySampler(runner) for runner in runners]
    for sampler in samplers:
        sampler.warm_up(plan)
    for _ in range(plan.samples_min):
        for sampler in samplers:
            sampler.sample()
    return [sampler.device_ms or sampler.host_ms for sampler in samplers]


@dataclass
class RowInProgress:
    """A row of one run, between its visits."""

    name: str
    planted: float
    key: Case
    timing: RowTiming
    resources: Resources

    def record(self) -> Record:
        """What was measured so far."""
        return Record(
            self.key,
            "measured",
            latency=_rounded(self.timing.latency()),
            resources=self.resources,
            telemetry=self.timing.telemetry(),
            benchmark_version=BENCHMARK_VERSION,
        )


class Rows:
    """The rows of one process; each is loaded when it is first measured and then stays.

    An engine takes seconds to load and two hundred milliseconds to time, so the stored runs of one process share their
    runners. What loading anew may change (where memory lies, which algorithms cuDNN picks, what a CUDA graph's capture
    does) is seen by the fresh runs, each in a process of its own. Memory is what loading took, so it is measured once.
    """

    def __init__(
        self,
        suite: Session,
        stack: contextlib.ExitStack,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._suite, self._stack, self._clock, self._sleep = suite, stack, clock, sleep
        self._loaded: dict[str, StageRunner] = {}
        self._memory: dict[str, float | None] = {}

    def first_visit(self, row: str, planted: float = 0.0) -> RowInProgress:
        """Visit a row for the first time in a run, as bench/test_stage_latency.py does, with work for `planted` of its
        own time put in.

        A planted run's energy is not measured: it is its time that is judged.
        """
        suite = self._suite
        kind, job = row_job(suite, row)
        active, before = self._loaded.get(row), 0.0
        if active is None:
            inputs = suite.inputs(job)
            before = device_memory_free_of_leftovers(job.device) or 0.0
            active = self._loaded[row] = self._stack.enter_context(kind.create(job))
            active.bind(inputs)
        measured: Any = slowed(active, planted, suite.timing_plan) if planted else active
        timing = RowTiming(measured, suite.timing_plan, suite.sensors, clock=self._clock)
        timing.visit()
        energy = None if planted else energy_per_call(measured, suite.sensors, timing.call_seconds)
        taken = resources(active, before, energy)
        memory = self._memory.setdefault(row, taken.gpu_memory_mb)
        return RowInProgress(
            row,
            planted,
            suite.key(kind, job),
            timing,
            Resources(memory, taken.engine_mb, taken.energy_mj_per_frame),
        )

    def measure(self, names: Sequence[str], levels: Sequence[float] = (0.0,)) -> list[tuple[Record, ...]]:
        """The records of one run for each of `levels`, planted slowdowns, in the order of `levels` and `names`.

        As in the suite, the visits to a row begin no closer together than the plan says. The runs go round in turn,
        each row of the first, each of the second and so on, then all again, so that one run's visits fill the time that
        another's have to wait; every run takes samples of its own.
        """
        under_way = [[self.first_visit(name, level) for name in names] for level in levels]
        for _ in range(1, self._suite.timing_plan.visits):
            for row in (row for run in under_way for row in run):
                row.timing.wait(self._sleep)
                row.timing.visit()
        return [tuple(row.record() for row in run) for run in under_way]


def _rounded(latency: Latency) -> Latency:
    """Times to five digits: the samples of an experiment are a file in the repository."""
    return dataclasses.replace(
        latency,
        host_ms=tuple(float(f"{ms:.5g}") for ms in latency.host_ms),
        device_ms=None if latency.device_ms is None else tuple(float(f"{ms:.5g}") for ms in latency.device_ms),
    )


def row_job(suite: Session, row: str) -> tuple[RunnerKind, Job]:
    """Runner and job of `stage:runner:precision`; ValueError names what is not known."""
    words = row.split(":")
    if len(words) != 3:
        raise ValueError(f"--row {row!r} should be stage:runner:precision, such as generator:tensorrt:fp16-mixed")
    stage, runner, precision = words
    kind = runner_named(runner)
    return kind, suite.job(stage, kind, precision, 1)


def row_absence(suite: Session, row: str) -> str | None:
    """Why a row cannot be measured here and now: its runner is absent, or its engine would have to be built first."""
    kind, job = row_job(suite, row)
    if (absence := kind.available(job)) is not None:
        return str(absence)
    if not kind.name.startswith("tensorrt"):
        return None
    # Building takes minutes, which an experiment with a budget of seconds must not spend unasked.
    trt = api.tensorrt_module()
    assert not isinstance(trt, api.Unavailable)  # `available` has asked.
    build = engine_job(job, BuildOptions(optimization_level=job.optimization_level))
    if engine_path(build, engine_key(build, trt, api.current_gpu())).exists():
        return None
    options = suite.options
    command = ["sadtrt", "build", "--stage", job.stage.name, "--precision", job.precision.name]
    command += ["--optimization-level", str(options.optimization_level), "--weights", options.weights]
    command += ["--grid-sample", job.grid_sample, "--cache", str(options.cache)]
    return f"its engine is not in the cache: run `{shlex.join(command)}` first"
