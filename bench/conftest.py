"""What the benchmarks share: how cases that cannot be measured or break are recorded, cases that wait, operators."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from sadtrt_core.benchmark import NOT_TIMED, failed, skipped
from sadtrt_core.case import Case
from sadtrt_core.environment import read_environment
from sadtrt_core.left_out import not_measured
from sadtrt_core.measure.graph_times import Launch, copies_beyond_cache, copy_rate, graph_time_us
from sadtrt_core.measure.interleave import Interleaver
from sadtrt_core.report.html import print_table
from sadtrt_core.report.operators import OperatorRow, operator_table, ratio_lines, write_rows
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
    """The cases that wait for another repetition; repeated to the end unless the run was cut short."""
    with contextlib.closing(Interleaver(session.timing_plan)) as waiting:
        yield waiting
        run = request.session
        if run.exitstatus == pytest.ExitCode.OK and not (run.shouldfail or run.shouldstop):
            waiting.finish()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Cases that broke in a later repetition fail the run, as those do that break in their own test."""
    if session.config.stash.get(LATER_FAILURES, []) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


OPERATOR_ROWS = pytest.StashKey[dict[Path, list[OperatorRow]]]()


@pytest.fixture(scope="session")
def operator_rows(request: pytest.FixtureRequest, session: Session) -> Iterator[dict[str, list[OperatorRow]]]:
    """Rows of operators by themselves, by operator; in the end they are kept beside the run's records.

    A run that recorded nothing else has no folder of its own: then "grid sample" is in results/grid-sample/.
    """
    gathered: dict[str, list[OperatorRow]] = {}
    yield gathered
    kept = request.config.stash.setdefault(OPERATOR_ROWS, {})
    for operator, rows in gathered.items():
        alone = session.options.results / operator.replace(" ", "-")
        path = (session.writer.folder if session.started else alone) / f"{operator.replace(' ', '_')}.json"
        write_rows(rows, read_environment(session.device), path)
        kept[path] = rows


@pytest.fixture(scope="session")
def device_copy_rate(session: Session) -> float:
    """Bytes a second, read and written, of a copy within the device's memory."""
    return copy_rate(session.device)


@pytest.fixture
def time_operator(
    session: Session, benchmark: Any, operator_rows: dict[str, list[OperatorRow]], device_copy_rate: float
) -> Callable[..., None]:
    """What times one way to compute an operator by itself, and keeps it as a row of that operator."""
    on_gpu = session.device.type == "cuda"

    def timed(operator: str, launch_of: Callable[[int], Launch], **about: Any) -> None:
        """`launch_of(seed)` is a launch on tensors of its own, `about` the fields of the row that are no times."""
        launch, warm, cold = launch_of(0), None, None

        def once() -> None:
            launch()
            if on_gpu:
                torch.cuda.synchronize()

        benchmark.group = f"{operator}, {about['shape']}, {about['dtype']}"
        benchmark.pedantic(once, rounds=40 if on_gpu else 3, warmup_rounds=10 if on_gpu else 0, iterations=1)
        if benchmark.disabled:
            pytest.skip(NOT_TIMED)
        if on_gpu:
            copies = copies_beyond_cache(about["bytes_moved"], session.device)
            cold = graph_time_us([launch, *(launch_of(seed) for seed in range(1, copies))])
            warm = graph_time_us([launch])
        host = benchmark.stats.stats.median * 1e6
        row = OperatorRow(**about, host_us=host, cold_us=cold, warm_us=warm, copy_rate=device_copy_rate)
        operator_rows.setdefault(operator, []).append(row)
        benchmark.extra_info.update(row.extra_info())

    return timed


def pytest_sadtrt_summary(config: pytest.Config, console: Console) -> None:
    """The terminal's last tables: operators by themselves, before those of the stages."""
    for path, rows in config.stash.get(OPERATOR_ROWS, {}).items():
        print_table(operator_table(path.stem.replace("_", " "), rows), console)
        if ratios := ratio_lines(rows):
            console.print("times as fast as PyTorch, by its form:")
        for line in ratios:
            console.print(f"  {line}", markup=False, soft_wrap=True)
        console.print(f"rows: {os.path.relpath(path)}", markup=False, soft_wrap=True)
    for case, error in config.stash.get(LATER_FAILURES, []):
        line = f"{case} failed at a later repetition: {type(error).__name__}: {error}"
        console.print(line, style="red", markup=False, soft_wrap=True)
