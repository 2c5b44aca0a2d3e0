"""Latency of every stage, by every runner, in every precision, at every batch; on a GPU, in interleaved repetitions."""

from __future__ import annotations

from typing import Any

import pytest

from sadtrt_core.benchmark import NOT_TIMED, measure_latency
from sadtrt_core.case import Case
from sadtrt_core.measure.interleave import Interleaver
from sadtrt_core.measure.timing import LatencySampler
from sadtrt_core.records.schema import Record
from sadtrt_core.report.metrics import extra_info
from sadtrt_core.session import Session


def test_stage_latency(
    stage: str,
    runner: str,
    precision: str,
    batch: int,
    session: Session,
    interleaver: Interleaver,
    later_failures: list[tuple[Case, Exception]],
    benchmark: Any,
    recorded: Any,
) -> None:
    case = session.case(stage, runner, precision, batch)
    benchmark.group = f"{stage}, batch {case.batch}"

    def take(sampler: LatencySampler, rounds: int) -> None:
        # pytest-benchmark's own table keeps the rounds it is told of here, with host times: the first of the first
        # repetition. The records, and extra_info, hold all samples.
        benchmark.pedantic(sampler.sample_host, setup=sampler.sample_device, rounds=rounds, iterations=1)
        if benchmark.disabled:
            pytest.skip(NOT_TIMED)

    def show(record: Record) -> None:
        benchmark.extra_info.update(extra_info(record), weights=session.renderer.weights.kind)

    def broke(error: Exception) -> None:
        benchmark.extra_info["failed"] = str(error)
        later_failures.append((case, error))

    with recorded(case, timed=True):
        measure_latency(session, case, interleaver, take, show, broke)
