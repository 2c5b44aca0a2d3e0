"""What the benchmarks share: how a case that cannot be measured or breaks is recorded, and the cases that wait."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from sadtrt_core.benchmark import failed, not_measured, skipped
from sadtrt_core.case import Case
from sadtrt_core.environment import read_environment
from sadtrt_core.measure.interleave import Interleaver
from sadtrt_core.sampling.rows import SamplingRow, ratio_lines, sampling_table, write_rows
from sadtrt_core.session import Session

Recorded = Callable[..., contextlib.AbstractContextManager[None]]


@pytest.fixture
def recorded(session: Session) -> Recorded:
    """A context around the measuring of a case: skips it with its reason, or records how it broke."""

    @contextlib.contextmanager
    def around(case: Case, timed: bool) -> Iterator[None]:
        missing = not_measured(session, case, timed)
        if missing is not None:
            session.writer.add(skipped(case, str(missing)))
            pytest.skip(str(missing))
        try:
            yield
        except Exception as error:
            session.writer.add(failed(case, error))
            raise

    return around


LATER_FAILURES = pytest.StashKey[list[tuple[Case, Exception]]]()


@pytest.fixture(scope="session")
def later_failures(request: pytest.FixtureRequest) -> list[tuple[Case, Exception]]:
    """Cases that broke at a repetition after their own test had passed, and how."""
    return request.config.stash.setdefault(LATER_FAILURES, [])


@pytest.fixture(scope="session")
def interleaver(request: pytest.FixtureRequest, session: Session) -> Iterator[Interleaver]:
    """The cases that wait for another repetition. What still waits after the last benchmark is repeated then.

    Where the run was cut short, runners are closed and nothing more.
    """
    with contextlib.closing(Interleaver(session.timing_plan)) as waiting:
        yield waiting
        run = request.session
        if run.exitstatus == pytest.ExitCode.OK and not (run.shouldfail or run.shouldstop):
            waiting.finish()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Cases that broke late fail the run, as those do that break in their own test."""
    if session.config.stash.get(LATER_FAILURES, []) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


SAMPLING_ROWS = pytest.StashKey[list[SamplingRow]]()
SAMPLING_FILE = pytest.StashKey[Path]()
RATIOS = "times as fast as PyTorch, by its form (in fp16 all but `fp32 coordinates` round the coordinates to half):"


@pytest.fixture(scope="session")
def sampling_rows(request: pytest.FixtureRequest, session: Session) -> Iterator[list[SamplingRow]]:
    """Where the rows of sampling a volume by itself are gathered; in the end they are kept beside the run's records.

    A run that recorded nothing else has no folder of its own: then they are in results/grid-sample/.
    """
    rows: list[SamplingRow] = []
    yield rows
    if not rows:
        return
    folder = session.writer.folder if session.started else session.options.results / "grid-sample"
    request.config.stash[SAMPLING_ROWS] = rows
    request.config.stash[SAMPLING_FILE] = write_rows(rows, read_environment(session.device), folder)


def pytest_sadtrt_summary(config: pytest.Config, console: Console) -> None:
    """The terminal's last tables: sampling by itself, before those of the stages."""
    rows = config.stash.get(SAMPLING_ROWS, None)
    if rows is not None:
        console.print(sampling_table(rows))
        if ratios := ratio_lines(rows):
            console.print(RATIOS)
        for line in ratios:
            console.print(f"  {line}", markup=False, soft_wrap=True)
        console.print(f"sampling: {os.path.relpath(config.stash[SAMPLING_FILE])}", soft_wrap=True)
    for case, error in config.stash.get(LATER_FAILURES, []):
        line = f"{case} failed at a later repetition: {type(error).__name__}: {error}"
        console.print(line, style="red", markup=False, soft_wrap=True)
