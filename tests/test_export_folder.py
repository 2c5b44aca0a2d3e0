"""`sadtrt export`: what it writes is read and agreed with by Polygraphy's own commands; what it refuses."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import onnx
import pytest
from typer.testing import CliRunner

from sadtrt_core.cli import app

pytestmark = pytest.mark.usefixtures("_one_thread")
#: What the command `polygraphy` does, wherever it was installed.
POLYGRAPHY = (sys.executable, "-c", "import sys; from polygraphy.tools import main; sys.exit(main())")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def export(tiny, monkeypatch, cache):
    """`sadtrt export` of the tiny networks on the CPU."""
    monkeypatch.setattr("sadtrt_core.session.choose_weights", lambda *_, **__: tiny)
    common = ["--device", "cpu", "--cache", str(cache)]
    return lambda out, *words: CliRunner().invoke(app, ["export", *common, "--out", str(out), *words])


def commands(folder):
    """The commands of the folder's README.txt."""
    lines = (folder / "README.txt").read_text().splitlines()
    return [line for line in lines if line.startswith(("polygraphy ", "trtexec "))]


def polygraphy(folder, command):
    words = shlex.split(command)
    assert words[0] == "polygraphy"
    done = subprocess.run([*POLYGRAPHY, *words[1:]], cwd=folder, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "types"),
    [
        (("--stage", "generator"), {1, 10}),
        (("--stage", "motion", "--precision", "fp32", "--batch", "2"), {1}),
        (("--stage", "decode", "--precision", "int8"), {1, 3, 10}),
    ],
)
def test_polygraphy_runs_what_was_written_and_agrees(export, tmp_path, words, types):
    folder = tmp_path / "exported"
    result = export(folder, *words)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["exported"]
    graph = onnx.load(folder / "model.onnx")
    assert {tensor.data_type for tensor in graph.graph.initializer if tensor.data_type in (1, 3, 10)} == types
    inspect, run, *others = commands(folder)
    code, output = polygraphy(folder, inspect)
    assert code == 0, output
    assert graph.graph.input[0].name in output
    assert "--onnxrt" in run
    code, output = polygraphy(folder, run)
    assert code == 0, output
    assert "PASSED" in output
    assert all("--onnxrt" not in command for command in others)


def test_the_tolerances_are_no_free_pass(export, tmp_path):
    """A graph of half is told from one of fp32: with a hundredth of its tolerance it no longer agrees."""
    result = export(tmp_path / "half", "--stage", "appearance", "--precision", "fp16")
    assert result.exit_code == 0, result.output
    run = commands(tmp_path / "half")[1]
    value = float(re.search(r"feature_3d:(\S+)", run)[1])
    code, output = polygraphy(tmp_path / "half", run.replace(f":{value:.3g}", f":{value / 100:.3g}"))
    assert code == 1
    assert "FAILED" in output


def test_a_graph_with_plugin_nodes_names_them_and_offers_no_onnxruntime(export, tmp_path):
    result = export(tmp_path / "plugin", "--stage", "warp", "--grid-sample", "plugin")
    assert result.exit_code == 0, result.output
    assert "nodes of the plugin GridSample3D, version 1" in result.output
    assert "--grid-sample native exports ordinary operators" in result.output
    assert not any("--onnxrt" in command for command in commands(tmp_path / "plugin"))
    assert any("--stronglyTyped" in command for command in commands(tmp_path / "plugin"))
    code, output = polygraphy(tmp_path / "plugin", commands(tmp_path / "plugin")[0])
    assert code == 0, output


def test_an_earlier_export_is_replaced_and_a_foreign_folder_is_not(export, tmp_path):
    folder = tmp_path / "exported"
    folder.mkdir()
    assert export(folder, "--stage", "mapping", "--precision", "fp32").exit_code == 0
    before = (folder / "model.onnx").read_bytes()
    assert export(folder, "--stage", "mapping", "--precision", "fp16").exit_code == 0
    assert (folder / "model.onnx").read_bytes() != before
    (folder / "notes.txt").write_text("mine")
    refused = export(folder, "--stage", "mapping")
    assert refused.exit_code == 2
    assert "holds notes.txt, which no export wrote" in refused.output.replace("\n", " ")
    assert (folder / "notes.txt").read_text() == "mine"
    (folder / "notes.txt").unlink()
    (folder / "README.txt").write_bytes(b"\xff\xfe of somebody")
    refused = export(folder, "--stage", "mapping")
    assert refused.exit_code == 2
    assert "which no export wrote" in refused.output.replace("\n", " ")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--stage", "clip"), "stage clip has no graph of its own"),
        (("--engine",), "cannot be built: TensorRT runs on an NVIDIA GPU, not on cpu"),
        (("--precision", "fp7"), "precision 'fp7' is not known"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_one_sentence(export, tmp_path, words, sentence):
    result = export(tmp_path / "exported", *words)
    assert result.exit_code == 2
    assert sentence in result.output.replace("\n", " ")
    assert not list(tmp_path.iterdir())
