"""What a run leaves behind when something breaks in the middle of it: readable, marked, and said in words."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from suite_runs import ROOT, TINY, SuiteProcess, end_suite, run_suite, start_suite

from sadtrt_core.gate.judge import compare_runs
from sadtrt_core.gate.limits import Thresholds
from sadtrt_core.records.store import read_run

TWO_ROWS = (*TINY, "--stage", "keypoints")

FAULTS = """
    import errno
    import os
    import pytest
    import resource
    import shutil
    import stat
    import torch
    from sadtrt_core.measure import drift as reference
    from sadtrt_core import session as suite
    from sadtrt_core.measure.sensors import Reading
    from sadtrt_core.records.store import RunWriter
    from sadtrt_core.renderer.config import demo_config
    from sadtrt_core.renderer.renderer import seeded_renderer
    from sadtrt_core.runners.base import StageRunner
    from sadtrt_core.runners.pytorch import PyTorchRunner
    from sadtrt_core.session import Session

    patch = pytest.MonkeyPatch()

    def pytest_configure(config):
        # The small networks: what breaks here does not depend on their size.
        patch.setattr(suite, "choose_weights", lambda *_, **__: seeded_renderer(demo_config()))
        globals()[os.environ["FAULT"]]()

    def pytest_unconfigure(config):
        patch.undo()
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)

    def nothing():
        pass

    def cache_full():
        # Graphs do not fit any more, records do; this holds for root as well.
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))

    def runner_dies():
        execute, calls = PyTorchRunner.execute, []

        def dying(self):
            calls.append(self.job.stage.name)
            if calls.count("mapping") > 10:
                calls.clear()
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            execute(self)

        patch.setattr(PyTorchRunner, "execute", dying)

    def nan_frame(which=1):
        # Grey frames stand for the renderer's, so that the test takes no minute.
        def grey(job, inputs, dtype=torch.float32, **_):
            return [torch.full((1, 3, 64, 64), 0.5, dtype=dtype) for _ in inputs]

        def broken(self, items):
            frames = torch.cat(grey(None, items))
            frames[which, 2, 30, 40] = float("nan")
            return frames

        patch.setattr(reference, "reference_frames", grey)
        patch.setattr(StageRunner, "frames", broken)

    def nan_frames():
        nan_frame(slice(None))

    def results_gone():
        add = RunWriter.add

        def adding(self, record):
            kept = add(self, record)
            shutil.rmtree(self.root)
            return kept

        patch.setattr(RunWriter, "add", adding)

    def read_only():
        replace, written = os.replace, []

        def refuse(source, target):
            # Once for the empty run and once for the first record.
            if str(target).endswith("records.json"):
                written.append(target)
            if len(written) > 2:
                raise OSError(errno.EROFS, "Read-only file system")
            replace(source, target)

        patch.setattr(os, "replace", refuse)

    def disk_full():
        fsync, done = os.fsync, []

        def refuse(file):
            # Once for the empty run and once for the first record; folders are synchronised too.
            done.append(stat.S_ISREG(os.fstat(file).st_mode))
            if sum(done) > 2:
                raise OSError(errno.ENOSPC, "No space left on device")
            fsync(file)

        patch.setattr(os, "fsync", refuse)

    def clock_drop():
        class Dropping:
            def __init__(self):
                self.looks, self.counter = 0, 0.0

            def read(self):
                self.looks += 1
                return Reading(1500.0 if self.looks == 2 else 1980.0, 3201.0, 50.0, 400.0, 900.0)

            def energy_mj(self):
                self.counter += 1000.0
                return self.counter

        patch.setattr(Session, "sensors", Dropping())
"""


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SuiteProcess]:
    made = SuiteProcess(tmp_path_factory.mktemp("suite"), FAULTS)
    yield made
    made.close()


def test_a_runner_that_dies_in_the_middle_is_a_failed_row_and_the_suite_goes_on(suite: SuiteProcess) -> None:
    finished = suite.run(TWO_ROWS, FAULT="runner_dies")
    assert finished.code == 1, finished.output
    run = read_run(finished.folders[-1])
    broken, whole = run.records
    assert (broken.key.stage, broken.status) == ("mapping", "failed")
    assert broken.reason == "RuntimeError: CUDA error: an illegal memory access was encountered"
    assert broken.latency is None
    assert (whole.key.stage, whole.status) == ("keypoints", "measured")
    assert run.complete
    assert "an illegal memory access was encountered" in finished.output


def test_a_run_that_stops_at_its_first_failure_is_not_complete(suite: SuiteProcess) -> None:
    finished = suite.run((*TWO_ROWS, "-x"), FAULT="runner_dies")
    assert finished.code == 1, finished.output
    run = read_run(finished.folders[-1])
    assert [(record.key.stage, record.status) for record in run.records] == [("mapping", "failed")]
    assert not run.complete


def test_a_nan_frame_is_counted_shown_and_stops_the_gate(suite: SuiteProcess) -> None:
    finished = suite.run(
        ["bench/test_precision_drift.py", *TINY[1:], "--stage", "generator", "--frames", "3"], FAULT="nan_frame"
    )
    assert finished.code == 0, finished.output
    assert "NaN in 1 of 3" in finished.output
    run = read_run(finished.folders[-1])
    (record,) = run.records
    assert record.drift is not None
    assert record.drift.non_finite == (False, True, False)
    sound = dataclasses.replace(record.drift, non_finite=(False,) * 3, ssim=(1.0,) * 3)
    result = compare_runs(
        run, dataclasses.replace(run, records=(dataclasses.replace(record, drift=sound),)), Thresholds()
    )
    assert (result.exit_code, result.rows[0].verdict, result.rows[0].reason) == (1, "worse picture", "non_finite")


def test_a_row_without_one_whole_frame_fails_by_itself(suite: SuiteProcess) -> None:
    arguments = ["bench/test_precision_drift.py", *TINY[1:], "--stage", "generator", "--frames", "3"]
    finished = suite.run(arguments, FAULT="nan_frames")
    assert finished.code == 1, finished.output
    (record,) = read_run(finished.folders[-1]).records
    assert (record.status, record.drift is not None) == ("failed", True)
    assert "each of the 3 frames holds NaN or infinity" in finished.output


def test_results_that_are_deleted_meanwhile_are_said_and_no_traceback(suite: SuiteProcess) -> None:
    finished = suite.run(TWO_ROWS, FAULT="results_gone")
    assert finished.code == 1, finished.output
    assert "INTERNALERROR" not in finished.output
    assert "the run cannot be shown: cannot read" in finished.output


@pytest.mark.parametrize(
    ("fault", "words"), [("read_only", "Read-only file system"), ("disk_full", "No space left on device")]
)
def test_results_that_cannot_be_written_any_more_leave_what_was_written(
    suite: SuiteProcess, fault: str, words: str
) -> None:
    finished = suite.run(TWO_ROWS, FAULT=fault)
    assert finished.code == 1, finished.output
    assert f"{words}; free some space or choose a folder that can be written" in finished.output
    assert "the run is not complete: cannot write" in finished.output
    run = read_run(finished.folders[-1])
    assert not run.complete
    assert [record.key.stage for record in run.records] == ["mapping"]
    assert not [path for path in finished.folders[-1].iterdir() if path.name.startswith(".")], "half-written files"


def test_a_cache_that_is_full_is_a_failed_row_and_when_there_is_room_again_a_measured_one(suite: SuiteProcess) -> None:
    onnx = [word if word != "pytorch" else "onnxruntime" for word in TINY]
    finished = suite.run(onnx, FAULT="cache_full")
    assert finished.code == 1, finished.output
    assert "File too large; free some space or choose a folder that can be written" in finished.output
    run = read_run(finished.folders[-1])
    (record,) = run.records
    assert (record.status, run.complete) == ("failed", True)
    assert not [path for path in (suite.folder / "cache").rglob("*") if path.name.endswith(".tmp")], "half a file"
    again = suite.run(onnx, FAULT="nothing")
    assert again.code == 0, again.output


def test_samples_during_a_clock_drop_are_marked_in_the_record_and_the_table(suite: SuiteProcess) -> None:
    finished = suite.run(FAULT="clock_drop")
    assert finished.code == 0, finished.output
    (record,) = read_run(finished.folders[-1]).records
    assert record.latency is not None
    assert record.telemetry is not None
    assert record.resources is not None
    assert record.latency.disturbed
    assert record.telemetry.sm_clock_mhz is not None
    assert record.telemetry.sm_clock_mhz[0] == 1500.0
    assert record.telemetry.memory_used_mb == (900.0, 900.0, 900.0)
    assert (record.resources.energy_mj_per_frame or 0) > 0
    (latency,) = (line for line in finished.output.splitlines() if line.startswith("│ mapping"))
    assert " * │" in latency
    assert "1500 to 1980" in (finished.folders[-1] / "report.html").read_text()


def test_a_run_killed_between_two_benchmarks_stays_readable_and_incomplete(tmp_path: Path) -> None:
    killed = """
        import os, signal

        def pytest_runtest_logfinish(nodeid):
            os.kill(os.getpid(), signal.SIGKILL)
    """
    finished = run_suite(tmp_path, TWO_ROWS, killed)
    assert finished.code == -signal.SIGKILL
    (folder,) = finished.folders
    run = read_run(folder)
    assert not run.complete
    assert [(record.key.stage, record.status) for record in run.records] == [("mapping", "measured")]
    assert [path.name for path in folder.iterdir()] == ["records.json"]
    assert not (tmp_path / "results" / "latest").exists()


@pytest.mark.parametrize("moments", [("pytest_runtest_setup",), ("pytest_runtest_setup", "pytest_sessionfinish")])
def test_a_run_is_complete_only_if_every_benchmark_ran(tmp_path: Path, moments: tuple[str, ...]) -> None:
    """One Ctrl-C at the second benchmark, and another one while the first is dealt with."""
    interrupting = """
import os, pytest, signal

# What a shell starts in the background ignores it.
signal.signal(signal.SIGINT, signal.default_int_handler)
seen = []
"""
    for moment in moments:
        interrupting += f"""
@pytest.hookimpl(tryfirst=True)
def {moment}():
    seen.append("{moment}")
    if seen.count("pytest_runtest_setup") == 2:
        os.kill(os.getpid(), signal.SIGINT)
"""
    finished = run_suite(tmp_path, TWO_ROWS, interrupting)
    assert finished.code != 0, finished.output
    (folder,) = finished.folders
    run = read_run(folder)
    assert [record.key.stage for record in run.records] == ["mapping"]
    assert not run.complete
    assert not (tmp_path / "results" / "latest").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-p", "no:benchmark"), "the benchmarks need pytest-benchmark"),
        (("-n", "1"), "nothing is timed with --benchmark-disable or pytest-xdist's -n"),
    ],
)
def test_what_cannot_be_run_is_one_sentence(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    named = tuple(argument for argument in TINY if argument != "--benchmark-only")
    arguments = (*named, *arguments, "--results", str(tmp_path), "--cache", str(tmp_path))
    done = subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert words in done.stdout + done.stderr
    assert "INTERNALERROR" not in done.stdout + done.stderr


def test_two_runs_at_the_same_time_in_one_checkout_both_finish(tmp_path: Path) -> None:
    started = [start_suite(tmp_path), start_suite(tmp_path)]
    ended = [end_suite(process, tmp_path) for process in started]
    assert [finished.code for finished in ended] == [0, 0], ended[0].output + ended[1].output
    first, second = ended[1].folders
    for folder in (first, second):
        run = read_run(folder)
        assert run.complete
        assert len(run.records) == 1
    assert (tmp_path / "results" / "latest").resolve() in (first, second)
