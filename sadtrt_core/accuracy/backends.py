"""Backends that compute a stage, and frames rendered stage by stage, each by a backend of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

import onnx
import torch
from torch import Tensor

from sadtrt_core.accuracy.torch_graph import rounded_graph, run_graph
from sadtrt_core.graph.pipeline import typed_graph
from sadtrt_core.renderer.stages import GENERATOR_PARTS, STAGES, call_stage, matrix_arithmetic, stage_module
from sadtrt_core.runners.base import Job, StageRunner

#: fp32: PyTorch with TF32 off. runner: as it is shipped. simulated: the precision's roundings and no others.
Backend = Literal["fp32", "runner", "simulated"]
#: A stage at batch 1: the tensors known so far by name to its outputs by name, float32 on the job's device.
Compute = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
GENERATOR = "generator"


class StageChain:
    """Frames of a sequence, each stage by one backend; what an earlier rendering computed alike is kept.

    `backends` has the four stages of GENERATOR_PARTS and the generator as one graph, each by every backend; `inputs`
    the generator's inputs for each frame.
    """

    def __init__(self, backends: Mapping[tuple[Backend, str], Compute], inputs: Sequence[Mapping[str, Tensor]]) -> None:
        self.inputs = tuple(inputs)
        self._backends = backends
        self._kept: dict[tuple[int, tuple[Backend, ...]], dict[str, Tensor]] = {}

    def frames(self, chosen: tuple[Backend, ...], indices: Sequence[int]) -> Tensor:
        """Frames (len(indices), 3, H, W) on the host, the stages of GENERATOR_PARTS computed as `chosen`."""
        return torch.cat([self._frame(chosen, index) for index in indices])

    def whole(self, backend: Backend, indices: Sequence[int]) -> Tensor:
        """The same by the generator as one graph."""
        return torch.cat(
            [self._backends[backend, GENERATOR](self.inputs[index])["prediction"].cpu() for index in indices]
        )

    def _frame(self, chosen: tuple[Backend, ...], index: int) -> Tensor:
        known = dict(self.inputs[index])
        for position, stage in enumerate(GENERATOR_PARTS):
            # What is made once a clip is the same for every frame.
            key = (-1 if STAGES[stage].when == "once a clip" else index, chosen[: position + 1])
            if key not in self._kept:
                self._kept[key] = self._backends[chosen[position], stage](known)
            known |= self._kept[key]
        return known["prediction"].cpu()


def by_runner(runner: StageRunner) -> Compute:
    """The stage by an active runner."""
    # Copied: a runner's outputs are its own buffers, which its next call fills anew.
    return lambda known: {name: made.clone() for name, made in runner.infer(_wanted(runner.job, known)).items()}


def by_pytorch(job: Job, tf32: bool) -> Compute:
    """The stage by PyTorch with float32 weights and deterministic algorithms."""
    module = copy.deepcopy(stage_module(job.stage, job.renderer)).to(job.device)

    def compute(known: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with torch.inference_mode(), matrix_arithmetic(tf32=tf32, benchmark=False):
            made = call_stage(module, tuple(_wanted(job, known).values()))
        return {spec.name: tensor for spec, tensor in zip(job.outputs, made, strict=True)}

    return compute


def by_simulation(job: Job) -> Compute:
    """The stage's typed graph by PyTorch, every rounding explicit and sums in fp32.

    A precision that computes in float32 rounds nothing but what TF32 rounds: PyTorch's own arithmetic is used.
    """
    if job.precision.compute == "float32":
        return by_pytorch(job, job.precision.tf32)
    return by_graph(job, typed_graph(job.renderer, job.stage, job.precision, "native", job.cache, job.calibration))


def by_graph(job: Job, typed: bytes, also: Collection[str] = ()) -> Compute:
    """A typed graph of the job's stage, its samplers native, by PyTorch: every rounding explicit and sums in fp32.

    `also` names inner tensors that are handed out beside the stage's outputs.
    """
    shapes = {spec.name: spec.batched(1) for spec in job.inputs}
    model, constants = rounded_graph(onnx.load_from_string(typed), shapes, job.device)
    names = frozenset((*(spec.name for spec in job.outputs), *also))

    def compute(known: Mapping[str, Tensor]) -> dict[str, Tensor]:
        made: dict[str, Tensor] = {}

        def see(name: str, value: Tensor) -> None:
            if name in names:
                made[name] = value

        run_graph(model, {**_wanted(job, known), **constants}, see)
        return made

    return compute


def _wanted(job: Job, known: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {spec.name: known[spec.name].contiguous() for spec in job.inputs}
