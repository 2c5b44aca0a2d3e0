"""What a user sees who mistypes an option: one sentence, at once, and nothing written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run_suite(results: Path, *options: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "pytest", "bench/test_stage_latency.py", "--benchmark-only", "-q"]
    command += ["--weights", "seeded", "--results", str(results), "-p", "no:cacheprovider", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--stage", "wrap"), "--stage 'wrap' is not known: expected one of keypoints, mapping"),
        (("--runner", "tf"), "--runner 'tf' is not known: expected one of pytorch, pytorch-channels-last"),
        (("--size", "128"), "--size 128 is not known: expected one of 256, 512"),
        (("--precision", "fp12"), "precision 'fp12' is not known: expected one of fp32, default"),
        (("--batch", "0"), "--batch must be 1 or more"),
        (("--frames", "0"), "--frames must be 1 or more but is 0"),
        (("--source-image", "nowhere.png"), "cannot read nowhere.png"),
        (("--samples", "nowhere"), "nowhere/source_image.pt is missing"),
        (("--mapping-checkpoint", "m.pth"), "--mapping-checkpoint belongs to a --checkpoint"),
        (("--weights", "fitting"), "weights 'fitting' are not known: expected auto"),
        (("--weights", "nowhere.safetensors"), "cannot read nowhere.safetensors"),
        (("--checkpoint", "c.safetensors"), "--checkpoint and --weights seeded exclude each other"),
    ],
)
def test_a_wrong_option_is_one_sentence(tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    code, text = run_suite(tmp_path / "results", *options)
    assert code == pytest.ExitCode.USAGE_ERROR
    assert words in text
    assert text.count(words) == 1
    assert len(text.splitlines()) < 25
    assert not (tmp_path / "results").exists()


def test_eight_bits_are_timed_on_a_cpu_only_when_asked_for_by_name(tmp_path: Path) -> None:
    narrow = ("--device", "cpu", "--stage", "mapping", "--runner", "onnxruntime", "-rs", "-k", "int8")
    code, text = run_suite(tmp_path / "all", *narrow)
    assert code == pytest.ExitCode.OK
    assert "int8 computes in fp32 on a CPU" in text
    assert "1 skipped" in text
    # Asked for by name it would be timed, were there anything in eight bits.
    code, text = run_suite(tmp_path / "named", *narrow, "--precision", "int8")
    assert code == pytest.ExitCode.OK
    assert "int8 quantizes no convolution of the stage mapping" in text
    assert "1 skipped" in text


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
