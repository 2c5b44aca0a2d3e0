"""Several engines at once, each in a process of its own: a builder keeps one core busy, and a crash stays in it."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from sadtrt_core.engine.cache import ensure_engine
from sadtrt_core.engine.job import BuildJob
from sadtrt_core.errors import UserError
from sadtrt_core.progress import SILENT, Reporter
from sadtrt_core.renderer.stages import STAGES


@dataclass(frozen=True)
class BuildOutcome:
    """How one build ended: `failure` says why in one sentence, None where the engine is in the cache."""

    job: BuildJob
    failure: str | None
    seconds: float


@dataclass
class _Running:
    """A build in its process; `doing` is the task it was last heard of, `ended` whether it told its end."""

    job: BuildJob
    position: int
    process: BaseProcess
    messages: Connection
    started: float
    doing: str = ""
    ended: bool = False
    failure: str | None = None


def build_all(jobs: Sequence[BuildJob], processes: int, report: Reporter = SILENT) -> tuple[BuildOutcome, ...]:
    """Build every job's engine with at most `processes` at a time, those that take longest first.

    One that fails, or whose process dies, does not stop the others. Outcomes are in the order of `jobs`. An interrupt
    ends every process that was started; what was being written is not seen by anybody. Raises UserError for fewer than
    one process.
    """
    if processes < 1:
        raise UserError(f"{processes} processes cannot build engines: expected at least 1")
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
                report.progress(f"{jobs[position].label}: starting", 0, None)
            for connection in wait([one.messages for one in running]):
                one = next(one for one in running if one.messages is connection)
                if _receive(one, report):
                    continue
                running.remove(one)
                outcomes[one.position] = _finish(one, report)
    finally:
        for one in running:
            one.process.terminate()
        for one in running:
            one.process.join()
            one.messages.close()
    return tuple(outcomes[position] for position in range(len(jobs)))


def _cost(job: BuildJob) -> tuple[int, bool, int]:
    """Sorts what takes longest first: the large stages, half before float32 (more tactics), large batches."""
    stage = STAGES.get(job.case.stage)
    return -(stage.build_cost if stage else 0), job.precision.compute == "float32", -job.case.batch


def _start(context: multiprocessing.context.SpawnContext, job: BuildJob, position: int) -> _Running:
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_build_in_process, args=(job, sender), name=f"build {job.label}", daemon=True)
    process.start()
    sender.close()  # The child has its own end; with this one open its death would not be noticed.
    return _Running(job, position, process, receiver, time.monotonic())


def _receive(one: _Running, report: Reporter) -> bool:
    """Pass one message on; False at the end of the process's messages."""
    try:
        kind, *words = one.messages.recv()
    except (EOFError, OSError):
        return False
    if kind == "end":
        one.ended, (one.failure,) = True, words
    elif kind == "log":
        report.log(*words)
    else:
        one.doing = words[0]
        report.progress(*words)
    return True


def _finish(one: _Running, report: Reporter) -> BuildOutcome:
    one.process.join()
    one.messages.close()
    failure = one.failure
    if not one.ended:
        failure = f"{one.job.label}: the build process died with exit code {one.process.exitcode}"
        if one.doing:
            failure += f" while {one.doing.removeprefix(one.job.label + ': ')!r}"
    report.progress(f"{one.job.label}: {'built' if failure is None else 'failed'}", 1, 1)
    return BuildOutcome(one.job, failure, time.monotonic() - one.started)


class _PipeReporter(Reporter):
    """Sends what it is told to the parent process."""

    def __init__(self, messages: Connection) -> None:
        self._messages = messages
        self._sending = threading.Lock()  # The builder reports from several threads.

    def send(self, *message: object) -> None:
        # Without its parent the process still finishes the engine: the cache is there for the next one.
        with self._sending, contextlib.suppress(BrokenPipeError):
            self._messages.send(message)

    def log(self, line: str) -> None:
        self.send("log", line)

    def progress(self, task: str, done: float, total: float | None) -> None:
        self.send("progress", task, done, total)


def _build_in_process(job: BuildJob, messages: Connection) -> None:
    """What a spawned process does; the parent alone answers an interrupt, and ends this process if need be."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    report = _PipeReporter(messages)
    try:
        ensure_engine(job, report)
    except Exception as error:
        report.send("end", str(error) or repr(error))
    else:
        report.send("end", None)
    finally:
        messages.close()
