"""What the shipped runner's stages cost in a precision, beside what the precision's types alone would cost.

Each of the generator's stages is computed by the runner with the others in fp32 by PyTorch, then the reverse; the same
is done with the stages' typed graphs, every rounding explicit and sums in fp32. Where the runner loses more than these,
its tactics or fusions do.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from typing import Literal

import onnx
import torch
from rich.console import Console
from torch import Tensor

from sadtrt_core.accuracy.drift import versions
from sadtrt_core.accuracy.findings import ENGINE_REPORT_VERSION, EngineReport, Loss, Pair, StageLoss
from sadtrt_core.accuracy.losses import worst_frames
from sadtrt_core.accuracy.torch_graph import rounded_graph, run_graph
from sadtrt_core.benchmark import build_engines, engines_for
from sadtrt_core.errors import BuildError, UserError
from sadtrt_core.graph.export import typed_graph
from sadtrt_core.measure.drift import measure_drift
from sadtrt_core.progress import SILENT, Reporter
from sadtrt_core.renderer.stages import GENERATOR_PARTS, STAGES, call_stage, matrix_arithmetic, stage_module
from sadtrt_core.runners.base import Job, StageRunner
from sadtrt_core.runners.registry import RunnerKind, runner_named
from sadtrt_core.session import Session

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


TOGETHER = "all four stages"
_STAGES = (*GENERATOR_PARTS, GENERATOR)


def shipped_runner(session: Session) -> RunnerKind:
    """TensorRT where the session has a GPU, ONNX Runtime on a CPU."""
    return runner_named("tensorrt" if session.device.type == "cuda" else "onnxruntime")


def prepare_engines(session: Session, precision: str, console: Console) -> None:
    """Build the engines of the stages and of the generator that the cache lacks, several at a time.

    Raises UserError where the runner cannot serve the precision here, BuildError where a build fails.
    """
    kind = shipped_runner(session)
    cases = [session.case(stage, kind.name, precision) for stage in _STAGES]
    for case in cases:
        absence = session.unavailable(case)
        if absence is not None:
            raise UserError(f"{case.stage} in {precision} cannot be computed by {kind.name}: {absence}")
    engines = engines_for(session, cases) if kind.name == "tensorrt" else {}
    for failure in build_engines(list(engines.values()), session.options.jobs, console):
        if failure is not None:
            raise BuildError(failure)


def engine_losses(session: Session, precision: str, worst: int, reporter: Reporter = SILENT) -> EngineReport:
    """What each stage costs computed by the shipped runner, on the `worst` frames of the sequence.

    The worst are those of the whole generator by the runner. Raises as `prepare_engines` and runners do.
    """
    kind = shipped_runner(session)
    reporter.progress("drift: loading the stages", 0, None)
    with ExitStack() as active:
        backends: dict[tuple[Backend, str], Compute] = {}
        for stage in _STAGES:
            job = session.job(session.case(stage, kind.name, precision))
            backends["runner", stage] = by_runner(active.enter_context(kind.create(job)))
            backends["simulated", stage] = by_simulation(job)
            backends["fp32", stage] = by_pytorch(job, tf32=False)
        frames, stages = measure_stages(StageChain(backends, session.frame_inputs), worst, reporter)
    return EngineReport(
        version=ENGINE_REPORT_VERSION,
        precision=session.precision(precision).name,
        runner=kind.name,
        grid_sample=session.grid_sample,
        optimization_level=session.options.optimization_level,
        meaningful=session.drift_is_meaningful,
        weights=session.recorded_weights,
        workload=session.recorded_workload,
        frames=frames,
        stages=stages,
        versions=versions(session.device),
    )


def measure_stages(chain: StageChain, worst: int, reporter: Reporter) -> tuple[tuple[int, ...], tuple[StageLoss, ...]]:
    """The worst frames of the whole generator by the runner, and what every stage costs on them."""
    everything = range(len(chain.inputs))
    exact: Backend = "fp32"
    fp32 = (exact,) * len(GENERATOR_PARTS)
    reporter.progress("drift: rendering the sequence", 0, None)
    sequence = chain.frames(fp32, everything)
    frames = worst_frames(measure_drift(sequence, chain.whole("runner", everything)), worst)
    reference = sequence[list(frames)]
    pairs_done = 0

    def pair(doing: str, render: Callable[[Backend], Tensor]) -> Pair:
        nonlocal pairs_done
        reporter.progress(f"drift: {doing}", pairs_done, 2 * len(_STAGES))
        pairs_done += 1
        by_engine, simulated = (Loss.of(measure_drift(reference, render(way))) for way in ("runner", "simulated"))
        return Pair(by_engine, simulated)

    def mixed(position: int, own: Backend, others: Backend) -> Tensor:
        chosen = [others] * len(fp32)
        chosen[position] = own
        return chain.frames(tuple(chosen), frames)

    def of_stage(position: int, name: str) -> StageLoss:
        lowered = pair(f"{name} alone", lambda way: mixed(position, way, "fp32"))
        return StageLoss(name, lowered, pair(f"all but {name}", lambda way: mixed(position, "fp32", way)))

    losses = [of_stage(position, name) for position, name in enumerate(GENERATOR_PARTS)]
    losses.append(StageLoss(TOGETHER, pair(TOGETHER, lambda way: chain.frames((way,) * len(fp32), frames))))
    losses.append(StageLoss(GENERATOR, pair(GENERATOR, lambda way: chain.whole(way, frames))))
    return frames, tuple(losses)
