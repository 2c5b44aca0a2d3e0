"""Several engines at once, each in a process of its own: a builder keeps one core busy, and a crash stays in it."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Literal

from sadtrt_core.engine.cache import ensure_engine
from sadtrt_core.engine.job import BuildJob

#: Stages by how long their builds take.
_LONGEST_FIRST = ("generator", "decode", "motion", "appearance", "keypoints", "warp", "mapping")


@dataclass(frozen=True)
class BuildEvent:
    """Something that happened to the engine called `label`.

    `phase` comes with what the builder does in `message` and how much of that phase is done (0..1) where known; `line`
    with a sentence a person should see; `done` and `failed` with the seconds it took, `failed` with the reason.
    """

    label: str
    kind: Literal["started", "phase", "line", "done", "failed"]
    message: str = ""
    fraction: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class BuildOutcome:
    """How one build ended: `failure` says why in one sentence, None where the engine is in the cache."""

    job: BuildJob
    failure: str | None
    seconds: float


Report = Callable[[BuildEvent], None]


@dataclass
class _Running:
    job: BuildJob
    position: int
    process: BaseProcess
    events: Connection
    started: float
    last: BuildEvent | None = None


def build_all(
    jobs: Sequence[BuildJob], processes: int, progress: Report = lambda event: None
) -> tuple[BuildOutcome, ...]:
    """Build every job's engine with at most `processes` at a time, those that take longest first.

    One that fails, or whose process dies, does not stop the others. Outcomes are in the order of `jobs`. An interrupt
    ends every process that was started; what was being written is not seen by anybody. Raises ValueError for fewer than
    one process.
    """
    if processes < 1:
        raise ValueError(f"{processes} processes cannot build engines: expected at least 1")
    # Spawned, not forked: CUDA does not survive a fork.
    context = multiprocessing.get_context("spawn")
    waiting = sorted(range(len(jobs)), key=lambda position: _cost(jobs[position]))
    running: list[_Running] = []
    outcomes: dict[int, BuildOutcome] = {}
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                position = waiting.pop(0)
                running.append(_start(context, jobs[position], position))
                progress(BuildEvent(jobs[position].label, "started"))
            for connection in wait([one.events for one in running]):
                one = next(one for one in running if one.events is connection)
                if _receive(one, progress):
                    continue
                running.remove(one)
                outcomes[one.position] = _finish(one, progress)
    finally:
        for one in running:
            one.process.terminate()
        for one in running:
            one.process.join()
            one.events.close()
    return tuple(outcomes[position] for position in range(len(jobs)))


def _cost(job: BuildJob) -> tuple[int, bool, int]:
    """Sorts what takes longest first: the large stages, half before float32 (more tactics), large batches."""
    place = _LONGEST_FIRST.index(job.stage) if job.stage in _LONGEST_FIRST else len(_LONGEST_FIRST)
    return place, job.precision.compute == "float32", -job.batch


def _start(context: multiprocessing.context.SpawnContext, job: BuildJob, position: int) -> _Running:
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_build_in_process, args=(job, sender), name=f"build {job.label}", daemon=True)
    process.start()
    sender.close()  # The child has its own end; with this one open its death would not be noticed.
    return _Running(job, position, process, receiver, time.monotonic())


def _receive(one: _Running, progress: Report) -> bool:
    """Pass one event on; False at the end of the process's events."""
    try:
        event = one.events.recv()
    except (EOFError, OSError):
        return False
    one.last = event
    progress(event)
    return True


def _finish(one: _Running, progress: Report) -> BuildOutcome:
    one.process.join()
    one.events.close()
    seconds = time.monotonic() - one.started
    if one.last is not None and one.last.kind == "done":
        return BuildOutcome(one.job, None, seconds)
    if one.last is not None and one.last.kind == "failed":
        return BuildOutcome(one.job, one.last.message, seconds)
    failure = f"{one.job.label}: the build process died with exit code {one.process.exitcode}"
    if one.last is not None and one.last.kind == "phase":
        failure += f" while {one.last.message!r}"
    progress(BuildEvent(one.job.label, "failed", failure, seconds=seconds))
    return BuildOutcome(one.job, failure, seconds)


def _build_in_process(job: BuildJob, events: Connection) -> None:
    """What a spawned process does; the parent alone answers an interrupt, and ends this process if need be."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    started = time.monotonic()
    sending = threading.Lock()  # The builder reports from several threads.

    def send(event: BuildEvent) -> None:
        # Without its parent the process still finishes the engine: the cache is there for the next one.
        with sending, contextlib.suppress(BrokenPipeError):
            events.send(event)

    try:
        ensure_engine(
            job,
            say=lambda line: send(BuildEvent(job.label, "line", line)),
            progress=lambda phase, fraction: send(BuildEvent(job.label, "phase", phase, fraction)),
        )
    except Exception as error:
        send(BuildEvent(job.label, "failed", str(error) or repr(error), seconds=time.monotonic() - started))
    else:
        send(BuildEvent(job.label, "done", seconds=time.monotonic() - started))
    finally:
        events.close()
