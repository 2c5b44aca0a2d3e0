"""The shipped runner stage by stage: it is held against its types alone, and a stage that adds to them is named."""

from __future__ import annotations

import json
import math

import pytest
import torch
from rich.console import Console

from sadtrt_core.accuracy.engines import (
    TOGETHER,
    beyond,
    by_pytorch,
    engine_losses,
    measure_stages,
    prepare_engines,
    stage_table,
)
from sadtrt_core.accuracy.findings import Loss, Report
from sadtrt_core.config import RunConfig
from sadtrt_core.precision import PRECISIONS
from sadtrt_core.renderer.stages import GENERATOR_PARTS, STAGES
from sadtrt_core.renderer.workload import frame_inputs, make_workload
from sadtrt_core.runners.base import Job
from sadtrt_core.session import Session

pytestmark = pytest.mark.usefixtures("_one_thread")
STAGE_NAMES = (*GENERATOR_PARTS, "generator")


def demo_suite(cache, frames):
    return Session(RunConfig(weights="demo", device="cpu", cache=cache, frames=frames))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    with torch.inference_mode():
        return engine_losses(demo_suite(tmp_path_factory.mktemp("cache"), 1), "fp16-mixed", 1)


def test_onnx_runtime_loses_what_its_types_lose(report):
    found = report.content
    assert (found["runner"], found["precision"], found["meaningful"]) == ("onnxruntime", "fp16-mixed", True)
    assert [stage["stage"] for stage in found["stages"]] == [*GENERATOR_PARTS, TOGETHER, "generator"]
    pairs = [pair for stage in found["stages"] for pair in (stage["lowered"], stage["excluded"]) if pair is not None]
    assert len(pairs) == 10
    for pair in pairs:
        # The same roundings by two libraries, whose sums in fp32 differ in their last bits.
        assert decibels(pair, "runner") == pytest.approx(decibels(pair, "simulated"), abs=1.5)
    whole = decibels(found["stages"][-1]["lowered"])
    assert 65 < whole < 90
    # Every stage costs something, none more than all of them.
    for stage in found["stages"][:4]:
        assert whole - 1 < decibels(stage["lowered"]) < 120
        assert decibels(stage["excluded"]) > whole - 1


def decibels(pair, way="runner"):
    return pair[way]["psnr_min_db"]


def test_the_findings_are_kept_whole(report, tmp_path):
    folder = report.write(tmp_path)
    assert "-drift-onnxruntime-fp16-mixed" in folder.name
    assert json.loads((folder / "drift.json").read_text()) == report.content
    text = (folder / "drift.txt").read_text()
    assert text.startswith("fp16-mixed by onnxruntime (native grid sample), astronaut, 256 pixels, under demo weights")
    for stage in report.content["stages"]:
        assert f"{decibels(stage['lowered']):.1f}" in text


def test_the_stage_where_the_runner_adds_to_its_types_is_named(tiny, tmp_path):
    """Types that cost the map a little; a runner that costs it as much and adds 80 dB of its own in the decoder."""
    inputs = frame_inputs(tiny, make_workload(tiny.config, 2), STAGES["generator"], torch.device("cpu"))
    ways = {}
    for name in STAGE_NAMES:
        job = Job(tiny, STAGES[name], PRECISIONS["fp32"], "native", 1, torch.device("cpu"), tmp_path)
        exact = by_pytorch(job, tf32=False)
        for way in ("fp32", "simulated", "runner"):
            ways[way, name] = with_noise(exact, 0.0)
    ways["simulated", "warp"] = ways["runner", "warp"] = with_noise(ways["fp32", "warp"], 1e-3)
    ways["runner", "decode"] = with_noise(ways["fp32", "decode"], 1e-4)
    frames, stages = measure_stages(ways, inputs, 1)
    assert len(frames) == 1
    found = {stage.stage: stage for stage in stages}
    assert beyond(found["decode"].lowered) == pytest.approx(80, abs=1)
    assert beyond(found[TOGETHER].lowered) == pytest.approx(80, abs=2)
    for name in ("appearance", "motion", "warp"):
        assert beyond(found[name].lowered) == math.inf
    assert found["warp"].lowered["runner"].decibels < found["appearance"].lowered["runner"].decibels
    # Without the faulty stage what is left is the types'.
    types = found["decode"].excluded
    assert types["runner"] == types["simulated"] == found["warp"].lowered["simulated"]
    text = Report("", {}, (stage_table("fp16 by a runner", stages),), complete=True).text
    rows = [line.split("│")[1].strip() for line in text.splitlines() if line.startswith("│")]
    assert rows[0] == "decode"
    assert rows[-2:] == [TOGETHER, "generator"]
    (row,) = [line for line in text.splitlines() if "warp" in line]
    assert "none" in row


def with_noise(compute, size):
    def noisy(known):
        generator = torch.Generator().manual_seed(0)
        made = compute(known)
        return {name: t + size * torch.randn(t.shape, generator=generator) for name, t in made.items()}

    return noisy if size else compute


def test_what_lies_beyond_the_types_is_an_error_of_its_own():
    def loss(decibels):
        return Loss(decibels, None, 1, 0 if decibels else 4)

    def added(runner, simulated):
        return beyond({"runner": loss(runner), "simulated": loss(simulated)})

    assert added(72.0, 80.0) == pytest.approx(72.75, abs=0.01)
    assert added(80.0, 80.0) == math.inf
    assert added(None, 80.0) == -math.inf
    assert added(None, None) == math.inf


def test_a_precision_the_runner_has_not_is_refused_before_anything_is_computed(tmp_path):
    with pytest.raises(ValueError, match="appearance in tf32 cannot be computed by onnxruntime: TF32 is arithmetic"):
        prepare_engines(demo_suite(tmp_path, 1), "tf32", Console())
