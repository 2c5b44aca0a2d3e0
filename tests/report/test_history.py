"""`sadtrt history`: a row's time and picture over runs, and where they changed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from record_examples import ENVIRONMENT, WEIGHTS, WORKLOAD, drift, key, latency, measured, run_of
from typer.testing import CliRunner

from sadtrt_core.cli import app
from sadtrt_core.records.schema import Run
from sadtrt_core.records.store import read_runs, write_run
from sadtrt_core.report.history import history_tables, sparkline


def run(day: int, ms: float, psnr: float = 70.0, **changes: object) -> Run:
    record = measured(latency=latency(ms, seed=day), drift=drift((psnr, psnr + 2)))
    return run_of(record, started_utc=f"2025-02-{day:02}T12:00:00Z", **changes)


RUNS = [run(day, 4.0) for day in range(1, 6)] + [run(day, 4.4, 64.0) for day in range(6, 10)]


def test_a_row_tells_when_it_changed_and_by_how_much() -> None:
    times, pictures = history_tables(RUNS[::-1])
    (row,) = times.rows
    figures = dict(zip(times.headings, row, strict=True))
    assert (figures["runs"], figures["changed"][:20]) == ("9", "2025-02-06T12:00:00Z")
    assert float(figures["first"]) == pytest.approx(4.0, rel=0.01)
    assert float(figures["last"]) == pytest.approx(4.4, rel=0.01)
    bars = figures["over runs"]
    assert (bars.index("|"), len(bars)) == (5, 10)
    assert pictures.rows[0][-1] == "2025-02-06T12:00:00Z: 70.0 to 64.0"


def test_what_a_change_may_be_due_to_is_said_and_other_machines_stand_apart() -> None:
    newer = dataclasses.replace(ENVIRONMENT, driver="600.1", tensorrt="11.1")
    other = dataclasses.replace(WEIGHTS, digest="d9")
    changed = [run(day, 4.4, environment=newer, weights=other) for day in range(6, 10)]
    assert history_tables(RUNS[:5] + changed)[0].rows[0][-1].endswith("(other driver, tensorrt, weights)")
    elsewhere = dataclasses.replace(ENVIRONMENT, gpu="NVIDIA H100")
    tables = history_tables([*RUNS, run(10, 5.0, environment=elsewhere)])
    assert [table.title for table in tables if table.title.startswith("ms")] == [
        "ms on NVIDIA H200, 256 px",
        "ms on NVIDIA H100, 256 px",
    ]


def test_pictures_of_another_size_stand_apart_and_other_frames_and_options_are_said() -> None:
    large = [run(day, 16.0, workload=dataclasses.replace(WORKLOAD, size=512)) for day in range(6, 10)]
    tables = history_tables(RUNS[:5] + large)
    assert [(table.title, table.rows[0][-1]) for table in tables if table.title.startswith("ms")] == [
        ("ms on NVIDIA H200, 256 px", "-"),
        ("ms on NVIDIA H200, 512 px", "-"),
    ]
    frames = dataclasses.replace(WORKLOAD, frames=32, digest="d3")
    cold = {"grid_sample": "native", "flush_l2": "True"}
    changed = [run(day, 4.4, workload=frames, options=cold) for day in range(6, 10)]
    assert history_tables(RUNS[:5] + changed)[0].rows[0][-1].endswith("(other workload, flush_l2)")


def test_runs_whose_frames_are_nan_or_whose_row_failed_are_not_passed_over() -> None:
    """They had no figure, so that the last good one stood as the last."""
    nan = drift((None, 70.0), ssim=(None, 0.9), non_finite=(True, False))
    broken = run_of(measured(latency=latency(4.0), drift=nan), started_utc="2025-02-06T12:00:00Z")
    failed = dataclasses.replace(measured(), status="failed", reason="CUDA error")
    died = run_of(failed, started_utc="2025-02-07T12:00:00Z")
    times, pictures = history_tables([*RUNS[:5], broken, died])
    cells = dict(zip(pictures.headings, pictures.rows[0], strict=True))
    assert (cells["runs"], cells["first"], cells["last"]) == ("7", "70.0", "failed")
    assert cells["changed"] == "2025-02-06T12:00:00Z: NaN; 2025-02-07T12:00:00Z: failed"
    assert len(cells["over runs"]) == 5
    assert times.rows[0][-1] == "2025-02-07T12:00:00Z: failed"
    assert history_tables([*RUNS[:5], broken])[1].rows[0][-4:-2] == ("70.0", "NaN")


def test_rows_that_stay_level_and_rows_of_one_run_are_not_marked() -> None:
    steady = [run(day, 4.0) for day in range(1, 20)]
    assert {table.rows[0][-1] for table in history_tables(steady)} == {"-"}
    assert {table.rows[0][-1] for table in history_tables(steady[:1])} == {"-"}
    assert sparkline([1.0, 1.0, 3.0], (2,)) == "▁▁|█"


def test_noise_has_no_picture_to_change() -> None:
    row = measured(key(), drift=drift((70.0, 20.0), meaningful=False))
    noise = [run_of(row, started_utc=f"2025-02-0{day}T12:00:00Z") for day in (1, 2)]
    assert len(history_tables(noise)) == 1, "the times alone"


def test_the_command_reads_runs_and_folders_of_runs(tmp_path: Path) -> None:
    for index, one in enumerate(RUNS):
        # The last lie deeper than the others.
        folder = tmp_path / ("" if index < 5 else "baselines/h200") / f"2025020{index + 1}T120000Z-gpu"
        folder.mkdir(parents=True)
        write_run(one, folder / "records.json")
    # A baseline is a copy of a run.
    (tmp_path / "baselines" / "mine").mkdir()
    write_run(RUNS[0], tmp_path / "baselines" / "mine" / "records.json")
    assert len(read_runs([tmp_path])) == len(RUNS)
    write_run(run_of(measured(key("decode"))), tmp_path / "decode.json")
    shown = CliRunner().invoke(app, ["history", str(tmp_path), str(tmp_path / "decode.json")], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    assert "decode" in shown.output
    assert "2025-02-06T12:00:00Z: 70.0 to 64.0" in shown.output
    (tmp_path / "empty").mkdir()
    nothing = CliRunner().invoke(app, ["history", str(tmp_path / "empty")])
    assert nothing.exit_code == 2
    assert "holds no run" in nothing.output
