"""Every kind of runner, and why it cannot serve a job on this machine."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from sadtrt_core.case import GridSample
from sadtrt_core.errors import Unavailable, UserError
from sadtrt_core.renderer.stages import STAGES, Stage
from sadtrt_core.runners.base import Job, StageRunner
from sadtrt_core.runners.clip import ClipRunner
from sadtrt_core.runners.onnxruntime import OnnxRuntimeRunner
from sadtrt_core.runners.pytorch import PyTorchRunner
from sadtrt_core.runners.tensorrt import TensorRTRunner, tensorrt_absence


@dataclass(frozen=True)
class RunnerKind:
    """One kind of runner: what it is, how to make one, and why it would be absent for a job."""

    name: str
    make: Callable[[Job], StageRunner]
    absence: Callable[[Job], Unavailable | None]
    #: Whether the runner computes an exported graph, so that the way of sampling a volume matters.
    graph: bool

    def create(self, job: Job) -> StageRunner:
        """A runner for the job, not yet activated; the clip is made of this kind's runners of the other stages."""
        return ClipRunner(job, self.make) if job.stage.module is None else self.make(job)

    def available(self, job: Job) -> Unavailable | None:
        """None when the runner can serve the job on this machine, else why not."""
        if job.stage.module is None:
            job = replace(job, stage=STAGES["motion"], batch=1)
        if self.graph and job.precision.half_coordinates and job.grid_sample == "builtin":
            return Unavailable("a runtime's own sampler has an arithmetic of its own", "--grid-sample native")
        return self.absence(job)


def _pytorch_absence(job: Job) -> Unavailable | None:
    precision = job.precision
    if precision.quantize is not None:
        return Unavailable(
            f"PyTorch has no {precision.quantize.type} convolutions here: ONNX Runtime (on a CPU) and TensorRT compute "
            "the quantized graph"
        )
    if job.device.type == "cpu":
        if precision.tf32:
            return Unavailable("TF32 is arithmetic of NVIDIA GPUs: the CPU has none")
        if precision.keep_coordinates:
            return Unavailable(
                "autocast to half has no convolutions on the CPU: ONNX Runtime runs the fp16-mixed graph instead"
            )
    elif precision.tf32 and torch.cuda.get_device_capability(job.device) < (8, 0):
        return Unavailable("TF32 needs a GPU of compute capability 8.0 or later")
    if precision.names_nodes:
        return Unavailable("plans name ONNX nodes, which eager PyTorch does not have")
    return None


def _torch_compile_absence(job: Job) -> Unavailable | None:
    if job.device.type == "cpu" and job.precision.compute == "float16":
        return Unavailable("torch.compile has no half convolutions on the CPU")
    if job.device.type == "cpu" and shutil.which("g++") is None and shutil.which("clang++") is None:
        return Unavailable("torch.compile needs a C++ compiler on the CPU", "apt-get install g++")
    return _pytorch_absence(job)


def _onnxruntime_absence(job: Job) -> Unavailable | None:
    if job.device.type != "cpu":
        return Unavailable("ONNX Runtime is the runner for machines without a GPU", "pytest bench/ --device cpu")
    if job.precision.tf32:
        return Unavailable("TF32 is arithmetic of NVIDIA GPUs: the CPU has none")
    if job.grid_sample == "plugin":
        return Unavailable("ONNX Runtime does not load TensorRT plugins", "--grid-sample native")
    return None


RUNNERS: dict[str, RunnerKind] = {
    kind.name: kind
    for kind in (
        RunnerKind("pytorch", PyTorchRunner, _pytorch_absence, graph=False),
        RunnerKind("torch-compile", partial(PyTorchRunner, compiled=True), _torch_compile_absence, graph=False),
        RunnerKind("onnxruntime", OnnxRuntimeRunner, _onnxruntime_absence, graph=True),
        RunnerKind("tensorrt", TensorRTRunner, tensorrt_absence, graph=True),
        RunnerKind("tensorrt-enqueue", partial(TensorRTRunner, cuda_graph=False), tensorrt_absence, graph=True),
    )
}


def runner_named(name: str) -> RunnerKind:
    """The runner of that name; UserError lists the names there are."""
    if name not in RUNNERS:
        raise UserError(f"runner {name!r} is not known: expected one of {', '.join(RUNNERS)}")
    return RUNNERS[name]


def grid_sample_label(kind: RunnerKind, stage: Stage, grid_sample: GridSample) -> str:
    """How a stage samples volumes, for its case: `torch`, the graph's mode, or `none` where it samples nothing."""
    if not stage.samples:
        return "none"
    return grid_sample if kind.graph else "torch"
