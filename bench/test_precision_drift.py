"""Drift of the rendered frames over the driving sequence, by every runner, in every precision."""

from __future__ import annotations

from typing import Any

import pytest

from sadtrt_core.measure.reference import REFERENCE_FLOOR_DB
from sadtrt_core.measure.rows import BENCHMARK_VERSION
from sadtrt_core.records.schema import Record
from sadtrt_core.session import Session


def test_precision_drift(
    runner: str, precision: str, suite: Session, benchmark: Any, row: Any, request: pytest.FixtureRequest
) -> None:
    asked = request.config.getoption("stage")
    if asked and "generator" not in asked:
        pytest.skip("drift is the whole generator's: --stage leaves it out")
    kind, job, key = row("generator", runner, precision, 1)
    benchmark.group = "drift over the driving sequence"
    reference = suite.reference
    if not reference.sound:
        pytest.fail(
            f"the reference cannot judge anything: repeatable {reference.repeatable}, "
            f"{reference.against_float64.psnr_min:.1f} dB against float64 where {REFERENCE_FLOOR_DB:.0f} are needed"
        )
    items = suite.frame_inputs
    with kind.create(job) as active:
        active.infer(items[0])  # Loads, compiles and tunes outside the one timed round.
        frames = benchmark.pedantic(suite.render_sequence, args=(active, items), rounds=1, iterations=1)
        notes = active.notes
    if benchmark.disabled:
        pytest.skip("--benchmark-disable: ran once, recorded nothing")
    drift = suite.drift(frames)
    if (runner, precision) == ("pytorch", "fp32"):
        checked = reference.against_float64
        notes = (*notes, f"the reference: repeatable, {checked.psnr_min:.1f} dB against float64")
    suite.writer.add(Record(key, "measured", drift=drift, notes=notes, benchmark_version=BENCHMARK_VERSION))
    suite.save_frames(key, frames, drift)
    benchmark.extra_info.update(
        psnr_min=None if drift.has_non_finite else drift.psnr_min,
        psnr_mean=None if drift.has_non_finite else drift.psnr_mean,
        ssim_min=None if drift.has_non_finite else drift.ssim_min,
        max_lsb=drift.max_lsb_worst,
        non_finite_frames=sum(drift.non_finite),
        drift_meaningful=drift.meaningful,
        weights=suite.renderer.weights.kind,
    )
