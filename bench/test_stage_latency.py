"""Latency of every stage, by every runner, in every precision, at every batch."""

from __future__ import annotations

from typing import Any

import pytest

from sadtrt_core.measure.timing import LatencySampler
from sadtrt_core.records.schema import Record
from sadtrt_core.suite import BENCHMARK_VERSION, Suite, device_memory_used, resources


def test_stage_latency(
    stage: str, runner: str, precision: str, batch: int, suite: Suite, benchmark: Any, row: Any
) -> None:
    kind, job, key = row(stage, runner, precision, batch)
    benchmark.group = f"{stage}, batch {job.batch}"
    before = device_memory_used(job.device)
    with kind.create(job) as active:
        active.bind(suite.inputs(job))
        sampler = LatencySampler(active)
        rounds = suite.timing_plan.samples(sampler.warm_up(suite.timing_plan))
        benchmark.pedantic(sampler.sample, rounds=rounds, iterations=1)
        if benchmark.disabled:
            pytest.skip("--benchmark-disable: ran once, recorded nothing")
        latency, used, notes = sampler.result(), resources(active, before), active.notes
    suite.writer.add(
        Record(
            key,
            "measured",
            latency=latency,
            resources=used,
            notes=notes,
            benchmark_version=BENCHMARK_VERSION,
        )
    )
    benchmark.extra_info.update(
        device_ms_median=latency.device_ms_median,
        host_ms_median=latency.host_ms_median,
        gpu_memory_mb=used.gpu_memory_mb,
        engine_mb=used.engine_mb,
        steady=latency.steady,
        weights=suite.renderer.weights.kind,
    )
