"""Latency of every stage, by every runner, in every precision, at every batch."""

from __future__ import annotations

from typing import Any

import pytest

from sadtrt_core.measure.energy import energy_per_call
from sadtrt_core.measure.host_load import HostLoad
from sadtrt_core.measure.memory import device_memory_free_of_leftovers
from sadtrt_core.measure.telemetry import TelemetrySampler
from sadtrt_core.measure.timing import LatencySampler
from sadtrt_core.records.schema import Record
from sadtrt_core.rows import BENCHMARK_VERSION, resources
from sadtrt_core.suite import Suite


def test_stage_latency(
    stage: str, runner: str, precision: str, batch: int, suite: Suite, benchmark: Any, row: Any
) -> None:
    kind, job, key = row(stage, runner, precision, batch, timed=True)
    benchmark.group = f"{stage}, batch {job.batch}"
    # Made before memory is looked at: they are none of the runner's.
    flush, inputs = suite.l2_flush, suite.inputs(job)
    before = device_memory_free_of_leftovers(job.device)
    with kind.create(job) as active:
        active.bind(inputs)
        sampler = LatencySampler(active, flush)
        call_seconds = sampler.warm_up(suite.timing_plan)
        with HostLoad(yardstick=job.device.type == "cpu") as host:
            with TelemetrySampler(suite.sensors) as watch:
                benchmark.pedantic(sampler.sample, rounds=suite.timing_plan.samples(call_seconds), iterations=1)
                if benchmark.disabled:
                    pytest.skip("--benchmark-disable: ran once, recorded nothing")
                # pytest-benchmark's own table keeps the rounds it was told of; the records hold all samples.
                sampler.sample_until_known(suite.timing_plan)
            energy = energy_per_call(active, suite.sensors, call_seconds)
        latency = sampler.result(watch.disturbed(sampler.windows))
        used = resources(active, before, None if energy is None else energy / job.batch)
        notes = active.notes
    if job.device.type == "cuda" and watch.absence is not None:
        notes = (*notes, f"no telemetry: {watch.absence}")
    suite.writer.add(
        Record(
            key,
            "measured",
            latency=latency,
            resources=used,
            telemetry=watch.telemetry(sampler.windows, host),
            notes=notes,
            benchmark_version=BENCHMARK_VERSION,
        )
    )
    benchmark.extra_info.update(
        device_ms_median=latency.device_ms_median,
        host_ms_median=latency.host_ms_median,
        median_known_within_percent=100 * sampler.median_half_width(),
        disturbed_samples=len(latency.disturbed),
        gpu_memory_mb=used.gpu_memory_mb,
        engine_mb=used.engine_mb,
        energy_mj_per_frame=used.energy_mj_per_frame,
        steady=latency.steady,
        weights=suite.renderer.weights.kind,
    )
