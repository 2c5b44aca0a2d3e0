"""What the benchmarks share: looking up a row, and recording why one is not run or how it broke."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sadtrt_core.case import Case
from sadtrt_core.environment import read_environment
from sadtrt_core.errors import BuildError
from sadtrt_core.measure.interleave import Interleaver
from sadtrt_core.measure.rows import failed, skipped
from sadtrt_core.prebuild import unbuilt_reason
from sadtrt_core.runners.base import Job
from sadtrt_core.runners.registry import RunnerKind, runner_named
from sadtrt_core.sampling.rows import SamplingRow, ratio_lines, sampling_table, write_rows
from sadtrt_core.session import Session

Row = tuple[RunnerKind, Job, Case]


@pytest.fixture
def row(request: pytest.FixtureRequest, suite: Session, visits: Interleaver) -> Iterator[Callable[..., Row]]:
    """A function that gives a row's runner, job and key, or records why it cannot be run and skips the test.

    `timed` says that the row is for its latency. Another is run when no row waits for a visit any more.
    """
    looked_up: list[Case] = []

    def look_up(stage: str, runner: str, precision: str, batch: int, timed: bool = False) -> Row:
        kind = runner_named(runner)
        job = suite.job(stage, kind, precision, batch)
        key = suite.key(kind, job)
        reason = kind.available(job)
        if reason is None and runner == "torch-compile" and job.device.type == "cpu":
            # Compiling eight stages in three precisions takes longer than the rest of the suite.
            asked = "torch-compile" in (request.config.getoption("runner") or ())
            reason = None if asked else "compiling takes minutes on a CPU (--runner torch-compile)"
        if reason is None and timed and job.precision.quantize is not None and job.device.type == "cpu":
            asked = precision in (request.config.getoption("precision") or ())
            words = f"{precision} computes in fp32 on a CPU: its drift means something, its time does not"
            reason = None if asked else f"{words} (--precision {precision})"
        if reason is not None:
            suite.writer.add(skipped(key, str(reason)))
            pytest.skip(str(reason))
        if not timed:
            visits.finish()
        looked_up.append(key)
        if runner.startswith("tensorrt") and (broken := unbuilt_reason(suite, job)) is not None:
            # Building it again here would take the same minutes for the same end.
            raise BuildError(broken)
        return kind, job, key

    yield look_up
    report = request.node.stash.get(CALL_ERROR, None)
    if report is not None:
        for key in looked_up:
            suite.writer.add(failed(key, report))


CALL_ERROR = pytest.StashKey[BaseException]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Any:
    """Keep a benchmark's error where its `row` fixture finds it."""
    report = yield
    if call.when == "call" and report.failed and call.excinfo is not None:
        item.stash[CALL_ERROR] = call.excinfo.value
    return report


LATER_FAILURES = pytest.StashKey[list[tuple[Case, Exception]]]()


@pytest.fixture(scope="session")
def later_failures(request: pytest.FixtureRequest) -> list[tuple[Case, Exception]]:
    """Rows that broke at a visit after their own test had passed, and how."""
    return request.config.stash.setdefault(LATER_FAILURES, [])


@pytest.fixture(scope="session")
def visits(request: pytest.FixtureRequest, suite: Session) -> Iterator[Interleaver]:
    """The rows that wait for another visit. What still waits after the last benchmark is visited then, unless the run
    was cut short: then runners are closed and nothing more.
    """
    with contextlib.closing(Interleaver(suite.timing_plan)) as waiting:
        yield waiting
        session = request.session
        if session.exitstatus == pytest.ExitCode.OK and not (session.shouldfail or session.shouldstop):
            waiting.finish()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Rows that broke late fail the run, as those do that break in their own test."""
    if session.config.stash.get(LATER_FAILURES, []) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


SAMPLING_ROWS = pytest.StashKey[list[SamplingRow]]()
RATIOS = "times as fast as PyTorch, by its form (in fp16 all but `fp32 coordinates` round the coordinates to half):"
SAMPLING_FILE = pytest.StashKey[Path]()


@pytest.fixture(scope="session")
def sampling_rows(request: pytest.FixtureRequest, suite: Session) -> Iterator[list[SamplingRow]]:
    """Where the rows of sampling a volume by itself are gathered; in the end they are kept beside the run's records.

    A run that recorded nothing else has no folder of its own: then they are in results/grid-sample/.
    """
    rows: list[SamplingRow] = []
    yield rows
    if not rows:
        return
    folder = suite.writer.folder if suite.started else suite.options.results / "grid-sample"
    request.config.stash[SAMPLING_ROWS] = rows
    request.config.stash[SAMPLING_FILE] = write_rows(rows, read_environment(suite.device), folder)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    for key, error in config.stash.get(LATER_FAILURES, []):
        terminalreporter.write_line(f"{key.label()} failed at a later visit: {type(error).__name__}: {error}", red=True)
    rows = config.stash.get(SAMPLING_ROWS, None)
    if rows is None:
        return
    # Where there is no terminal to ask, wide enough that no word of a table breaks.
    file = terminalreporter._tw._file
    console = Console(file=file, width=None if file.isatty() else 160)
    console.print(sampling_table(rows))
    if ratios := ratio_lines(rows):
        console.print(RATIOS)
    for line in ratios:
        console.print(f"  {line}", markup=False, soft_wrap=True)
    if SAMPLING_FILE in config.stash:
        console.print(f"sampling: {os.path.relpath(config.stash[SAMPLING_FILE])}", soft_wrap=True)
