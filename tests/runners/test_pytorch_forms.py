"""Other ways to run PyTorch than eager fp32: what they compute, and why a CPU has some of them not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sadtrt_core.precision import PRECISIONS, Precision
from sadtrt_core.renderer.renderer import Renderer
from sadtrt_core.renderer.stages import STAGES, call_stage, matrix_arithmetic, stage_module
from sadtrt_core.runners.base import Job
from sadtrt_core.runners.pytorch import PyTorchRunner
from sadtrt_core.runners.registry import RUNNERS

MakeJob = Callable[..., Job]


@pytest.fixture
def make_job(seeded_demo: Renderer, tmp_path: Path) -> MakeJob:
    def make(stage: str, precision: str = "fp32", batch: int = 1) -> Job:
        return Job(seeded_demo, STAGES[stage], PRECISIONS[precision], "native", batch, torch.device("cpu"), tmp_path)

    return make


def inputs_for(job: Job, seed: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {spec.name: torch.rand(spec.batched(job.batch), generator=generator) - 0.2 for spec in job.inputs}


@pytest.mark.parametrize("stage", ["keypoints", "mapping", "appearance", "frame"])
def test_channels_last_is_the_same_picture_in_another_layout(make_job: MakeJob, stage: str) -> None:
    job = make_job(stage, batch=2)
    inputs = inputs_for(job)
    with RUNNERS["pytorch"].create(job) as plain, RUNNERS["pytorch-channels-last"].create(job) as other:
        expected, found = plain.infer(inputs), other.infer(inputs)
        weights = [weight for weight in other._module.parameters() if weight.dim() == 4 and weight.shape[1] > 1]
        assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("stage", ["mapping", "decode"])
def test_autocast_finds_its_weights_rounded_and_gives_the_same_bits(make_job: MakeJob, stage: str) -> None:
    """A loop of frames under one autocast rounds them once; a row that does so in every call is slower than that."""
    mixed = Precision("mixed", "bfloat16", "a test", keep_coordinates=True)
    job = replace(make_job(stage), precision=mixed)
    inputs = inputs_for(job)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        plain = call_stage(stage_module(job.stage, job.renderer), tuple(inputs.values()))
    with PyTorchRunner(job) as runner:
        found = tuple(runner.infer(inputs).values())
        large = [weight for weight in runner._module.parameters() if weight.dim() > 1]
        assert {weight.dtype for weight in large} == {torch.bfloat16}
    for expected, made in zip(plain, found, strict=True):
        assert torch.equal(made, expected.float())


def test_pytorch_as_shipped_changes_no_setting(make_job: MakeJob) -> None:
    seen = []

    class Watched(PyTorchRunner):
        def activate(self) -> None:
            super().activate()
            self._module.register_forward_pre_hook(lambda *_: seen.append(torch.backends.cudnn.allow_tf32))

    for precision in ("default", "fp32", "tf32"):
        job = make_job("mapping", precision)
        for as_found in (True, False):
            with matrix_arithmetic(tf32=as_found, benchmark=False), Watched(job) as runner:
                runner.infer(inputs_for(job))
    assert seen == [True, False, False, False, True, True]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "fp16-mixed"])
def test_a_captured_graph_reads_whatever_was_bound_last(make_job: MakeJob, precision: str) -> None:
    job = replace(make_job("frame", precision), device=torch.device("cuda"))
    with RUNNERS["pytorch-channels-last"].create(job) as plain, RUNNERS["pytorch-cuda-graph"].create(job) as graph:
        for seed in (1, 2, 3):
            inputs = {name: tensor.cuda() for name, tensor in inputs_for(job, seed).items()}
            expected, found = plain.infer(inputs)["prediction"], graph.infer(inputs)["prediction"]
            torch.testing.assert_close(found, expected, atol=2e-2, rtol=0)


@pytest.mark.parametrize(
    ("runner", "precision", "words"),
    [
        ("pytorch", "default", "PyTorch as shipped is fp32 on a CPU"),
        ("onnxruntime", "default", "default is what PyTorch does by itself"),
        ("tensorrt", "default", "default is what PyTorch does by itself"),
        ("pytorch-channels-last", "fp16", "a layout for tensor cores"),
        ("pytorch-cuda-graph", "fp32", "a CUDA graph needs a GPU"),
        ("torch-compile-channels-last", "fp16", "no half convolutions on the CPU"),
        ("torch-compile-max-autotune", "fp32", "chooses among a GPU's kernels"),
    ],
)
def test_what_makes_no_sense_on_a_cpu_says_so(make_job: MakeJob, runner: str, precision: str, words: str) -> None:
    for stage in ("generator", "clip"):
        absence = RUNNERS[runner].available(make_job(stage, precision))
        assert absence is not None
        assert words in absence.reason
