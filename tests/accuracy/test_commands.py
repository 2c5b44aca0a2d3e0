"""`sadtrt drift` and `sadtrt search` from end to end, on the tiny renderer."""

from __future__ import annotations

import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from sadtrt_core.accuracy.simulate import Simulator
from sadtrt_core.cli import app
from sadtrt_core.errors import UserError
from sadtrt_core.plan import read_plan

pytestmark = pytest.mark.usefixtures("_one_thread")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def sadtrt(tiny, monkeypatch, cache, tmp_path):
    """The command line in an empty folder, rendering with the tiny networks."""
    monkeypatch.setattr("sadtrt_core.session.choose_weights", lambda *_, **__: tiny)
    monkeypatch.chdir(tmp_path)
    common = ["--frames", "2", "--worst", "1", "--device", "cpu", "--cache", str(cache)]
    return lambda command, *words: CliRunner().invoke(app, [command, *common, *words])


def test_drift_prints_and_keeps_what_it_finds(sadtrt, tmp_path):
    result = sadtrt("drift", "--precision", "bf16")
    assert result.exit_code == 0, result.output
    assert "What each stage costs in bf16" in result.output
    (folder,) = (tmp_path / "results").iterdir()
    report = json.loads((folder / "drift.json").read_text())
    assert (report["precision"], report["complete"], report["meaningful"]) == ("bf16", True, False)
    assert {part["level"] for part in report["parts"]} == {"stage", "block", "nodes"}
    assert (folder / "drift.txt").read_text().startswith("bf16 of astronaut, 128 pixels")


def test_search_writes_a_plan_that_precision_takes(sadtrt, tmp_path, monkeypatch):
    frames = Simulator.frames
    calls = []

    def interrupted(self, precision, indices):
        calls.append(precision)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return frames(self, precision, indices)

    with monkeypatch.context() as patch:
        patch.setattr(Simulator, "frames", interrupted)
        stopped = sadtrt("search", "--min-psnr", "60", "--frames", "1")
    assert stopped.exit_code == 130
    assert "the same command goes on from there" in stopped.output
    assert not (tmp_path / "plans").exists()
    result = sadtrt("search", "--min-psnr", "60", "--frames", "1")
    assert result.exit_code == 0, result.output
    assert "going on from 7 candidates" in result.output
    plan = read_plan(tmp_path / "plans" / "fp16-60db.toml")
    assert plan.precision.keep_coordinates
    assert plan.measured["psnr_min_db"] >= 60


def test_drift_is_of_the_picture_that_was_given(sadtrt, tmp_path, monkeypatch):
    Image.new("RGB", (300, 280), (90, 120, 60)).save(tmp_path / "me.png")
    asked = []

    def look(suite, *_):
        asked.append(suite.workload.name)
        raise UserError("seen")

    monkeypatch.setattr("sadtrt_core.accuracy.losses.session_losses", look)
    assert "seen" in sadtrt("drift", "--source-image", "me.png").output
    assert asked == ["me.png"]
    refused = sadtrt("search", "--source-image", "none.png")
    assert "cannot read none.png: No such file" in refused.output.replace("\n", " ")


def test_an_impossible_search_exits_with_1_and_writes_nothing(sadtrt, tmp_path):
    result = sadtrt("search", "--min-psnr", "130", "--frames", "1")
    assert result.exit_code == 1
    said = result.output.replace("\n", " ")
    assert "no plan holds 130 dB: the best found gives" in said
    assert "fp32 throughout gives 11" in said
    best = float(said.split("the best found gives ")[1].split(" dB")[0])
    assert 53 < best < 110  # Better than the coordinates alone, and no fp32 in disguise.
    assert not (tmp_path / "plans").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("drift", "--precision", "fp32"), "computes in float32: there is no loss to measure"),
        (("drift", "--half-sums", "--engines"), "--engines measures kernels and --half-sums simulates them"),
        (
            ("drift", "--half-sums", "--precision", "bf16"),
            "computes in bfloat16: kernels that sum in half are those of",
        ),
        (("drift", "--precision", "fp7"), "precision 'fp7' is not known: expected one of fp32"),
        (("drift", "--precision", "none.toml"), "cannot read none.toml"),
        (("search", "--precision", "fp16-mixed"), "is no base to search from"),
        (("search", "--out", "plan.txt"), "expected one that ends in .toml"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(sadtrt, tmp_path, words, sentence):
    result = sadtrt(*words)
    assert result.exit_code == 2
    assert sentence in result.output.replace("\n", " ")
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir())


def test_drift_of_the_shipped_stages_is_asked_for_by_name(sadtrt, tmp_path):
    result = sadtrt("drift", "--engines", "--precision", "bf16")
    assert result.exit_code == 0, result.output
    assert "What each stage costs in bf16 by onnxruntime" in result.output
    (folder,) = (tmp_path / "results").iterdir()
    report = json.loads((folder / "drift.json").read_text())
    assert (report["precision"], report["runner"], len(report["frames"])) == ("bf16", "onnxruntime", 1)
    refused = sadtrt("drift", "--engines", "--precision", "tf32")
    assert refused.exit_code == 2
    assert "TF32 is arithmetic of NVIDIA GPUs" in refused.output.replace("\n", " ")
