"""What a user sees who mistypes an option: one sentence, at once, and nothing written."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from suite_runs import ROOT, Finished, SuiteProcess


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SuiteProcess]:
    made = SuiteProcess(tmp_path_factory.mktemp("suite"), "")
    yield made
    made.close()


def run(suite: SuiteProcess, *options: str) -> Finished:
    common = ("--benchmark-only", "-q", "--weights", "seeded", "-p", "no:cacheprovider")
    return suite.run(["bench/test_stage_latency.py", *common, *options])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--stage", "wrap"), "--stage 'wrap' is not known: expected one of keypoints, mapping"),
        (("--runner", "tf"), "--runner 'tf' is not known: expected one of pytorch, pytorch-channels-last"),
        (("--size", "128"), "--size 128 is not known: expected one of 256, 512"),
        (("--precision", "fp12"), "precision 'fp12' is not known: expected one of fp32, default"),
        (("--batch", "0"), "--batch must be 1 or more"),
        (("--frames", "0"), "--frames must be 1 or more but is 0"),
        (("--frames", "100000000"), "--frames must be 2000 or less"),
        (("--source-image", "nowhere.png"), "cannot read nowhere.png"),
        (("--samples", "nowhere"), "nowhere/source_image.pt is missing"),
        (("--mapping-checkpoint", "m.pth"), "--mapping-checkpoint belongs to a --checkpoint"),
        (("--weights", "fitting"), "weights 'fitting' are not known: expected auto"),
        (("--weights", "nowhere.safetensors"), "cannot read nowhere.safetensors"),
        (("--checkpoint", "c.safetensors"), "--checkpoint and --weights seeded exclude each other"),
        (("--clip-frames", "2001"), "--clip-frames must be 2000 or less but is 2001"),
        (("--order-seed", "-1"), "--order-seed must be 0 or more"),
        (("--stage", "w" * 100_000), "is not known: expected one of keypoints, mapping"),
        (("--precision", "p" * 100_000), "is not known: expected one of fp32, default"),
        (("--precision", "p" * 100_000 + ".toml"), "File name too long"),
        (("--weights", "w" * 100_000), "are not known: expected auto"),
    ],
)
def test_a_wrong_option_is_one_sentence(suite: SuiteProcess, options: tuple[str, ...], words: str) -> None:
    before = sorted((suite.folder / "results").glob("*"))
    finished = run(suite, *options)
    assert finished.code == pytest.ExitCode.USAGE_ERROR
    assert finished.output.count(words) == 1, finished.output
    assert "INTERNALERROR" not in finished.output
    assert len(finished.output.splitlines()) < 25
    assert len(finished.output) < 4000
    assert sorted((suite.folder / "results").glob("*")) == before


@pytest.mark.parametrize("options", [("--stage", "warp"), ("--precision", "fp16"), ("--batch", "2")])
def test_what_was_named_twice_is_measured_once(suite: SuiteProcess, options: tuple[str, ...]) -> None:
    narrow = ("--stage", "warp", "--runner", "pytorch", "--precision", "fp16", "--batch", "2", "--collect-only")
    once, twice = (run(suite, *narrow, *again).output for again in ((), options))
    assert once.count("::test_stage_latency[") == twice.count("::test_stage_latency[") == 1, twice


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ((), ["generator-pytorch-fp16"]),
        (("frame",), ["frame-pytorch-fp16"]),
        (("decode", "frame", "generator"), ["frame-pytorch-fp16", "generator-pytorch-fp16"]),
        (("decode",), ["none"]),
    ],
)
def test_drift_is_of_the_stages_that_render_a_frame(
    suite: SuiteProcess, stages: tuple[str, ...], expected: list[str]
) -> None:
    """Without a GPU the generator's alone, unless the frame is named."""
    narrow = [word for stage in stages for word in ("--stage", stage)]
    options = ("--device", "cpu", "--runner", "pytorch", "--precision", "fp16", *narrow, "--collect-only", "-q")
    finished = suite.run(("bench/test_precision_drift.py", *options))
    rows = sorted(line.split("[")[1].rstrip("]") for line in finished.output.splitlines() if "_drift[" in line)
    assert rows == expected, finished.output


def test_on_a_gpu_drift_is_of_the_frame_too(tmp_path: Path) -> None:
    with contextlib.closing(SuiteProcess(tmp_path, "import torch\ntorch.cuda.is_available = lambda: True\n")) as suite:
        options = ("--runner", "tensorrt", "--precision", "fp16", "--collect-only", "-q")
        finished = suite.run(("bench/test_precision_drift.py", *options))
    rows = sorted(line.split("[")[1].rstrip("]") for line in finished.output.splitlines() if "_drift[" in line)
    assert rows == ["frame-tensorrt-fp16", "generator-tensorrt-fp16"], finished.output


def test_a_row_that_says_that_none_is_left_needs_no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("suite_conftest", ROOT / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    suite_conftest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(suite_conftest)
    named = {"stage": "decode", "runner": "tensorrt", "precision": "fp16", "batch": 2}
    none = dict.fromkeys(("stage", "runner", "precision"))
    items = [SimpleNamespace(callspec=SimpleNamespace(params=params)) for params in (named, none)]
    capture = SimpleNamespace(global_and_fixture_disabled=contextlib.nullcontext)
    config = SimpleNamespace(pluginmanager=SimpleNamespace(getplugin=lambda name: capture))
    built: list[object] = []
    monkeypatch.setattr(suite_conftest, "prebuild", lambda session, cases, console: built.extend(cases))
    session = SimpleNamespace(on_gpu=True, case=lambda *words: words)
    suite_conftest._prebuild(session, SimpleNamespace(session=SimpleNamespace(items=items), config=config))
    assert built == [("decode", "tensorrt", "fp16", 2)]


def test_eight_bits_are_timed_on_a_cpu_only_when_asked_for_by_name(suite: SuiteProcess) -> None:
    narrow = ("--device", "cpu", "--stage", "mapping", "--runner", "onnxruntime", "-rs", "-k", "int8")
    finished = run(suite, *narrow)
    assert finished.code == pytest.ExitCode.OK, finished.output
    assert "int8 computes in fp32 on a CPU" in finished.output
    assert "1 skipped" in finished.output
    # Asked for by name it would be timed, were there anything in eight bits.
    finished = run(suite, *narrow, "--precision", "int8")
    assert finished.code == pytest.ExitCode.OK, finished.output
    assert "int8 quantizes no convolution of the stage mapping" in finished.output
    assert "1 skipped" in finished.output


TOYS = """
from dataclasses import replace
from sadtrt_core.precision import PRECISIONS
from sadtrt_core.renderer.stages import STAGES
from sadtrt_core.runners.registry import RUNNERS
for table, like in ((STAGES, "mapping"), (RUNNERS, "pytorch"), (PRECISIONS, "fp32")):
    table["toy"] = replace(table[like], name="toy")
"""


def test_what_is_registered_is_offered(tmp_path: Path) -> None:
    (tmp_path / "toys.py").write_text(TOYS)
    command = [sys.executable, "-m", "pytest", "-p", "toys", "--help"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT))), "COLUMNS": "400"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    offered = [line for line in done.stdout.splitlines() if "only this" in line]
    assert len(offered) == 3
    assert all("toy" in line for line in offered)
