"""What the benchmarks share: looking up a row, and recording why one is not run or how it broke."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sadtrt_core.records.schema import RecordKey
from sadtrt_core.runners.base import Job
from sadtrt_core.runners.registry import RunnerKind, runner_named
from sadtrt_core.suite import Suite, failed, skipped

Row = tuple[RunnerKind, Job, RecordKey]


@pytest.fixture
def row(request: pytest.FixtureRequest, suite: Suite) -> Iterator[Callable[..., Row]]:
    """A function that gives a row's runner, job and key, or records why it cannot be run and skips the test."""
    looked_up: list[RecordKey] = []

    def look_up(stage: str, runner: str, precision: str, batch: int) -> Row:
        kind = runner_named(runner)
        job = suite.job(stage, kind, precision, batch)
        key = suite.key(kind, job)
        reason = kind.available(job)
        if reason is None and runner == "torch-compile" and job.device.type == "cpu":
            # Compiling eight stages in three precisions takes longer than the rest of the suite.
            asked = "torch-compile" in (request.config.getoption("runner") or ())
            reason = None if asked else "compiling takes minutes on a CPU (--runner torch-compile)"
        if reason is not None:
            suite.writer.add(skipped(key, str(reason)))
            pytest.skip(str(reason))
        looked_up.append(key)
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
