"""Runners on the CPU: what they return, what they refuse, and why one is absent."""

from __future__ import annotations

import dataclasses
import re

import onnx
import onnxruntime
import pytest
import torch

from sadtrt_core.graph.export import typed_graph
from sadtrt_core.graph.fixed_shapes import fix_shapes
from sadtrt_core.precision import PRECISIONS, Precision
from sadtrt_core.renderer.stages import STAGES
from sadtrt_core.runners.base import Job
from sadtrt_core.runners.onnxruntime import OnnxRuntimeBoundRunner, nodes_elsewhere
from sadtrt_core.runners.registry import RUNNERS, runner_named

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def make_job(seeded_demo, cache):
    def make(stage="warp", precision="fp32", batch=1, device=CPU, grid_sample="native"):
        return Job(seeded_demo, STAGES[stage], PRECISIONS[precision], grid_sample, batch, device, cache)

    return make


def inputs_for(job):
    generator = torch.Generator().manual_seed(3)
    return {s.name: torch.rand(s.batched(job.batch), generator=generator) - 0.2 for s in job.inputs}


def infer(name, job, inputs):
    with RUNNERS[name].create(job) as runner:
        return {key: value.clone() for key, value in runner.infer(inputs).items()}


@pytest.mark.parametrize("stage", ["keypoints", "mapping", "warp"])
def test_runners_agree_in_fp32(make_job, stage):
    job = make_job(stage, batch=2)
    inputs = inputs_for(job)
    old, new = infer("pytorch", job, inputs), infer("onnxruntime", job, inputs)
    assert list(old) == list(new) == [spec.name for spec in job.outputs]
    for name in old:
        torch.testing.assert_close(new[name], old[name], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("stage", ["mapping", "warp"])
def test_bound_tensors_give_what_pytorch_gives_call_after_call(make_job, stage):
    """The GPU's form of ONNX Runtime, by the CPU's provider: tensors bound once, overwritten by every call."""
    job = make_job(stage, batch=2)
    with OnnxRuntimeBoundRunner(job) as bound:
        for factor in (1.0, 0.5):
            inputs = {name: factor * tensor for name, tensor in inputs_for(job).items()}
            expected, found = infer("pytorch", job, inputs), bound.infer(inputs)
            for name in expected:
                torch.testing.assert_close(found[name], expected[name], atol=2e-5, rtol=1e-4)
        assert bound.notes == ()


def test_nodes_of_another_provider_are_named_from_onnxruntimes_own_profile(make_job):
    job = make_job("mapping")
    graph = onnx.load_from_string(typed_graph(job.renderer, job.stage, job.precision, "native", job.cache))
    fix_shapes(graph, {spec.name: spec.batched(1) for spec in job.inputs})
    here = ("CPUExecutionProvider", {})
    assert nodes_elsewhere(graph, "CPUExecutionProvider", here) is None
    sentence = nodes_elsewhere(graph, "CUDAExecutionProvider", here)
    count, total = map(int, re.findall(r"\d+", sentence)[:2])
    assert count == total > 10
    assert "nodes fall back to the CPU" in sentence


@pytest.mark.parametrize("runner", ["pytorch", "onnxruntime"])
@pytest.mark.parametrize(("precision", "low", "high"), [("fp16", 2**-14, 2**-8), ("bf16", 2**-11, 2**-4)])
def test_a_lower_precision_really_computes_lower(make_job, runner, precision, low, high):
    # A stage that samples nothing: noise sampled at rounded coordinates would differ by much more than a rounding.
    inputs = inputs_for(make_job("appearance"))
    exact = infer("pytorch", make_job("appearance"), inputs)["feature_3d"]
    rounded = infer(runner, make_job("appearance", precision), inputs)["feature_3d"]
    assert rounded.dtype == torch.float32
    assert low < ((rounded - exact).abs().max() / exact.abs().max()).item() < high


def test_the_picture_is_kept_by_pytorch_as_by_the_graph(make_job):
    """Autocast alone would give a bfloat16 picture; with it kept, the last convolution and the sigmoid are float32."""
    job = make_job("decode")
    inputs = inputs_for(job)
    found = {}
    for kept in (False, True):
        how = Precision("test", "bfloat16", "a test", keep_coordinates=True, keep_picture=kept)
        picture = infer("pytorch", dataclasses.replace(job, precision=how), inputs)["prediction"]
        found[kept] = bool(torch.equal(picture, picture.bfloat16().float()))
        read = torch.logit(picture.double()).float()
        off = (read - read.bfloat16().float()).abs() > 1e-4 * read.abs()
        if kept:
            assert off.float().mean() > 0.8  # Most float32 numbers are no bfloat16 ones.
    assert found == {False: True, True: False}


def test_half_convolutions_on_a_cpu_are_rounded_results_of_float32(make_job):
    job = make_job("decode", "fp16")
    with RUNNERS["pytorch"].create(job) as runner:
        runner.infer(inputs_for(job))
        assert "half convolutions are computed in float32" in runner.notes[0]


def test_a_runner_does_not_change_the_renderer_it_was_given(make_job, seeded_demo):
    job = make_job(precision="fp16")
    infer("pytorch", job, inputs_for(job))
    assert {p.dtype for p in seeded_demo.generator.parameters()} == {torch.float32}


def test_a_clip_is_its_frames_rendered_one_by_one(make_job, seeded_demo):
    job = make_job("clip", batch=2)
    inputs = inputs_for(job)
    frames = infer("pytorch", job, inputs)["frames"]
    canonical = seeded_demo.kp_extractor(inputs["source_image"])
    posed = STAGES["mapping"].module(seeded_demo)
    source = posed(inputs["source_coefficients"], canonical)
    for index in range(2):
        driving = posed(inputs["driving_coefficients"][index : index + 1], canonical)
        frame = seeded_demo.generator(inputs["source_image"], driving, source)[0]
        assert (frames[index] - frame).abs().max() <= 0.5 / 255 + 1e-5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda t: t[:, :, :-1],
            r"input 'occlusion' of stage warp has shape \(1, 1, 63, 64\): expected \(1, 1, 64, 64\)",
        ),
        (
            lambda t: t.half(),
            r"input 'occlusion' of stage warp \(1, 1, 64, 64\) is torch.float16: expected torch.float32",
        ),
        (lambda t: t.to("meta"), r"input 'occlusion' of stage warp \(1, 1, 64, 64\) is on meta: expected .* on cpu"),
    ],
)
@pytest.mark.parametrize("runner", ["pytorch", "onnxruntime"])
def test_a_wrong_tensor_is_refused_at_the_door(make_job, runner, change, words):
    job = make_job()
    inputs = inputs_for(job)
    inputs["occlusion"] = change(inputs["occlusion"])
    with RUNNERS[runner].create(job) as active, pytest.raises(ValueError, match=words):
        active.infer(inputs)


def test_missing_and_unexpected_tensors_are_named(make_job):
    job = make_job()
    inputs = inputs_for(job)
    with RUNNERS["pytorch"].create(job) as active:
        with pytest.raises(ValueError, match="takes no input 'mask'"):
            active.infer({**inputs, "mask": inputs["occlusion"]})
        del inputs["occlusion"]
        with pytest.raises(ValueError, match="lacks its input 'occlusion'"):
            active.infer(inputs)


@pytest.mark.parametrize(
    ("runner", "precision", "words"),
    [
        ("pytorch", "tf32", "TF32 is arithmetic of NVIDIA GPUs"),
        ("pytorch", "fp16-mixed", "ONNX Runtime runs the fp16-mixed graph instead"),
        ("torch-compile", "fp16", "no half convolutions on the CPU"),
        ("onnxruntime", "tf32", "TF32 is arithmetic of NVIDIA GPUs"),
        ("tensorrt", "fp16", "TensorRT runs on an NVIDIA GPU, not on cpu"),
    ],
)
def test_absence_has_a_reason(make_job, runner, precision, words):
    for stage in ("generator", "clip"):
        absence = RUNNERS[runner].available(make_job(stage, precision))
        assert absence is not None
        assert words in absence.reason
        assert absence.reason.strip()


def test_onnxruntime_on_a_gpu_says_what_it_lacks(make_job):
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("the CUDA provider is installed here")
    absence = RUNNERS["onnxruntime"].available(make_job("decode", device=torch.device("cuda")))
    assert "has no CUDA provider" in absence.reason
    assert "pip install onnxruntime-gpu" in absence.fix


def test_an_unknown_runner_is_refused():
    with pytest.raises(ValueError, match="runner 'tf' is not known: expected one of pytorch, pytorch-channels-last"):
        runner_named("tf")
