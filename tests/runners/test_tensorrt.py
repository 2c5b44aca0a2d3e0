"""TensorRT as a runner: on any machine why it cannot serve, on a GPU that its frames are PyTorch's."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sadtrt_core.case import GridSample
from sadtrt_core.engine import tensorrt_api as api
from sadtrt_core.errors import Unavailable
from sadtrt_core.precision import PRECISIONS
from sadtrt_core.renderer.renderer import Renderer
from sadtrt_core.renderer.stages import STAGES, call_stage, stage_module
from sadtrt_core.runners import tensorrt as runner_module
from sadtrt_core.runners.base import Job
from sadtrt_core.runners.tensorrt import TensorRTRunner, tensorrt_absence

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def make_job(
    renderer: Renderer,
    cache: Path,
    stage: str = "warp",
    precision: str = "fp32",
    grid_sample: GridSample = "native",
    device: torch.device = CUDA,
    batch: int = 1,
) -> Job:
    return Job(renderer, STAGES[stage], PRECISIONS[precision], grid_sample, batch, device, cache, optimization_level=0)


def product(name: str, version: str, **types: Any) -> Any:
    """A TensorRT of some version, as far as absence is asked of it."""
    return SimpleNamespace(__name__=name, __version__=version, DataType=SimpleNamespace(**types))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretends to a machine with a GPU, pycuda and some TensorRT."""

    def pretend(trt: Any, capability: tuple[int, int] = (9, 0), pycuda: bool = True) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        monkeypatch.setattr(api, "tensorrt_module", lambda: trt)
        monkeypatch.setattr(runner_module.importlib.util, "find_spec", lambda name: object() if pycuda else None)

    return pretend


def test_a_cpu_job_is_not_for_tensorrt(seeded_demo: Renderer, tmp_path: Path) -> None:
    reason = tensorrt_absence(make_job(seeded_demo, tmp_path, device=CPU))
    assert str(reason) == "TensorRT runs on an NVIDIA GPU, not on cpu"


def test_without_a_gpu_the_reason_is_the_gpu(seeded_demo: Renderer, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no CUDA device" in str(tensorrt_absence(make_job(seeded_demo, tmp_path)))


TRT_8, TRT_10 = product("tensorrt", "8.6.1", FP8=1), product("tensorrt", "10.13.3", BF16=1, FP8=1)
TRT_11 = product("tensorrt", "11.2.0", BF16=1)
RTX = product("tensorrt_rtx", "1.7.1", BF16=1)


@pytest.mark.parametrize(
    ("trt", "capability", "job", "reason"),
    [
        (TRT_8, (9, 0), {"precision": "bf16"}, "no bfloat16: use TensorRT 10 or later"),
        (TRT_8, (9, 0), {"precision": "fp8"}, "TensorRT 8.6.1 has no fp8: use TensorRT 10 or later"),
        (TRT_10, (8, 6), {"precision": "fp8"}, r"fp8 needs .* 8\.9 or later, this one has 8\.6: use int8"),
        (TRT_10, (9, 0), {"grid_sample": "builtin"}, r"volumes from 11\.2 on: use --grid-sample native or plugin"),
        (RTX, (9, 0), {}, r"does not run on compute capability 9\.0 .*pip install tensorrt"),
        (TRT_10, (9, 0), {"stage": "clip"}, "stage clip has no engine of its own"),
        (TRT_10, (9, 0), {"grid_sample": "torch"}, "cannot sample with PyTorch"),
        (api.Unavailable("TensorRT is not installed"), (9, 0), {}, "TensorRT is not installed"),
    ],
)
def test_what_a_machine_lacks_is_said(
    trt: Any,
    capability: tuple[int, int],
    job: dict[str, Any],
    reason: str,
    machine: Any,
    seeded_demo: Renderer,
    tmp_path: Path,
) -> None:
    machine(trt, capability)
    found = tensorrt_absence(make_job(seeded_demo, tmp_path, **job))
    assert found is not None
    assert re.search(reason, str(found))


@pytest.mark.parametrize(
    ("trt", "capability", "job"),
    [
        (TRT_8, (9, 0), {"precision": "fp16-mixed"}),
        (TRT_8, (9, 0), {"precision": "int8"}),
        (TRT_10, (9, 0), {"precision": "bf16"}),
        (TRT_10, (8, 9), {"precision": "fp8"}),
        (TRT_11, (9, 0), {"grid_sample": "builtin"}),
        (RTX, (12, 0), {"grid_sample": "builtin"}),
        (RTX, (8, 9), {}),
    ],
)
def test_what_can_be_served_has_no_reason(
    trt: Any, capability: tuple[int, int], job: dict[str, Any], machine: Any, seeded_demo: Renderer, tmp_path: Path
) -> None:
    machine(trt, capability)
    assert tensorrt_absence(make_job(seeded_demo, tmp_path, **job)) is None


def test_missing_pycuda_names_the_command(machine: Any, seeded_demo: Renderer, tmp_path: Path) -> None:
    machine(TRT_10, pycuda=False)
    missing = tensorrt_absence(make_job(seeded_demo, tmp_path))
    assert missing == Unavailable("pycuda is not installed", "pip install pycuda")


def test_activation_fails_with_the_same_reason(seeded_demo: Renderer, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="warp fp32: TensorRT runs on an NVIDIA GPU"):
        TensorRTRunner(make_job(seeded_demo, tmp_path, device=CPU)).activate()


@pytest.fixture(scope="module")
def gpu_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


@pytest.fixture
def gpu_job(seeded_demo: Renderer, gpu_cache: Path) -> Job:
    """A warp job that TensorRT can serve here; skips with the reason where it cannot."""
    job = make_job(seeded_demo, gpu_cache)
    reason = tensorrt_absence(job)
    if reason:
        pytest.skip(str(reason))
    return job


def inputs_of(job: Job, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        spec.name: (torch.rand(spec.batched(job.batch), generator=generator) - 0.5).to(job.device)
        for spec in job.inputs
    }


def expected(job: Job, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What PyTorch computes in fp32 on the host."""
    outputs = call_stage(stage_module(job.stage, job.renderer), tuple(inputs[s.name].cpu() for s in job.inputs))
    return {spec.name: tensor for spec, tensor in zip(job.outputs, outputs, strict=True)}


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_frames_are_those_of_pytorch(cuda_graph: bool, gpu_job: Job) -> None:
    with TensorRTRunner(gpu_job, cuda_graph) as runner:
        for seed in range(3):
            inputs = inputs_of(gpu_job, seed)
            outputs = runner.infer(inputs)
            for name, tensor in expected(gpu_job, inputs).items():
                torch.testing.assert_close(outputs[name].cpu(), tensor, atol=1e-3, rtol=1e-3)
        assert runner.engine_bytes is not None
        assert runner.engine_bytes > 1000


@pytest.mark.parametrize("stage", ["motion", "warp", "decode", "generator"])
@pytest.mark.parametrize("precision", ["fp32", "fp16-mixed"])
def test_every_precision_is_close(stage: str, precision: str, gpu_job: Job) -> None:
    job = replace(gpu_job, stage=STAGES[stage], precision=PRECISIONS[precision])
    inputs = inputs_of(job)
    with TensorRTRunner(job) as runner:
        outputs = {name: tensor.cpu() for name, tensor in runner.infer(inputs).items()}
    for name, tensor in expected(job, inputs).items():
        error = (outputs[name] - tensor).norm() / tensor.norm()
        assert error < (1e-3 if precision == "fp32" else 5e-2), (name, float(error))


def test_an_output_lasts_until_the_next_execute_and_inputs_may_be_reused_at_once(gpu_job: Job) -> None:
    with TensorRTRunner(gpu_job) as runner:
        inputs = inputs_of(gpu_job)
        right = {name: tensor.clone() for name, tensor in runner.infer(inputs).items()}
        runner.bind(inputs)
        for tensor in inputs.values():
            tensor.fill_(torch.nan)
        runner.execute()
        for name, tensor in runner.fetch().items():
            torch.testing.assert_close(tensor, right[name], atol=0, rtol=0)


def test_the_second_activation_builds_nothing(gpu_job: Job) -> None:
    with TensorRTRunner(gpu_job):
        pass
    written = {path: path.stat().st_mtime_ns for path in (gpu_job.cache / "engines").glob("*.engine")}
    with TensorRTRunner(gpu_job):
        pass
    assert {path: path.stat().st_mtime_ns for path in (gpu_job.cache / "engines").glob("*.engine")} == written


def test_deactivation_frees_the_device(gpu_job: Job) -> None:
    with TensorRTRunner(gpu_job):
        pass  # What a process takes once is not the runner's.
    torch.cuda.synchronize()
    before, _ = torch.cuda.mem_get_info()
    for _ in range(3):
        with TensorRTRunner(gpu_job) as runner:
            runner.infer(inputs_of(gpu_job))
    torch.cuda.empty_cache()
    after, _ = torch.cuda.mem_get_info()
    assert before - after < 64e6


def test_a_wrong_shape_is_refused_at_the_door(gpu_job: Job) -> None:
    with TensorRTRunner(gpu_job) as runner:
        inputs = inputs_of(gpu_job)
        inputs["occlusion"] = inputs["occlusion"][..., 1:]
        with pytest.raises(ValueError, match="occlusion"):
            runner.infer(inputs)
