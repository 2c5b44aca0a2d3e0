"""What the study of the gate makes of stored runs: alarms of unchanged code, and what it catches of what is planted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from record_examples import measured, run_of

from bench.studies import gate_false_alarms as study
from sadtrt_core.records.measurements import Latency
from sadtrt_core.records.store import RECORDS_FILE, write_run


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


def test_a_study_goes_on_with_the_runs_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def keep(run: study.Run, folder: Path) -> None:
        folder.mkdir(parents=True)
        write_run(run, folder / RECORDS_FILE)

    def measure(folder: Path, options: list[str], fresh: bool) -> None:
        made.append(folder.name)
        keep(stored(len(made)), folder / f"2025-{len(made)}")

    monkeypatch.setattr(study, "measure", measure)
    keep(replace(stored(7), complete=False), tmp_path / study.HERE / "2024")
    broken = tuple(replace(one, status="failed", reason="out of memory") for one in stored(8).records)
    keep(replace(stored(8), records=broken), tmp_path / study.FRESH / "2024")
    for runs, fresh, expected in ((2, 1, [study.HERE, study.FRESH, study.HERE]), (3, 2, [study.HERE, study.FRESH])):
        made.clear()
        monkeypatch.setattr("sys.argv", ["study", "--out", str(tmp_path), "--runs", str(runs), "--fresh", str(fresh)])
        study.main()
        assert sorted(made) == sorted(expected)
        samples = study.read_samples(tmp_path / study.SAMPLES)
        assert (len(samples.stored), len(samples.fresh)) == (runs, fresh)
