"""The same mistake is the same sentence at every door: the suite, the commands, the generator in SadTalker itself."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from record_examples import measured, run_of
from suite_runs import ROOT, TINY, SuiteProcess
from typer.main import get_command
from typer.testing import CliRunner

from sadtrt_core.cli import app
from sadtrt_core.config import RunConfig
from sadtrt_core.drop_in import TensorRTGenerator
from sadtrt_core.errors import UserError
from sadtrt_core.gate.limits import Thresholds
from sadtrt_core.plan import precision_named
from sadtrt_core.records.store import read_run, write_run
from sadtrt_core.renderer.checkpoint import load_checkpoint
from sadtrt_core.renderer.picture import load_picture, picture_files
from sadtrt_core.renderer.renderer import Renderer
from sadtrt_core.renderer.standin import load_standin
from sadtrt_core.runners.pytorch import PyTorchRunner
from sadtrt_core.session import Session


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SuiteProcess]:
    made = SuiteProcess(tmp_path_factory.mktemp("suite"), "")
    yield made
    made.close()


def said_by_the_suite(suite: SuiteProcess, *options: str, code: int = pytest.ExitCode.USAGE_ERROR) -> str:
    narrow = TINY[: TINY.index("--weights")]
    finished = suite.run([*narrow, "-p", "no:cacheprovider", *options])
    assert finished.code == code, finished.output
    assert "INTERNALERROR" not in finished.output
    assert "Traceback" not in finished.output
    assert not finished.folders
    return finished.output


def said_by(command: str, *options: str) -> str:
    result = CliRunner().invoke(app, [command, *options])
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    return result.output


def said_in_python(use: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        use()
    return str(caught.value)


COMMANDS = {command.name: command for command in get_command(app).commands.values()}
#: What a command wants beside the option that is wrong.
WANTED = {"compare": ("pytorch", "onnxruntime"), "export": ("--out", "exported")}


def commands_with(option: str) -> dict[str, tuple[str, ...]]:
    """Every command that takes the option, with the words that it wants beside it."""
    offered = {name: {flag for one in command.params for flag in one.opts} for name, command in COMMANDS.items()}
    return {
        name: (*WANTED.get(name, ()), *(("--device", "cpu") if "--device" in flags else ()))
        for name, flags in offered.items()
        if option in flags
    }


def nothing(path: Path) -> None:
    """There is no such file."""


def saved(value: object, share: float = 1.0) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        torch.save(value, path)
        os.truncate(path, int(share * path.stat().st_size))

    return make


def text(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(content)


def unpacked(path: Path) -> None:
    path.mkdir()
    (path / "data.pkl").write_bytes(b"")


NAMESPACE = argparse.Namespace(lr=1)
#: The option, the file's name, what is wrong with it, and words of the sentence.
MISTAKES: dict[str, tuple[str, str, Callable[[Path], object], str]] = {
    "no checkpoint": ("--checkpoint", "d.pth", nothing, "No such file"),
    "too long a name": ("--checkpoint", "d" * 300, nothing, "File name too long"),
    "a pipe for a checkpoint": ("--checkpoint", "d.pth", os.mkfifo, "it is no plain file"),
    "a folder for a checkpoint": ("--checkpoint", "d.pth", Path.mkdir, "is a folder: give the file inside it"),
    "an unpacked checkpoint": ("--checkpoint", "d", unpacked, "checkpoint that was unpacked: give the .pth file"),
    "a pointer": ("--checkpoint", "d.pth", text("version https://git-lfs.github.com/spec/v1"), "run `git lfs pull`"),
    "a web page": ("--checkpoint", "d.safetensors", text("<!DOCTYPE html>"), "download it again"),
    "half a checkpoint": ("--checkpoint", "d.pth", saved({"a": torch.zeros(99)}, 0.5), "no whole checkpoint"),
    "code": ("--checkpoint", "d.pth", saved({"generator": NAMESPACE}), "would run code (argparse.Namespace)"),
    "other networks": (
        "--checkpoint",
        "d.pth",
        saved({"discriminator": {"a": torch.zeros(1)}}),
        "has no generator, but",
    ),
    "entries missing": ("--checkpoint", "d.pth", saved({"generator": {"fourth.bias": torch.zeros(64)}}), "lacks"),
    "no stand-in": ("--weights", "w.safetensors", text("{}"), "cannot be read as .safetensors"),
    "too long a stand-in": ("--weights", "w" * 300 + ".safetensors", nothing, "File name too long"),
    "no picture": ("--source-image", "\N{GRINNING FACE}.png", text("words"), "cannot be read as a picture"),
    "too long a picture": ("--source-image", "p" * 300, nothing, "File name too long"),
    "an empty folder": ("--source-image", "faces", Path.mkdir, "is a folder without pictures"),
    "no plan": ("--precision", "p.toml", text("format = 'mine'"), "it is of another format"),
    "a deep plan": ("--precision", "p.toml", text("a = " + "[" * 5000), "is not a TOML file"),
}
#: What reads the files of an option, which is what every door ends at.
READERS: dict[str, Callable[[Path], object]] = {
    "--checkpoint": lambda path: load_checkpoint(path, 256),
    "--weights": lambda path: load_standin(path, "fitted", 256),
    "--source-image": lambda path: [load_picture(file, 256) for file in picture_files([path])],
    "--precision": lambda path: precision_named(str(path)),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_file_is_one_sentence_at_every_door(
    mistake: str, suite: SuiteProcess, tiny_256: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    option, name, make, words = MISTAKES[mistake]
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    make(path)
    sentence = said_in_python(lambda: READERS[option](path))
    assert words in sentence
    assert "\n" not in sentence
    weights = ("--weights", "seeded") if option not in ("--checkpoint", "--weights") else ()
    assert sentence in said_by_the_suite(suite, option, str(path), *weights)
    doors = commands_with(option)
    assert len(doors) >= 3
    for command, wanted in doors.items():
        assert sentence in said_by(command, *wanted, option, str(path), "--cache", str(tmp_path / "cache"))
    if option == "--source-image":
        assert sentence in said_by("fit", "--portrait", str(path), "--out", str(tmp_path / "w.safetensors"))
    if option == "--checkpoint":
        assert sentence in said_in_python(lambda: TensorRTGenerator(path, device="cpu"))
    if option == "--precision":
        assert sentence in said_in_python(
            lambda: TensorRTGenerator(renderer=tiny_256, precision=str(path), device="cpu")
        )


PICTURE, POINTS = torch.zeros(1, 3, 256, 256), torch.zeros(1, 15, 3)
#: What is recorded, or handed over, in place of one of the three inputs, and the sentence behind its name.
INPUTS: dict[str, tuple[str, object, str]] = {
    "-1..1": (
        "source_image",
        torch.linspace(-1, 1, 196608).reshape(PICTURE.shape),
        "has values from -1 to 1 where 0..1 is expected, which looks like -1..1: add 1 and halve",
    ),
    "0..255": (
        "source_image",
        torch.linspace(0, 255, 196608).reshape(PICTURE.shape),
        "has values from 0 to 255 where 0..1 is expected, which looks like 0..255: divide by 255",
    ),
    "NaN": ("source_image", PICTURE / 0, "has values that are not finite"),
    "bytes": ("source_image", PICTURE.byte(), "has type uint8: expected float32 (or another float type)"),
    "512": (
        "source_image",
        torch.zeros(1, 3, 512, 512),
        "has shape (1, 3, 512, 512): expected (N, 3, 256, 256); give ",
    ),
    "128": (
        "source_image",
        torch.zeros(1, 3, 128, 128),
        "has shape (1, 3, 128, 128): expected (N, 3, 256, 256); scale it to 256 pixels a side",
    ),
    "pixels": ("kp_driving", POINTS + 128, "has keypoints from 128 to 128, which look like pixels"),
    "infinite": ("kp_source", POINTS - torch.inf, "has values that are not finite"),
    "ten keypoints": ("kp_driving", torch.zeros(1, 10, 3), "has shape (1, 10, 3): expected (N, 15, 3)"),
    "no frames": ("kp_driving", POINTS[:0], "has shape (0, 15, 3), which holds nothing: expected one row at least"),
    "sparse": ("kp_source", POINTS.to_sparse(), "is a sparse, nested, quantized or empty-handed tensor"),
    "a list": ("kp_source", [0.0], "is a list: expected a tensor"),
    "a jacobian": ("kp_source", {"value": POINTS, "jacobian": POINTS}, "has a jacobian, which graphs are exported"),
    "no value": ("kp_driving", {"points": POINTS}, "has no entry `value`: expected a tensor, or a dict with `value`"),
}


@pytest.mark.parametrize("mistake", INPUTS)
def test_a_wrong_input_is_one_sentence_recorded_or_handed_over(
    mistake: str, suite: SuiteProcess, tiny_256: Renderer, tmp_path: Path
) -> None:
    name, value, sentence = INPUTS[mistake]
    call = {"source_image": PICTURE, "kp_source": POINTS, "kp_driving": POINTS, name: value}
    for one, given in call.items():
        torch.save(given, tmp_path / f"{one}.pt")
    assert f"{name}.pt {sentence}" in said_by_the_suite(suite, "--weights", "seeded", "--samples", str(tmp_path))
    own = {"grid_sample": "torch", "device": "cpu", "make_runner": PyTorchRunner, "cache": tmp_path}
    generator = TensorRTGenerator(renderer=tiny_256, precision="fp32", **own)
    assert f"{name} {sentence}" in said_in_python(lambda: generator(**call))


def test_a_wrong_size_is_one_sentence_at_every_door(suite: SuiteProcess) -> None:
    sentence = "--size 300 is not known: expected one of 256, 512"
    assert sentence in said_by_the_suite(suite, "--size", "300")
    doors = commands_with("--size")
    assert len(doors) >= 7
    for command, wanted in doors.items():
        assert sentence in said_by(command, *wanted, "--size", "300")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "whole.json"
    write_run(run_of(measured()), path)
    return path


RUNS: dict[str, tuple[Callable[[Path, bytes], object], str]] = {
    "no run": (lambda path, whole: None, "No such file"),
    "a pipe": (lambda path, whole: os.mkfifo(path), "it is no plain file"),
    "half a run": (lambda path, whole: path.write_bytes(whole[: len(whole) // 2]), "truncated perhaps"),
    "an edited run": (lambda path, whole: path.write_bytes(whole.replace(b"70.0", b"79.0")), "changed after it was"),
    "another version": (
        lambda path, whole: path.write_bytes(whole.replace(b'"schema_version": 1', b'"schema_version": 9')),
        "has schema version 9",
    ),
    "other JSON": (lambda path, whole: path.write_text("[]"), "is JSON but not a sadtrt run"),
}


@pytest.mark.parametrize("mistake", RUNS)
def test_a_wrong_run_is_one_sentence_at_every_door(
    mistake: str, suite: SuiteProcess, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, words = RUNS[mistake]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad").mkdir()  # A folder that is there, since a baseline that is not is sought by its name.
    make(tmp_path / "bad" / "records.json", whole.read_bytes())
    bad = str(tmp_path / "bad")
    sentence = said_in_python(lambda: read_run(Path(bad)))
    assert words in sentence
    assert sentence in said_by_the_suite(suite, "--weights", "seeded", "--gate", bad, code=2)
    doors = [
        ("report", bad),
        ("report", str(whole), bad),
        ("gate", bad, "--baseline", str(whole)),
        ("gate", str(whole), "--baseline", bad),
        ("gate", str(whole), "--baseline", str(whole), "--anchor", bad),
        ("gate", bad, "--baseline", "new", "--update"),
    ]
    for command, *options in doors:
        assert sentence in said_by(command, *options)


THRESHOLDS = {
    "no thresholds": (nothing, "No such file"),
    "a misspelt stage": (text("[[gate.override]]\nstage = 'genrator'"), "stage 'genrator' is not known"),
    "a misspelt table": (text("[gat]"), "should hold a table [gate]"),
    "too many dots": (text(".".join("a" * 200) + " = 1"), "a line has more than 100 dots"),
}


@pytest.mark.parametrize("mistake", THRESHOLDS)
def test_wrong_thresholds_are_one_sentence_at_every_door(
    mistake: str, suite: SuiteProcess, whole: Path, tmp_path: Path
) -> None:
    make, words = THRESHOLDS[mistake]
    path = tmp_path / "limits.toml"
    make(path)
    sentence = said_in_python(lambda: Thresholds.read(path))
    assert words in sentence
    given = ("--gate", str(whole), "--gate-thresholds", str(path))
    assert sentence in said_by_the_suite(suite, "--weights", "seeded", *given, code=2)
    assert sentence in said_by("gate", str(whole), "--baseline", str(whole), "--thresholds", str(path))


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
