"""Every kind of runner, and why it cannot serve a job on this machine."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from sadtrt_core.case import GridSample
from sadtrt_core.errors import Unavailable, UserError
from sadtrt_core.renderer.stages import STAGES, Stage
from sadtrt_core.runners.base import Job, StageRunner
from sadtrt_core.runners.clip import ClipRunner
from sadtrt_core.runners.onnxruntime import cuda_provider_absence, onnxruntime_runner
from sadtrt_core.runners.pytorch import PyTorchRunner
from sadtrt_core.runners.tensorrt import TensorRTRunner, tensorrt_absence

Usual = tuple[tuple[str, ...], tuple[str, ...]]
"""The stages and precisions that a run has of a runner that is not named."""
#: Eager PyTorch, which makes the reference and the row as shipped.
EAGER = "pytorch"
#: What other ways to run PyTorch are for: the whole in half, where SadTalker's users would take them.
_WHOLE_IN_HALF = (("frame", "generator", "clip"), ("fp16", "fp16-mixed"))
_GENERATOR_IN_HALF = (("generator",), ("fp16", "fp16-mixed"))
_NAMED_ONLY = ((), ())


@dataclass(frozen=True)
class RunnerKind:
    """One kind of runner: what it is, how to make one, and why it would be absent for a job."""

    name: str
    make: Callable[[Job], StageRunner]
    absence: Callable[[Job], Unavailable | None]
    #: Whether the runner computes an exported graph, so that the way of sampling a volume matters; else it is PyTorch.
    graph: bool
    #: Whether a graph's nodes may be the plugin's.
    plugin: bool = False
    #: None for all there are.
    usual: Usual | None = None

    def create(self, job: Job) -> StageRunner:
        """A runner for the job, not yet activated; the clip is made of this kind's runners of the other stages."""
        return ClipRunner(job, self.make) if job.stage.module is None else self.make(job)

    def available(self, job: Job) -> Unavailable | None:
        """None when the runner can serve the job on this machine, else why not."""
        if job.precision.as_shipped and self.name != EAGER:
            return Unavailable(f"{job.precision.name} is what PyTorch does by itself", f"--runner {EAGER}")
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
        if precision.as_shipped:
            return Unavailable("PyTorch as shipped is fp32 on a CPU, which has no TF32", "--precision fp32")
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


def _channels_last_absence(job: Job) -> Unavailable | None:
    if job.device.type == "cpu" and job.precision.compute == "float16":
        return Unavailable("channels last is a layout for tensor cores: a CPU computes half in float32")
    return _pytorch_absence(job)


def _cuda_graph_absence(job: Job) -> Unavailable | None:
    return Unavailable("a CUDA graph needs a GPU") if job.device.type == "cpu" else _pytorch_absence(job)


def _max_autotune_absence(job: Job) -> Unavailable | None:
    if job.device.type == "cpu":
        return Unavailable("max-autotune chooses among a GPU's kernels", "--runner torch-compile")
    return _torch_compile_absence(job)


def _torch_compile_absence(job: Job) -> Unavailable | None:
    if job.device.type == "cpu" and job.precision.compute == "float16":
        return Unavailable("torch.compile has no half convolutions on the CPU")
    if job.device.type == "cpu" and shutil.which("g++") is None and shutil.which("clang++") is None:
        return Unavailable("torch.compile needs a C++ compiler on the CPU", "apt-get install g++")
    return _pytorch_absence(job)


def _onnxruntime_absence(job: Job) -> Unavailable | None:
    if job.device.type == "cpu":
        if job.precision.tf32:
            return Unavailable("TF32 is arithmetic of NVIDIA GPUs: the CPU has none")
    elif (missing := cuda_provider_absence()) is not None:
        return missing
    elif job.precision.compute == "bfloat16":
        return Unavailable("ONNX Runtime's CUDA provider has no bfloat16 convolutions")
    elif job.precision.quantize is not None:
        return Unavailable("ONNX Runtime's CUDA provider has no eight-bit convolutions: TensorRT computes them")
    if job.grid_sample == "plugin":
        return Unavailable("ONNX Runtime does not load TensorRT plugins", "--grid-sample native")
    return None


_REDUCE_OVERHEAD: dict[str, Any] = {"compiled": True, "mode": "reduce-overhead"}


def _pytorch(
    name: str, absence: Callable[[Job], Unavailable | None], usual: Usual | None = None, **how: Any
) -> RunnerKind:
    return RunnerKind(name, partial(PyTorchRunner, **how), absence, graph=False, usual=usual)


RUNNERS: dict[str, RunnerKind] = {
    kind.name: kind
    for kind in (
        _pytorch(EAGER, _pytorch_absence),
        _pytorch("pytorch-channels-last", _channels_last_absence, _WHOLE_IN_HALF, channels_last=True),
        _pytorch("pytorch-cuda-graph", _cuda_graph_absence, _WHOLE_IN_HALF, channels_last=True, captured=True),
        # The plain name is that of the mode with CUDA graphs, as it is in older runs.
        _pytorch("torch-compile", _torch_compile_absence, **_REDUCE_OVERHEAD),
        _pytorch(
            "torch-compile-channels-last",
            _torch_compile_absence,
            _GENERATOR_IN_HALF,
            **_REDUCE_OVERHEAD,
            channels_last=True,
        ),
        _pytorch("torch-compile-default", _torch_compile_absence, _NAMED_ONLY, compiled=True),
        # It takes minutes a row.
        _pytorch(
            "torch-compile-max-autotune",
            _max_autotune_absence,
            _NAMED_ONLY,
            compiled=True,
            mode="max-autotune",
            channels_last=True,
        ),
        RunnerKind("onnxruntime", onnxruntime_runner, _onnxruntime_absence, graph=True),
        RunnerKind("tensorrt", TensorRTRunner, tensorrt_absence, graph=True, plugin=True),
        RunnerKind(
            "tensorrt-enqueue", partial(TensorRTRunner, cuda_graph=False), tensorrt_absence, graph=True, plugin=True
        ),
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
