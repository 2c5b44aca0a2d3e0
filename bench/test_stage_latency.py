"""Latency of every stage, by every runner, in every precision, at every batch; on a GPU, visit by visit."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from sadtrt_core.case import Case
from sadtrt_core.measure.energy import energy_per_call
from sadtrt_core.measure.interleave import Interleaver, RowTiming
from sadtrt_core.measure.memory import device_memory_free_of_leftovers
from sadtrt_core.measure.rows import BENCHMARK_VERSION, failed, resources
from sadtrt_core.measure.timing import LatencySampler
from sadtrt_core.records.schema import Record
from sadtrt_core.session import Session


def test_stage_latency(
    stage: str,
    runner: str,
    precision: str,
    batch: int,
    suite: Session,
    visits: Interleaver,
    later_failures: list[tuple[Case, Exception]],
    benchmark: Any,
    row: Any,
) -> None:
    kind, job, key = row(stage, runner, precision, batch, timed=True)
    benchmark.group = f"{stage}, batch {job.batch}"
    # Made before memory is looked at: they are none of the runner's.
    flush, inputs = suite.l2_flush, suite.inputs(job)
    active = kind.create(job)
    visits.evict(active)
    before = device_memory_free_of_leftovers(job.device)
    with contextlib.ExitStack() as loaded:
        loaded.enter_context(active)
        active.bind(inputs)
        timing = RowTiming(active, suite.timing_plan, suite.sensors, flush)

        def take(sampler: LatencySampler, rounds: int) -> None:
            # pytest-benchmark's own table keeps the rounds it is told of here, with host times: the first of the first
            # visit. The records, and extra_info, hold all samples.
            benchmark.pedantic(sampler.sample_host, setup=sampler.sample_device, rounds=rounds, iterations=1)
            if benchmark.disabled:
                pytest.skip("--benchmark-disable: ran once, recorded nothing")

        timing.visit(take)
        energy = energy_per_call(active, suite.sensors, timing.call_seconds)
        # Before the rows that wait are visited again: what they take anew would else be counted here.
        used = resources(active, before, None if energy is None else energy / job.batch)
        notes = active.notes
        if job.device.type == "cuda" and timing.watch.absence is not None:
            notes = (*notes, f"no telemetry: {timing.watch.absence}")

        def show() -> None:
            latency = timing.latency()
            benchmark.extra_info.update(
                device_ms_median=latency.device_ms_median,
                host_ms_median=latency.host_ms_median,
                median_known_within_percent=100 * timing.sampler.median_half_width(),
                disturbed_samples=len(latency.disturbed),
                late_samples=len(latency.late),
                visits=timing.visits,
                gpu_memory_mb=used.gpu_memory_mb,
                engine_mb=used.engine_mb,
                energy_mj_per_frame=used.energy_mj_per_frame,
                steady=latency.steady,
                weights=suite.renderer.weights.kind,
            )

        def visited() -> None:
            # At once, so that a run that is killed keeps what it measured. The dict is written at the session's end.
            suite.writer.update_times(key, timing.latency(), timing.telemetry())
            show()

        def broke(error: Exception) -> None:
            suite.writer.add(failed(key, error))
            benchmark.extra_info["failed"] = str(error)
            later_failures.append((key, error))

        suite.writer.add(
            Record(
                key,
                "measured",
                latency=timing.latency(),
                resources=used,
                telemetry=timing.telemetry(),
                notes=notes,
                benchmark_version=BENCHMARK_VERSION,
            )
        )
        show()
        visits.repeat()
        visits.keep(timing, active, loaded.pop_all(), visited, broke)
