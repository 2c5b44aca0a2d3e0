"""The gate experiment's own counting: what it calls a false alarm, a catch and a run that others disturbed."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "bench" / "experiments"), str(ROOT / "tests" / "records"), *sys.path])


def run(seed: int, factor: float = 1.0, others_percent: float | None = None):
    from record_examples import key, latency, measured, on_cpu, run_of

    from sadtrt_core.records.schema import Telemetry

    seen = Telemetry(None, None, None, None, others_percent=others_percent)
    rows = (
        measured(key(stage), latency=latency(None, factor * ms, seed=seed + ms), drift=None, telemetry=seen)
        for stage, ms in (("decode", 10), ("warp", 5))
    )
    return on_cpu(run_of(*rows))


def test_decisions_are_counted_by_what_the_gate_answers():
    from gate_decisions import StoredRun, all_pairs, power_decisions, same_code_decisions

    from sadtrt_core.records.thresholds import Thresholds

    stored = [StoredRun(0.0, run(100 * seed)) for seed in range(4)]
    stored += [StoredRun(0.2, run(999, 1.2)), StoredRun(0.05, run(555, 1.05))]
    same = same_code_decisions(all_pairs(stored), Thresholds())
    assert (same["decisions"], same["false_alarms"]["count"], same["not_comparable"]["count"]) == (6, 0, 0)
    alarms = same_code_decisions([(run(1, 1.3), run(2))], Thresholds())
    assert alarms["false_alarms"] == {"count": 1, "of": 1, "percent": 100.0}
    assert alarms["rows_called_worse"]["count"] == 2
    small, large = power_decisions(stored, Thresholds())[::2]
    assert (small["planted_percent"], small["caught"]["count"]) == (5.0, 0), "host time's default limit is 10%"
    assert small["interval_above_zero"]["count"] == 4
    assert (large["planted_percent"], large["caught"]["percent"]) == (20.0, 100.0)
    assert large["median_change_percent"] == pytest.approx(20, abs=1)


def test_planted_losses_of_picture_are_what_they_are_called():
    from gate_decisions import _one_level_more

    from sadtrt_core.measure.drift import measure_drift

    random = np.random.default_rng(0)
    reference = torch.from_numpy(random.uniform(0.2, 0.8, (2, 3, 32, 32))).float()
    frames = reference + torch.from_numpy(random.normal(0, 0.01, reference.shape)).float()
    before, after = (measure_drift(reference, made) for made in (frames, _one_level_more(reference, frames)))
    assert after.max_lsb_worst == before.max_lsb_worst + 1
    louder = measure_drift(reference, reference + (frames - reference) * 10 ** (1 / 20))
    assert before.psnr_mean - louder.psnr_mean == pytest.approx(1.0, abs=0.001)


def test_a_disturbed_run_is_measured_again_while_patience_lasts(monkeypatch: pytest.MonkeyPatch):
    import gate_experiment

    monkeypatch.setattr(gate_experiment.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(gate_experiment.Patience, "_is_quiet_now", lambda self: True)
    disturbed, quiet = run(1, others_percent=60.0), run(1, others_percent=2.0)
    patience = gate_experiment.Patience(1000.0)
    given = [disturbed, disturbed, quiet]
    assert patience.measure(lambda: given.pop(0)) is quiet
    assert patience.again == 2
    assert gate_experiment.Patience(0.0).measure(lambda: disturbed) is disturbed, "an impatient one takes what it gets"
    on_gpu = dataclasses.replace(
        disturbed,
        records=tuple(
            dataclasses.replace(row, latency=dataclasses.replace(row.latency, device_ms=row.latency.host_ms))
            for row in disturbed.records
        ),
    )
    assert gate_experiment.Patience(1000.0).measure(lambda: on_gpu) is on_gpu, "device times do not suffer"


def test_plain_and_planted_runs_are_mixed():
    from gate_experiment import schedule

    order = schedule(21, 5, (0.03, 0.05))
    assert [order.count(level) for level in (0.0, 0.03, 0.05)] == [21, 5, 5]
    halves = order[:16], order[16:]
    assert all(half.count(0.03) >= 2 and half.count(0.05) >= 2 for half in halves)
