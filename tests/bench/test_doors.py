"""The same mistake is the same sentence at every door: the suite, the commands, the generator in SadTalker itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from suite_runs import ROOT, TINY, SuiteProcess
from typer.testing import CliRunner

from sadtrt_core.cli import app
from sadtrt_core.config import RunConfig
from sadtrt_core.drop_in import TensorRTGenerator
from sadtrt_core.errors import UserError
from sadtrt_core.renderer.renderer import Renderer
from sadtrt_core.runners.pytorch import PyTorchRunner
from sadtrt_core.session import Session


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SuiteProcess]:
    made = SuiteProcess(tmp_path_factory.mktemp("suite"), "")
    yield made
    made.close()


def said_by_the_suite(suite: SuiteProcess, *options: str) -> str:
    narrow = TINY[: TINY.index("--weights")]
    finished = suite.run([*narrow, "-p", "no:cacheprovider", *options])
    assert finished.code == pytest.ExitCode.USAGE_ERROR, finished.output
    assert "INTERNALERROR" not in finished.output
    assert "Traceback" not in finished.output
    assert not finished.folders
    return finished.output


def said_by(command: str, *options: str) -> str:
    result = CliRunner().invoke(app, [command, *options])
    assert result.exit_code == 2, result.output
    return result.output


def said_by_the_drop_in(renderer: Renderer, folder: Path, **change: torch.Tensor) -> str:
    call = {"source_image": torch.zeros(1, 3, 256, 256), "kp_driving": torch.zeros(1, 15, 3)}
    generator = TensorRTGenerator(
        renderer=renderer, precision="fp32", grid_sample="torch", device="cpu", cache=folder, make_runner=PyTorchRunner
    )
    with pytest.raises(UserError) as caught:
        generator(**{**call, "kp_source": call["kp_driving"], **change})
    return str(caught.value)


def test_a_wrong_checkpoint(suite: SuiteProcess, tmp_path: Path) -> None:
    path = tmp_path / "d.pth"
    torch.save({"discriminator": {"a": torch.zeros(1)}}, path)
    sentence = f"{path} has no generator, but discriminator: expected SadTalker's renderer checkpoint"
    assert sentence in said_by_the_suite(suite, "--checkpoint", str(path))
    folders = ("--cache", str(tmp_path / "cache"))
    for command, words in {"doctor": (), "drift": (), "search": (), "compare": ("pytorch", "onnxruntime")}.items():
        assert sentence in said_by(command, *words, "--checkpoint", str(path), "--device", "cpu", *folders)
    with pytest.raises(UserError) as caught:
        TensorRTGenerator(path, device="cpu")
    assert sentence in str(caught.value)


def test_a_wrong_picture(suite: SuiteProcess, tmp_path: Path) -> None:
    path = tmp_path / "gesicht\N{LATIN SMALL LETTER U WITH DIAERESIS}.png"
    path.write_text("no picture")
    sentence = f"{path} cannot be read as a picture"
    assert sentence in said_by_the_suite(suite, "--weights", "seeded", "--source-image", str(path))
    folders = ("--cache", str(tmp_path / "cache"))
    for command in ("drift", "search"):
        assert sentence in said_by(command, "--source-image", str(path), "--device", "cpu", *folders)
    assert sentence in said_by("fit", "--portrait", str(path), "--out", str(tmp_path / "w.safetensors"))


def test_a_wrong_recording(suite: SuiteProcess, tiny: Renderer, tmp_path: Path) -> None:
    picture, pixels = torch.linspace(-1, 1, 196608).reshape(1, 3, 256, 256), torch.full((1, 15, 3), 128.0)
    torch.save(picture, tmp_path / "source_image.pt")
    torch.save(pixels, tmp_path / "kp_source.pt")
    torch.save(pixels, tmp_path / "kp_driving.pt")
    sentence = "has values from -1 to 1 where 0..1 is expected, which looks like -1..1: add 1 and halve"
    samples = ("--weights", "seeded", "--samples", str(tmp_path))
    assert sentence in said_by_the_suite(suite, *samples)
    assert sentence in said_by_the_drop_in(tiny, tmp_path, source_image=picture)
    torch.save(picture.abs(), tmp_path / "source_image.pt")
    sentence = "has keypoints from 128 to 128, which look like pixels"
    assert sentence in said_by_the_suite(suite, *samples)
    assert sentence in said_by_the_drop_in(tiny, tmp_path, kp_driving=pixels)


def test_a_wrong_size(suite: SuiteProcess, tiny: Renderer, tmp_path: Path) -> None:
    large = torch.zeros(1, 3, 512, 512)
    torch.save(large, tmp_path / "source_image.pt")
    samples = ("--weights", "seeded", "--samples", str(tmp_path))
    assert "expected (N, 3, 256, 256); give --size 512" in said_by_the_suite(suite, *samples)
    assert "give TensorRTGenerator size=512" in said_by_the_drop_in(tiny, tmp_path, source_image=large)
    sentence = "--size 300 is not known: expected one of 256, 512"
    finished = suite.run([*TINY, "--size", "300"])
    assert sentence in finished.output
    for command in ("doctor", "build", "drift", "search", "fit"):
        assert sentence in said_by(command, "--size", "300")


@pytest.mark.parametrize("option", ["results", "cache"])
@pytest.mark.parametrize("place", ["/proc/nowhere", "/dev/null/x", "x" * 300])
def test_a_folder_that_cannot_be_written_is_said_before_anything_is_measured(option: str, place: str) -> None:
    with pytest.raises(UserError, match=r"cannot write .*choose a folder that can be written"):
        Session(RunConfig(weights="seeded", device="cpu", **{option: Path(place)})).check()
    assert "cannot write" in said_by("drift", "--device", "cpu", f"--{option}", place)
    if option == "cache":
        assert "cannot write" in said_by("search", "--device", "cpu", "--cache", place)
        assert "cannot write" in said_by("compare", "pytorch", "onnxruntime", "--device", "cpu", "--cache", place)


def test_a_run_that_could_not_be_kept_does_not_begin(tmp_path: Path) -> None:
    done = run("pytest", *TINY, "--results", "/proc/nowhere", "--cache", str(tmp_path))
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert (done.stdout + done.stderr).count("sadtrt: cannot write /proc/nowhere") == 1
    assert "INTERNALERROR" not in done.stdout + done.stderr


def test_a_file_that_cannot_be_written_is_said_before_anything_is_measured(tmp_path: Path) -> None:
    cache = ("--cache", str(tmp_path))
    for path in ("/proc/nowhere/x.json", str(tmp_path)):
        words = said_by("compare", "pytorch", "onnxruntime", "--device", "cpu", *cache, "--json", path)
        assert "cannot write" in words
    assert "cannot write" in said_by("search", "--device", "cpu", *cache, "--out", "/proc/nowhere/x.toml")
    assert "cannot write" in said_by("fit", "--demo", *cache, "--out", "/proc/nowhere/x.safetensors")
    assert "cannot write" in said_by("fit", "--demo", *cache, "--preview", "/proc/nowhere/x.png")


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *words]
    given = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, timeout=300, encoding="latin-1")


def test_a_console_without_the_characters_of_a_name_is_no_reason_to_fail(tmp_path: Path) -> None:
    face = tmp_path / "gesicht\N{LATIN SMALL LETTER U WITH DIAERESIS}\N{GRINNING FACE}.png"
    Image.effect_noise((64, 64), 80).convert("RGB").save(face)
    folders = ("--results", str(tmp_path / "results"), "--cache", str(tmp_path / "cache"))
    ascii_only = {"PYTHONIOENCODING": "ascii"}
    done = run("pytest", *TINY, *folders, "--source-image", str(face), **ascii_only)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "workload: gesicht\\xfc\\U0001f600.png" in done.stdout
    latest = str(tmp_path / "results" / "latest")
    for words in (("report", latest), ("report", latest, "--markdown"), ("gate", latest, "--baseline", latest)):
        done = run("sadtrt_core.cli", *words, **ascii_only)
        assert done.returncode in (0, 2, 3), done.stderr
        assert "Traceback" not in done.stderr


def test_a_name_that_a_terminal_would_obey_is_recorded_without_what_it_says(
    suite: SuiteProcess, tmp_path: Path
) -> None:
    face = tmp_path / "a\x1b[31m\udcff.png"
    Image.effect_noise((64, 64), 80).convert("RGB").save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(face)
    finished = suite.run([*TINY, "--source-image", str(face)])
    assert finished.code == 0, finished.output
    assert "workload: a?[31m?.png" in finished.output


@pytest.mark.parametrize("words", [("doctor", "--device", "cpu"), ("report", "results/baselines/h200-trt8.6")])
def test_what_goes_into_a_pipe_is_as_wide_as_it_needs_to_be(words: tuple[str, ...]) -> None:
    lines = (
        run("sadtrt_core.cli", *words, COLUMNS="80", PYTHONIOENCODING="utf-8:replace").stdout.encode("latin-1").decode()
    )
    drawn = [line for line in lines.splitlines() if line.startswith("\u2502")]
    assert drawn
    # A word that is folded leaves a line whose first cells are empty.
    assert not [line for line in drawn if not line.split("\u2502")[1].strip()], lines
    assert max(map(len, drawn)) > 100
