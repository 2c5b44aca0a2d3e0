"""bench/test_grid_sample.py as a user runs it: what the options leave, and where the rows go."""

from __future__ import annotations

import json

import pytest
from suite_runs import SuiteProcess, run_suite

FILE = "bench/test_grid_sample.py"
COMMON = ("--benchmark-only", "--device", "cpu", "-p", "no:cacheprovider")


@pytest.fixture(scope="module")
def suite_process(tmp_path_factory):
    process = SuiteProcess(tmp_path_factory.mktemp("suite"), plugin="")
    yield process
    process.close()


@pytest.fixture(scope="module")
def measured(suite_process):
    json_file = suite_process.folder / "benchmark.json"
    options = ("--runner", "pytorch", "--precision", "fp32", "--benchmark-json", str(json_file))
    finished = suite_process.run((FILE, *COMMON, *options))
    return finished, suite_process.folder, json.loads(json_file.read_text())


def test_rows_that_were_asked_for_are_measured_and_kept_without_a_run_of_stages(measured):
    finished, folder, _ = measured
    assert finished.code == 0, finished.output
    assert finished.folders == ()
    rows = json.loads((folder / "results" / "grid-sample" / "grid_sample.json").read_text())["rows"]
    assert {row["method"].split(",")[0] for row in rows} == {"PyTorch"}
    assert {(row["shape"], row["method"]) for row in rows} == {
        ("16 grids, 4 channels, 256 px", "PyTorch, tiles in each call"),
        ("16 grids, 4 channels, 256 px", "PyTorch, tiled before"),
        ("16 grids, 4 channels, 256 px", "PyTorch, expanded view"),
        ("1 grid, 32 channels, 256 px", "PyTorch"),
    }
    assert all(row["host_us"] > 0 and row["max_difference"] < 1e-4 for row in rows)
    assert "grid sample, by itself" in finished.output
    assert "take a CPU a second a call (--size 512)" in finished.output


def test_pytest_benchmark_keeps_rates_beside_its_own_figures(measured):
    _, _, kept = measured
    assert len(kept["benchmarks"]) == 4
    for entry in kept["benchmarks"]:
        info = entry["extra_info"]
        seconds = entry["stats"]["median"]
        assert info["bytes_per_second"] == pytest.approx(info["bytes_moved"] / seconds)
        assert 0 < info["share_of_copy_rate"] == pytest.approx(info["bytes_per_second"] / info["copy_bytes_per_second"])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--stage", "warp"), "is no stage"),
        (("--precision", "bf16"), "no way to sample a volume is left"),
        (("--runner", "torch-compile"), "no way to sample a volume is left"),
    ],
)
def test_a_filter_that_leaves_no_row_says_so(suite_process, options, reason):
    finished = suite_process.run((FILE, *COMMON, *options))
    assert finished.code == 0, finished.output
    assert reason in finished.output
    assert "1 skipped" in finished.output


def test_a_wrong_sampler_is_not_timed(tmp_path):
    plugin = """
        from sadtrt_core.sampling import methods

        def pytest_configure(config):
            right = methods.torch_launch

            def wrong(volume, grid, **form):
                launch = right(volume, grid, **form)
                return lambda: launch() + 0.01

            methods.torch_launch = wrong
    """
    options = ("--runner", "pytorch", "--precision", "fp32", "-k", "expanded")
    finished = run_suite(tmp_path, (FILE, *COMMON, *options), plugin)
    assert finished.code == 1, finished.output
    assert "not worth timing" in finished.output
    assert not (tmp_path / "results" / "grid-sample").exists()
