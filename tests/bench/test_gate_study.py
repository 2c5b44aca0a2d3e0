"""What the study of the gate makes of stored runs: alarms of unchanged code, and what it catches of what is planted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from record_examples import measured, run_of

from bench.studies import gate_false_alarms as study
from sadtrt_core.records.measurements import Latency


def stored(seed: int, level: float = 4.0) -> study.Run:
    draw = study.np.random.default_rng(seed)
    times = tuple(level * (1 + 0.002 * draw.normal(size=800)))
    latency = Latency(times, times, 5, True, visits=tuple(range(0, 800, 100)))
    return run_of(measured(latency=latency, drift=None), started_utc=f"2025-01-31T12:00:{seed:02}Z")


def test_stored_runs_are_judged_and_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [stored(seed) for seed in range(6)]
    samples = study.Samples(
        (*(study.Stored(0.0, run) for run in runs[:4]), study.Stored(0.05, stored(9, 4.2))), tuple(runs[4:])
    )
    (tmp_path / study.SAMPLES).write_text(json.dumps(samples.to_json()))
    monkeypatch.setattr("sys.argv", ["study", "--out", str(tmp_path), "--runs", "0", "--fresh", "0"])
    study.main()
    found = json.loads((tmp_path / "decisions.json").read_text())
    assert [(row["decisions"], row["false alarms"]) for row in found["unchanged code"]] == [(12, 0), (18, 0), (6, 0)]
    caught = {row["planted"]: (row["caught"], row["of"]) for row in found["planted losses"]}
    assert caught == {
        **dict.fromkeys(("4% slower", "5% slower", "2% of samples twice", "4% of samples twice"), (30, 30)),
        "5% slower by extra work": (4, 4),
    }
    assert "| 5% slower by extra work |" in (tmp_path / "decisions.md").read_text()
