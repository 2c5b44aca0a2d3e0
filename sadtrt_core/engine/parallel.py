"""Several engines at once, each in a process of its own: a builder keeps one core busy, and a crash stays in it."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from sadtrt_core.engine.cache import ensure_engine
from sadtrt_core.engine.job import BuildJob
from sadtrt_core.errors import UserError
from sadtrt_core.progress import SILENT, Reporter
from sadtrt_core.renderer.stages import STAGES


def build_all(jobs: Sequence[BuildJob], processes: int, report: Reporter = SILENT) -> tuple[str | None, ...]:
    """Build every job's engine with at most `processes` at a time, those that take longest first.

    Returns, in the order of `jobs`, why each one failed in one sentence, None where the engine is in the cache. One
    that fails, or whose process dies, does not stop the others. An interrupt ends every process that was started; what
    was being written is not seen by anybody. Raises UserError for fewer than one process.
    """
    if processes < 1:
        raise UserError(f"{processes} processes cannot build engines: expected at least 1")
    # Spawned, not forked: CUDA does not survive a fork.
    context = multiprocessing.get_context("spawn")
    waiting = sorted(range(len(jobs)), key=lambda position: _cost(jobs[position]))
    running: dict[Connection, tuple[int, SpawnProcess]] = {}
    heard: dict[int, str] = {}  # The task that each was last heard of.
    ended: dict[int, str | None] = {}
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                position = waiting.pop(0)
                job = jobs[position]
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(
                    target=_build_in_process, args=(job, sender), name=f"build {job.label}", daemon=True
                )
                process.start()
                sender.close()  # The child has its own end; with this one open its death would not be noticed.
                running[receiver] = position, process
                report.progress(f"{job.label}: starting", 0, None)
            ready = wait(list(running))
            for receiver in [one for one in running if one in ready]:
                position, process = running[receiver]
                try:
                    kind, *words = receiver.recv()
                except (EOFError, OSError):
                    del running[receiver]
                    process.join()
                    receiver.close()
                    label = jobs[position].label
                    if position not in ended:
                        doing = heard.get(position, "").removeprefix(f"{label}: ")
                        told = f" while {doing!r}" if doing else ""
                        ended[position] = f"{label}: the build process died with exit code {process.exitcode}{told}"
                    report.progress(f"{label}: {'built' if ended[position] is None else 'failed'}", 1, 1)
                    continue
                if kind == "end":
                    (ended[position],) = words
                elif kind == "log":
                    report.log(*words)
                else:
                    heard[position] = words[0]
                    report.progress(*words)
    finally:
        for _, process in running.values():
            process.terminate()
        for receiver, (_, process) in running.items():
            process.join()
            receiver.close()
    return tuple(ended[position] for position in range(len(jobs)))


def _cost(job: BuildJob) -> tuple[int, bool, int]:
    """Sorts what takes longest first: the large stages, half before float32 (more tactics), large batches."""
    stage = STAGES.get(job.case.stage)
    return -(stage.build_cost if stage else 0), job.precision.compute == "float32", -job.case.batch


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
