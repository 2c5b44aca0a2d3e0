"""The agreement experiment's arithmetic, and the launch of its spinning kernel, without a GPU."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "bench" / "experiments"), *sys.path])


def test_kernels_that_fill_the_call_agree_and_gaps_do_not():
    from timing_agreement import compare_with_kernels

    kernels = [(start, start + 980.0) for start in (0.0, 1000.0, 5000.0, 6000.0)]  # Two calls of two kernels.
    close = compare_with_kernels("row", [1.99, 1.99], kernels, 1.98)
    assert close["agrees"]
    assert (close["kernels_ms"], close["busy_ms"], close["kernels_a_call"]) == (1.96, 1.96, 2.0)
    assert close["difference_percent"] == pytest.approx(1.531)
    assert "by 2 kernels a call: +1.53%" in close["sentence"]
    assert close["first_to_last_ms"] == 1.98
    assert not compare_with_kernels("row", [2.1, 2.1], kernels, 2.0)["agrees"]


def test_gaps_between_kernels_are_told_from_clocks_that_differ():
    from timing_agreement import compare_with_kernels

    kernels = [(start, start + 900.0) for start in (0.0, 1000.0, 5000.0, 6000.0)]
    found = compare_with_kernels("row", [1.91, 1.91], kernels, 1.9)
    assert (found["agrees"], found["agrees_with_sum"], found["first_to_last_ms"]) == (True, False, 1.9)
    assert "the clocks agree, the rest are gaps between kernels" in found["sentence"]
    uneven = compare_with_kernels("row", [1.91, 1.91], kernels[:3], 1.9)
    assert (uneven["agrees"], uneven["first_to_last_ms"]) == (False, None)


def test_kernels_that_overlap_are_told_from_time_that_is_missing():
    from timing_agreement import compare_with_kernels

    found = compare_with_kernels("row", [1.0], [(0.0, 800.0), (200.0, 1000.0)], 1.0)
    assert (found["agrees_with_sum"], found["kernels_ms"], found["busy_ms"]) == (False, 1.6, 1.0)
    assert found["agrees"]
    assert "the clocks agree, the rest is time in which kernels overlap" in found["sentence"]


class Driver:
    """libcuda as far as the spinning kernel asks it; `launched` holds nanoseconds and the stream's handle."""

    def __init__(self, refuses: str = "") -> None:
        self.refuses, self.launched = refuses, []

    def cuModuleLoadData(self, module, image):
        assert b".entry spin" in image.value
        module._obj.value = 7
        return 218 if self.refuses == "cuModuleLoadData" else 0

    def cuModuleGetFunction(self, function, module, name):
        assert (module.value, name.value) == (7, b"spin")
        function._obj.value = 9
        return 0

    def cuLaunchKernel(self, function, *rest):
        *sizes, stream, parameters, extra = rest
        assert function.value == 9
        assert [size.value for size in sizes] == [1, 1, 1, 1, 1, 1, 0]
        assert extra is None
        self.launched.append((ctypes.cast(parameters[0], ctypes.POINTER(ctypes.c_uint64)).contents.value, stream.value))
        return 0

    def cuGetErrorString(self, code, words):
        words._obj.value = b"a PTX JIT compilation failed"


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)


@pytest.mark.usefixtures("no_gpu")
def test_the_kernel_is_launched_on_the_stream_for_the_time_asked():
    from spin_kernel import SpinKernel

    driver = Driver()
    stream = type("Stream", (), {"cuda_stream": 0x1234})()
    SpinKernel(driver).launch(stream, 20_000_000)
    assert driver.launched == [(20_000_000, 0x1234)]


@pytest.mark.usefixtures("no_gpu")
def test_a_driver_that_refuses_the_kernel_leaves_the_delays_unchecked_with_its_words(monkeypatch):
    import timing_agreement

    refusing = Driver("cuModuleLoadData")
    monkeypatch.setattr(timing_agreement, "SpinKernel", lambda: __import__("spin_kernel").SpinKernel(refusing))
    (finding,) = timing_agreement.check_delays()
    assert finding["agrees"] is None
    assert "cuModuleLoadData failed with error 218: a PTX JIT compilation failed" in finding["sentence"]


@pytest.mark.skipif(shutil.which("ptxas") is None, reason="ptxas of the CUDA toolkit is not on the PATH")
@pytest.mark.parametrize("architecture", ["sm_75", "sm_90", "sm_120"])
def test_the_assembler_takes_the_kernel(tmp_path, architecture):
    from spin_kernel import PTX

    (tmp_path / "spin.ptx").write_bytes(PTX.rstrip(b"\0"))
    command = ["ptxas", f"-arch={architecture}", "-o", str(tmp_path / "spin.cubin"), str(tmp_path / "spin.ptx")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
