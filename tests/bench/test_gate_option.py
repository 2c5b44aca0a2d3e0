"""`pytest bench/ --gate` and pytest-benchmark's own ways of saving and comparing, run as a user runs them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from suite_runs import EXACT_TIMES, TINY, Finished, SuiteProcess

from sadtrt_core.records.schema import Run
from sadtrt_core.records.store import read_run, write_run


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SuiteProcess]:
    made = SuiteProcess(tmp_path_factory.mktemp("suite"), EXACT_TIMES)
    yield made
    made.close()


def timed(suite: SuiteProcess, *options: str, factor: float = 1.0, seed: int = 1) -> Finished:
    """A run of one row that takes 10 ms times `factor`."""
    return suite.run((*TINY, *options), FACTOR=str(factor), SEED=str(seed))


@pytest.fixture(scope="module")
def saved(suite: SuiteProcess) -> Finished:
    """A run that was kept by pytest-benchmark and by us."""
    return timed(suite, "--benchmark-save=before", f"--benchmark-json={suite.folder / 'all.json'}")


def stored(suite: SuiteProcess) -> Path:
    (file,) = (suite.folder / "storage").rglob("0001_before.json")
    return file


def test_saved_json_is_valid_and_has_our_figures(suite: SuiteProcess, saved: Finished) -> None:
    assert saved.code == 0, saved.output

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    for file in (suite.folder / "all.json", stored(suite)):
        data = json.loads(file.read_text(), parse_constant=refuse)
        (benchmark,) = data["benchmarks"]
        extra = benchmark["extra_info"]
        assert "UNSERIALIZABLE" not in json.dumps(data)
        assert extra["host_ms_median"] == pytest.approx(10.0, rel=0.01)
        assert (extra["device_ms_median"], extra["energy_mj_per_frame"]) == (None, None)
        assert (extra["disturbed"], extra["weights"]) == (0, "seeded")
        assert data["machine_info"]["sadtrt"]["gpu"] is None


def test_same_code_passes_and_slower_code_is_a_regression(suite: SuiteProcess, saved: Finished) -> None:
    same = timed(suite, "--gate", str(saved.folders[0]), seed=2)
    assert same.code == 0, same.output
    assert "gate: passed (1 same)" in same.output
    # `latest` is the run before this one, not this one.
    slow = timed(suite, "--gate", str(suite.folder / "results" / "latest"), factor=1.3, seed=3)
    assert slow.code == 1, slow.output
    assert "gate: regression (1 slower)" in slow.output
    assert "1 passed" in slow.output, "the benchmark itself did not fail"


def test_pytest_benchmarks_own_comparison_knows_what_was_rendered(suite: SuiteProcess, saved: Finished) -> None:
    alike = timed(suite, "--benchmark-compare=0001", seed=5)
    assert alike.code == 0, alike.output
    others = timed(suite, "--benchmark-compare=0001", "--frames", "9", seed=6)
    assert others.code != 0, others.output
    assert "the saved benchmark had frames 32, this run 9" in others.output
    content = stored(suite).read_text()
    try:
        edit(stored(suite), lambda data: data["sadtrt"].update(weights="those of another file of the same name"))
        others = timed(suite, "--benchmark-compare=0001", seed=6)
    finally:
        stored(suite).write_text(content)
    assert others.code == pytest.ExitCode.USAGE_ERROR, others.output
    assert "the saved benchmark had other weights or inputs" in others.output
    assert "passed" not in others.output


def changed(run: Run, folder: Path, **changes: object) -> str:
    file = folder / "baseline.json"
    write_run(dataclasses.replace(run, **changes), file)
    return str(file)


def test_rows_that_are_missing_and_another_processor_are_told_apart(suite: SuiteProcess, saved: Finished) -> None:
    run = read_run(saved.folders[0])
    more = dataclasses.replace(run.records[0], key=dataclasses.replace(run.records[0].key, stage="decode"))
    missing = timed(suite, "--gate", changed(run, suite.folder, records=(*run.records, more)), seed=4)
    assert missing.code == 3, missing.output
    assert "rows missing" in missing.output
    elsewhere = dataclasses.replace(run.environment, cpu="another processor")
    other = timed(suite, "--gate", changed(run, suite.folder, environment=elsewhere), seed=4)
    assert other.code == 2, other.output
    assert "the processor changed: another processor" in other.output


def test_a_baseline_that_cannot_be_read_ends_the_run_before_it_measures(suite: SuiteProcess, saved: Finished) -> None:
    content = (saved.folders[0] / "records.json").read_bytes()
    (suite.folder / "cut.json").write_bytes(content[: len(content) // 2])
    finished = timed(suite, "--gate", str(suite.folder / "cut.json"))
    assert finished.code == 2
    assert "is not whole JSON, truncated perhaps" in finished.output
    assert "passed" not in finished.output


def test_a_run_that_measured_nothing_does_not_pass(suite: SuiteProcess, saved: Finished) -> None:
    skipped = suite.run(
        [*(word if word != "pytorch" else "tensorrt" for word in TINY), "--gate", str(saved.folders[0])]
    )
    assert skipped.code == 3, skipped.output
    assert "1 skipped" in skipped.output
    nothing = timed(suite, "-k", "nothing_at_all", "--gate", str(saved.folders[0]))
    assert nothing.code == 2, nothing.output
    assert "no benchmark recorded anything" in nothing.output


def edit(file: Path, change: Callable[[dict], object]) -> None:
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


def test_benchmark_compare_fails_on_a_slower_run_and_refuses_another_gpu(suite: SuiteProcess, saved: Finished) -> None:
    compare = ("--benchmark-compare=0001", "--benchmark-compare-fail=min:50%")
    edit(stored(suite), lambda data: data["benchmarks"][0]["stats"].update(min=3600.0))
    same = timed(suite, *compare, seed=5)
    assert same.code == 0, same.output
    assert "0001_before" in same.output
    edit(stored(suite), lambda data: data["benchmarks"][0]["stats"].update(min=1e-9))
    slow = timed(suite, *compare, seed=5)
    assert slow.code == 1, slow.output
    assert "Performance has regressed" in slow.output
    edit(stored(suite), lambda data: data["machine_info"]["sadtrt"].update(gpu="NVIDIA H100 PCIe"))
    other = timed(suite, *compare, seed=5)
    assert other.code not in (0, 1), other.output
    assert "the saved benchmark ran on NVIDIA H100 PCIe, this run on a CPU" in other.output
