"""bench/test_operators.py as a user runs it: what is measured without a GPU, and that only right kernels are timed."""

from __future__ import annotations

import json

import pytest
from on_host import kernels_on_host
from suite_runs import SuiteProcess, run_suite

COMMON = ("bench/test_operators.py", "--benchmark-only", "--device", "cpu", "-p", "no:cacheprovider")
ONE_SUM = ("--precision", "fp32", "-k", "hourglass and 512 and not compiled")
#: The kernels of split convolutions run on the host, where they pass as a GPU's.
ON_HOST = """
    import ctypes
    from sadtrt_core.engine import kernels

    kernels.kernels_absence = lambda device: None
    kernels.find_kernels = lambda: ctypes.CDLL({library!r})
"""
WRONG = """
    right = kernels.KernelLaunch.__call__
    kernels.KernelLaunch.__call__ = lambda self: right(self) + 0.01
"""


@pytest.fixture(scope="module")
def suite_process(tmp_path_factory):
    process = SuiteProcess(tmp_path_factory.mktemp("suite"), plugin="")
    yield process
    process.close()


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return kernels_on_host("split_sum", tmp_path_factory.mktemp("kernel"))._name


def rows_of(folder, operator):
    name = f"{operator.replace(' ', '-')}/{operator.replace(' ', '_')}.json"
    return json.loads((folder / "results" / name).read_text())["rows"]


def test_every_operator_has_rows_of_pytorch_without_a_gpu(suite_process):
    finished = suite_process.run(COMMON)
    assert finished.code == 0, finished.output
    assert finished.folders == ()
    for operator in ("spade norm", "split sum", "motion input", "motion sum"):
        rows = rows_of(suite_process.folder, operator)
        assert {(row["method"], row["dtype"]) for row in rows} == {("PyTorch, channels last", "float32")}
        assert all(row["host_us"] > 0 and row["limit_us"] > 0 and row["max_difference"] == 0 for row in rows)
        assert f"{operator}, by itself" in finished.output
    for reason in (
        "the kernels run on an NVIDIA GPU, not on cpu",
        "compiling takes minutes on a CPU (--runner torch-compile)",
        "half is timed on a GPU",
        "more than 40 MB are timed on a GPU",
    ):
        assert reason in finished.output


def test_the_compiled_form_is_measured_where_it_was_asked_for(suite_process):
    finished = suite_process.run((*COMMON, "--runner", "torch-compile", "-k", "motion and sum or hourglass and 512"))
    assert finished.code == 0, finished.output
    for operator in ("motion sum", "split sum"):
        (row,) = rows_of(suite_process.folder, operator)
        assert row["method"] == "PyTorch, compiled"
        assert row["max_difference"] < 1e-5


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--stage", "warp"), "is no stage"),
        (("--precision", "bf16"), "no operator is left by --runner and --precision"),
        (("--runner", "onnxruntime"), "no operator is left by --runner and --precision"),
        (("--batch", "4"), "at a batch of one"),
    ],
)
def test_a_filter_that_leaves_no_row_says_so(suite_process, options, reason):
    finished = suite_process.run((*COMMON, *options))
    assert finished.code == 0, finished.output
    assert reason in finished.output
    assert "1 skipped" in finished.output


def test_a_kernel_is_timed_beside_pytorch(tmp_path, library):
    finished = run_suite(tmp_path, (*COMMON, *ONE_SUM), ON_HOST.format(library=library))
    assert finished.code == 0, finished.output
    rows = rows_of(tmp_path, "split sum")
    assert [row["method"] for row in rows] == ["kernel, linear", "PyTorch, channels last"]
    # PyTorch adds the bias last.
    assert rows[0]["max_difference"] < 1e-5 > rows[1]["max_difference"] == 0
    # Windows of 3 x 3 with twelve parts each, as many outputs of 4 x 4, and what comes behind them read and written.
    assert {row["bytes_moved"] for row in rows} == {4 * 512 * 16 * (12 * 3 * 3 + 3 * 4 * 4)}
    assert "hourglass up, 512 channels, float32, kernel, linear: " in finished.output


def test_a_wrong_kernel_is_not_timed(tmp_path, library):
    finished = run_suite(tmp_path, (*COMMON, *ONE_SUM), ON_HOST.format(library=library) + WRONG)
    assert finished.code == 1, finished.output
    assert "not worth timing" in finished.output
    assert [row["method"] for row in rows_of(tmp_path, "split sum")] == ["PyTorch, channels last"]
