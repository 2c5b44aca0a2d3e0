"""Interleaved comparison: two runners, or two checkouts, timed in turn A B B A so that what drifts drifts for both."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sadtrt_core.measure import stats
from sadtrt_core.measure.timing import LatencySampler, TimingPlan
from sadtrt_core.runners.base import Job, StageRunner
from sadtrt_core.runners.registry import GRAPH_GRID_SAMPLES, runner_named
from sadtrt_core.suite import Suite, SuiteOptions

CONFIDENCE = 0.95
TURN_SECONDS = 0.03
"""About how long one side works before it is the other's turn."""
ROUNDS_MIN, ROUNDS_MAX = 10, 200


@dataclass(frozen=True)
class Side:
    """One side of a comparison: a runner in a precision; `grid_sample` is None for what the machine offers."""

    runner: str
    precision: str
    grid_sample: str | None = None

    @classmethod
    def parse(cls, text: str) -> Side:
        """`runner[:precision[:grid_sample]]`, fp32 where no precision is given; ValueError says what is expected."""
        runner, *rest = text.split(":")
        if len(rest) > 2 or not all((runner, *rest)):
            raise ValueError(f"{text!r} should be runner[:precision[:grid_sample]], such as onnxruntime:fp16-mixed")
        runner_named(runner)
        grid_sample = rest[1] if len(rest) == 2 else None
        if grid_sample is not None and grid_sample not in GRAPH_GRID_SAMPLES:
            raise ValueError(f"grid sample {grid_sample!r} is not known: expected {', '.join(GRAPH_GRID_SAMPLES)}")
        return cls(runner, rest[0] if rest else "fp32", grid_sample)

    def label(self) -> str:
        """The text it was parsed from, with its defaults filled in."""
        return ":".join(word for word in (self.runner, self.precision, self.grid_sample) if word)


@dataclass(frozen=True)
class Conditions:
    """What both sides share, as plain values, so that another checkout's process can be told: see `SuiteOptions`."""

    stage: str
    batch: int
    size: int
    weights: str
    checkpoint: str | None
    device: str
    cache: str
    optimization_level: int = 3

    def suite(self, say: Callable[[str], None]) -> Suite:
        """A suite under these conditions."""
        return Suite(
            SuiteOptions(
                size=self.size,
                weights=self.weights,
                checkpoint=Path(self.checkpoint) if self.checkpoint else None,
                mapping_checkpoint=None,
                source_image=None,
                samples=None,
                frames=max(1, self.batch),
                clip_frames=None,
                device=self.device,
                grid_sample="auto",
                cache=Path(self.cache),
                results=Path("results"),
                jobs=1,
                optimization_level=self.optimization_level,
            ),
            say=say,
        )


@dataclass(frozen=True)
class Turn:
    """Samples in ms of one side's turn; `device_ms` is None on a CPU."""

    host_ms: tuple[float, ...]
    device_ms: tuple[float, ...] | None


class Contestant(Protocol):
    """Whoever takes turns: a runner in this process or one behind a pipe."""

    call_seconds: float

    def take(self, count: int) -> Turn:
        """Run once uncounted, to bring back what the other side drove from the caches, then `count` samples."""


class LocalContestant:
    """An activated and bound runner of this process, warmed up."""

    def __init__(self, runner: StageRunner, plan: TimingPlan) -> None:
        self._runner = runner
        self.call_seconds = LatencySampler(runner).warm_up(plan)

    def take(self, count: int) -> Turn:
        self._runner.execute()
        self._runner.synchronize()
        sampler = LatencySampler(self._runner)
        for _ in range(count):
            sampler.sample()
        return Turn(tuple(sampler.host_ms), tuple(sampler.device_ms) or None)


@contextlib.contextmanager
def local_contestant(side: Side, conditions: Conditions, suite: Suite) -> Iterator[LocalContestant]:
    """A contestant of this process; ValueError says why the runner cannot serve here."""
    kind = runner_named(side.runner)
    job: Job = suite.job(conditions.stage, kind, side.precision, conditions.batch)
    if side.grid_sample is not None:
        job = dataclasses.replace(job, grid_sample=side.grid_sample)  # type: ignore[arg-type]
    absence = kind.available(job)
    if absence is not None:
        raise ValueError(f"{side.label()} cannot run {conditions.stage} here: {absence}")
    with kind.create(job) as runner:
        runner.bind(suite.inputs(job))
        yield LocalContestant(runner, suite.timing_plan)


class RemoteContestant:
    """A runner of another checkout, in a process of that checkout, that takes its turns through a pipe."""

    def __init__(self, process: subprocess.Popen[str], checkout: Path) -> None:
        self._process, self._checkout = process, checkout
        self.call_seconds = 0.0

    def start(self, side: Side, conditions: Conditions) -> None:
        """Tell the worker what to run and wait until it is warm."""
        asked = {"side": dataclasses.asdict(side), "conditions": dataclasses.asdict(conditions)}
        self.call_seconds = float(self._ask(asked)["call_seconds"])

    def take(self, count: int) -> Turn:
        answer = self._ask({"take": count})
        device = answer["device_ms"]
        return Turn(tuple(map(float, answer["host_ms"])), None if device is None else tuple(map(float, device)))

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # The worker has ended: its answer, or its having none, says how.
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise ValueError(
                f"the checkout {self._checkout} ended with exit status {code} instead of answering: what it wrote is "
                "above; a checkout older than `sadtrt compare` cannot take part"
            )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ValueError(f"the checkout {self._checkout} says: {answer['error']}")
        return answer


@contextlib.contextmanager
def remote_contestant(side: Side, conditions: Conditions, checkout: Path) -> Iterator[RemoteContestant]:
    """A contestant of another checkout of this project, by the same Python; ValueError where it cannot take part."""
    checkout = checkout.resolve()
    if not (checkout / "sadtrt_core").is_dir():
        raise ValueError(f"{checkout} is no checkout of this project: it has no folder sadtrt_core")
    paths = [str(checkout), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.Popen(
        [sys.executable, "-m", "sadtrt_core.compare_worker"],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        contestant = RemoteContestant(process, checkout)
        contestant.start(side, conditions)
        yield contestant
    finally:
        # The end of its input tells the worker to leave.
        with contextlib.suppress(BrokenPipeError):
            process.communicate()


@dataclass(frozen=True)
class Outcome:
    """Medians in ms of both sides on one clock, and the ratio B over A with its interval; above 1, B is slower."""

    clock: str
    a_ms: float
    b_ms: float
    ratio: float
    interval: stats.Interval
    rounds: int
    samples: int

    def sentence(self, a: str, b: str) -> str:
        """What a person may conclude."""
        low, high = self.interval.low, self.interval.high
        level = f"{100 * self.interval.coverage:.0f}%"
        if high < 1:
            return f"{b} is {1 / self.ratio:.3g} times as fast as {a} ({level}: {1 / high:.4g} to {1 / low:.4g})"
        if low > 1:
            return f"{b} takes {self.ratio:.3g} times as long as {a} ({level}: {low:.4g} to {high:.4g})"
        return f"no difference shown: {b} takes {low:.4g} to {high:.4g} times as long as {a} ({level})"


def compare_in_turn(a: Contestant, b: Contestant, seconds: float) -> Outcome:
    """Time both for about `seconds` together, in rounds of A B B A, and compare them on the best clock both have.

    In a round of A B B A a slow linear drift adds the same to both sides; the interval resamples whole rounds
    (`stats.interleaved_ratio`), so drift across rounds does not widen it either.
    """
    count = max(1, round(TURN_SECONDS / max(a.call_seconds, b.call_seconds, 1e-9)))
    round_seconds = 2 * (count + 1) * (a.call_seconds + b.call_seconds)
    rounds = max(ROUNDS_MIN, min(ROUNDS_MAX, int(seconds / max(round_seconds, 1e-9))))
    a_turns: list[tuple[Turn, Turn]] = []
    b_turns: list[tuple[Turn, Turn]] = []
    for _ in range(rounds):
        first, second, third, fourth = a.take(count), b.take(count), b.take(count), a.take(count)
        a_turns.append((first, fourth))
        b_turns.append((second, third))
    on_device = all(turn.device_ms is not None for pair in (*a_turns, *b_turns) for turn in pair)
    a_ms, b_ms = (_samples(turns, on_device) for turns in (a_turns, b_turns))
    ratio, interval = stats.interleaved_ratio(b_ms, a_ms, CONFIDENCE)
    every_a, every_b = ([ms for row in rows for ms in row] for rows in (a_ms, b_ms))
    return Outcome(
        clock="device" if on_device else "host",
        a_ms=stats.median(every_a),
        b_ms=stats.median(every_b),
        ratio=ratio,
        interval=interval,
        rounds=rounds,
        samples=len(every_a),
    )


def _samples(turns: list[tuple[Turn, Turn]], on_device: bool) -> list[list[float]]:
    """One list of samples a round."""
    return [[ms for turn in pair for ms in ((turn.device_ms if on_device else turn.host_ms) or ())] for pair in turns]


def compare_sides(
    a: Side, b: Side, conditions: Conditions, checkout: Path | None, seconds: float, say: Callable[[str], None]
) -> Outcome:
    """Compare `a` with `b`; with a `checkout`, B runs in that checkout. ValueError where a side cannot run."""
    suite = conditions.suite(say)
    with contextlib.ExitStack() as stack:
        here = stack.enter_context(local_contestant(a, conditions, suite))
        other: Contestant
        if checkout is None:
            other = stack.enter_context(local_contestant(b, conditions, suite))
        else:
            other = stack.enter_context(remote_contestant(b, conditions, checkout))
        return compare_in_turn(here, other, seconds)
