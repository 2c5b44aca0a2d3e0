"""`sadtrt doctor --fix`: the commands that a machine needs, in an order in which they work."""

from __future__ import annotations

import dataclasses
import shlex

from typer.testing import CliRunner

from sadtrt_core.cli import app
from sadtrt_core.machine_fixes import Here, fixes

EVERYTHING = Here(
    gpu=True,
    cuda_torch=True,
    compiler=True,
    nvcc=True,
    tensorrt="trt10",
    pycuda=True,
    plugin=True,
    onnxruntime_cuda=True,
    full_size_weights=True,
)


def commands(**lacking):
    return [command for _, command in fixes(dataclasses.replace(EVERYTHING, **lacking))]


def test_a_machine_that_has_everything_needs_nothing():
    assert commands() == []


def test_a_bare_gpu_gets_its_packages_before_what_they_build_and_is_asked_again():
    found = commands(cuda_torch=False, nvcc=False, tensorrt=None, pycuda=False, plugin=False, full_size_weights=False)
    assert found == [
        "apt-get install -y nvidia-cuda-toolkit",
        "pip install --force-reinstall torch",
        "pip install -e '.[gpu]'",
        "sadtrt fit --size 256",
        "sadtrt doctor --fix",
    ]


def test_the_plugin_is_built_with_the_headers_of_the_tensorrt_that_is_here():
    clone, build = commands(tensorrt="trt8", plugin=False)
    assert "--branch v8.6.0 https://github.com/NVIDIA/TensorRT" in clone
    folder = shlex.split(clone)[-1]
    assert build == f"sadtrt build-plugin --include {folder}/include"


def test_a_machine_without_a_gpu_is_told_to_install_nothing_of_a_gpu():
    missing = {"gpu": False, "cuda_torch": False, "nvcc": False, "tensorrt": None, "plugin": False}
    assert commands(**missing, onnxruntime_cuda=False, full_size_weights=False) == []
    assert commands(**missing, compiler=False) == ["apt-get install -y g++"]


def test_the_command_prints_lines_that_can_be_copied(tmp_path):
    result = CliRunner().invoke(app, ["doctor", "--fix", "--device", "cpu", "--cache", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert all(line.startswith(("# ", "apt-get ", "pip ", "git ", "sadtrt ")) for line in result.output.splitlines())
    assert "What can run" not in result.output
