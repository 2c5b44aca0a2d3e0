"""The suite where cases are repeated: what the records hold, and what is left when a later repetition breaks."""

from __future__ import annotations

import csv
import json
import signal
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from suite_runs import TINY, SuiteProcess, run_suite

from sadtrt_core.records.schema import Record
from sadtrt_core.records.store import read_run

THREE_REPETITIONS = """
    import os
    from dataclasses import replace
    import pytest
    import torch
    from sadtrt_core.measure import drift as reference
    from sadtrt_core import session as suite
    from sadtrt_core.measure.timing import TimingPlan
    from sadtrt_core.measure.interleave import Repetitions, Interleaver
    from sadtrt_core.renderer.config import demo_config
    from sadtrt_core.renderer.renderer import seeded_renderer
    from sadtrt_core.runners.base import StageRunner
    from sadtrt_core.runners.pytorch import PyTorchRunner

    patch = pytest.MonkeyPatch()
    PLAN = TimingPlan(2, 0.0, 0.0, 12, 12, repetitions=3, apart_seconds=0.1, rewarm_calls=1)

    def pytest_configure(config):
        flat = seeded_renderer(replace(demo_config(), feature_depth=2))
        patch.setattr(suite, "choose_weights", lambda *_, **__: flat)
        patch.setattr(suite, "CPU_PLAN", PLAN)
        repeat, deactivate = Repetitions.repeat, PyTorchRunner.deactivate

        def breaking(self, *arguments):
            if os.environ.get("BREAKS") == f"{self.sampler.runner.job.batch} {self.done + 1}":
                breaks()
            repeat(self, *arguments)

        def freed(self):
            print("freed", self.job.batch)
            deactivate(self)

        patch.setattr(Repetitions, "repeat", breaking)
        patch.setattr(PyTorchRunner, "deactivate", freed)

        if os.environ.get("DRIFT"):
            made = []
            init = Interleaver.__init__

            def noted(self, *arguments):
                made.append(self)
                init(self, *arguments)

            def render(self, items):
                print("drift of the generator,", made[0].waiting, "wait")
                return torch.full((len(items), 3, 64, 64), 0.5)

            patch.setattr(Interleaver, "__init__", noted)
            patch.setattr(StageRunner, "frames", render)
            def grey(job, inputs, dtype=torch.float32, **_):
                return [torch.full((1, 3, 64, 64), 0.5, dtype=dtype) for _ in inputs]

            patch.setattr(reference, "reference_frames", grey)
            # What the generator computes is not what this is about, and takes seconds.
            patch.setattr(PyTorchRunner, "execute", lambda self: None)
            patch.setattr(PyTorchRunner, "infer", lambda self, inputs: {})

    def pytest_unconfigure(config):
        patch.undo()

    def breaks():
        how = os.environ["HOW"]
        if how == "killed":
            os.kill(os.getpid(), 9)
        raise KeyboardInterrupt if how == "interrupted" else RuntimeError("CUDA error: misaligned address")
"""
THREE_ROWS = (*TINY, "--batch", "1", "--batch", "2", "--batch", "3", "--order-seed", "5", "-s")
"""The rows are told apart by their batch, and measured in its order, which is what this seed draws."""


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SuiteProcess]:
    made = SuiteProcess(tmp_path_factory.mktemp("suite"), THREE_REPETITIONS)
    yield made
    made.close()


def records(folder: Path) -> dict[int, Record]:
    return {record.key.batch: record for record in read_run(folder).records}


def test_every_row_is_repeated_as_often_as_planned_and_the_saved_json_knows_all_of_them(suite: SuiteProcess) -> None:
    file = suite.folder / "benchmarks.json"
    finished = suite.run((*THREE_ROWS, f"--benchmark-json={file}"), BREAKS="")
    assert finished.code == 0, finished.output
    rows = records(finished.folders[-1])
    assert list(rows) == [1, 2, 3]
    assert {row.latency.visits for row in rows.values()} == {(0, 4, 8)}
    assert {len(row.latency.host_ms) for row in rows.values()} == {12}
    assert read_run(finished.folders[-1]).complete
    saved = {bench["params"]["batch"]: bench for bench in json.loads(file.read_text())["benchmarks"]}
    for batch, row in rows.items():
        assert saved[batch]["extra_info"]["host_ms_median"] == row.latency.host_ms_median
        assert saved[batch]["stats"]["rounds"] == 4, "pytest-benchmark's own table has the first repetition only"
    assert [finished.output.count(f"freed {batch}") for batch in rows] == [1, 1, 1]


def test_no_row_waits_for_a_repetition_while_drift_is_measured(suite: SuiteProcess) -> None:
    arguments = ("bench/test_stage_latency.py", "bench/test_precision_drift.py", *TINY[1:])
    finished = suite.run((*arguments, "--stage", "generator", "--frames", "2", "-s"), BREAKS="", DRIFT="1")
    assert finished.code == 0, finished.output
    assert "drift of the generator, 0 wait" in finished.output
    rows = read_run(finished.folders[-1]).records
    assert {row.key.stage: len(row.latency.visits) for row in rows} == {"mapping": 3, "generator": 3}
    assert next(row for row in rows if row.key.stage == "generator").drift is not None


@pytest.mark.parametrize("number", [2, 3])
def test_a_row_that_dies_at_a_later_repetition_is_failed_and_so_is_the_run(suite: SuiteProcess, number: int) -> None:
    """The second repetition happens in the test of another row, the third of the middle row after the last test."""
    finished = suite.run(THREE_ROWS, BREAKS=f"2 {number}", HOW="dies")
    assert finished.code == 1, finished.output
    assert "3 passed" in finished.output, "its own test was over, and no other row's is to blame"
    rows = records(finished.folders[-1])
    broken = rows.pop(2)
    assert (broken.status, broken.reason) == ("failed", "RuntimeError: CUDA error: misaligned address")
    assert len(broken.latency.visits) == number - 1
    assert {(row.status, len(row.latency.visits)) for row in rows.values()} == {("measured", 3)}
    assert "mapping/pytorch/fp32/batch 2 failed at a later repetition: RuntimeError: CUDA error" in finished.output
    assert read_run(finished.folders[-1]).complete
    assert finished.output.count("freed 2") == 1


def test_an_interrupt_at_a_later_repetition_frees_every_runner_and_keeps_what_was_measured(suite: SuiteProcess) -> None:
    finished = suite.run(THREE_ROWS, BREAKS="2 2", HOW="interrupted")
    assert finished.code == 2, finished.output
    run = read_run(finished.folders[-1])
    assert not run.complete
    assert {record.key.batch: len(record.latency.visits) for record in run.records} == {1: 3, 2: 1, 3: 1}
    for batch in (1, 2, 3):
        assert finished.output.count(f"freed {batch}") == 1, batch


def test_a_run_that_stops_at_its_first_failure_repeats_nothing(suite: SuiteProcess) -> None:
    finished = suite.run((*THREE_ROWS, "-x"), BREAKS="2 1", HOW="dies")
    assert finished.code == 1, finished.output
    rows = records(finished.folders[-1])
    assert {batch: row.status for batch, row in rows.items()} == {1: "measured", 2: "failed"}
    assert len(rows[1].latency.visits) == 1
    assert not read_run(finished.folders[-1]).complete
    assert finished.output.count("freed 1") == 1


def test_a_run_that_is_killed_keeps_every_repetition_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BREAKS", "1 3")
    monkeypatch.setenv("HOW", "killed")
    finished = run_suite(tmp_path, THREE_ROWS, textwrap.dedent(THREE_REPETITIONS))
    assert finished.code == -signal.SIGKILL
    (folder,) = finished.folders
    assert not read_run(folder).complete
    held = {batch: len(row.latency.visits) for batch, row in records(folder).items()}
    assert held == {1: 2, 2: 1, 3: 1}


def test_rows_are_shuffled_within_their_stage_by_a_seed_that_is_recorded(suite: SuiteProcess) -> None:
    options = ("--batch", "1", "--batch", "2", "--batch", "3", "--stage", "keypoints")
    orders = {}
    for seed in ((), ("--order-seed", "1"), ("--order-seed", "5")):
        finished = suite.run((*TINY, *options, *seed), BREAKS="")
        assert finished.code == 0, finished.output
        run = read_run(finished.folders[-1])
        assert f"rows of a stage in the order of seed {run.order_seed}" in finished.output
        order = [(record.key.stage, record.key.batch) for record in run.records]
        assert [stage for stage, _ in order] == ["mapping"] * 3 + ["keypoints"] * 3
        orders[run.order_seed] = order
        rows = csv.DictReader((finished.folders[-1] / "summary.csv").read_text().splitlines())
        assert [row["batch"] for row in rows] == ["1", "2", "3"] * 2, "a table has the order of no seed"
    assert {1, 5} <= set(orders)
    assert orders[1] != orders[5]


def test_a_cold_start_and_the_rate_of_a_sustained_clip_are_recorded_and_shown(suite: SuiteProcess) -> None:
    finished = suite.run((*TINY, "--stage", "clip", "--clip-frames", "2"), BREAKS="", DRIFT="")
    assert finished.code == 0, finished.output
    rows = {record.key.stage: record for record in read_run(finished.folders[-1]).records}
    for record in rows.values():
        assert record.resources.load_s > 0
        assert record.resources.first_call_ms > 0
    clip = rows["clip"].sustained
    assert clip.seconds >= 0.5
    assert clip.frames % 2 == 0, "whole clips"
    assert rows["mapping"].sustained is None, "without sensors only a clip is called back to back"
    shown = {
        row["stage"]: row for row in csv.DictReader((finished.folders[-1] / "summary.csv").read_text().splitlines())
    }
    assert float(shown["clip"]["frames_per_second"]) == pytest.approx(clip.frames / clip.seconds)
    assert "frames/s" in (finished.folders[-1] / "report.html").read_text()
