"""What the shipped runner's stages cost in a precision, beside what the precision's types alone would cost.

Each of the generator's stages is computed by the runner with the others in fp32 by PyTorch, then the reverse; the same
is done with the stages' typed graphs, every rounding explicit and sums in fp32. Where the runner loses more than these,
its tactics or fusions do.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

import onnx
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from sadtrt_core.accuracy.findings import Loss, Report, heading, make_report, table, worst_frames
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
#: The same frames by the shipped runner ("runner"), and as the precision's types alone would have them ("simulated").
Pair = Mapping[Backend, Loss]
GENERATOR = "generator"
TOGETHER = "all four stages"
_STAGES = (*GENERATOR_PARTS, GENERATOR)
_LEGEND = (
    "lowered: the stage by {1} in {0}, the others by PyTorch in fp32. excluded: the stage by PyTorch in fp32, the "
    "others by {1}. types: the same with the roundings of {0} and no others, sums in fp32. beyond: the PSNR of the "
    "error that {1} adds to that, on the scale of the picture's own. "
    "PSNR and LSB of the worst frame against PyTorch fp32."
)


@dataclass(frozen=True)
class StageLoss:
    """One stage alone in the precision, and all but it; the other stages are PyTorch's in fp32.

    `excluded` is None for all stages together and for the generator as one graph.
    """

    stage: str
    lowered: Pair
    excluded: Pair | None = None


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
    """The stage's typed graph by PyTorch, its samplers native, every rounding explicit and sums in fp32.

    A precision that computes in float32 rounds nothing but what TF32 rounds: PyTorch's own arithmetic is used.
    """
    if job.precision.compute == "float32":
        return by_pytorch(job, job.precision.tf32)
    typed = typed_graph(job.renderer, job.stage, job.precision, "native", job.cache, job.calibration)
    shapes = {spec.name: spec.batched(1) for spec in job.inputs}
    model, constants = rounded_graph(onnx.load_from_string(typed), shapes, job.device)
    return lambda known: run_graph(model, {**_wanted(job, known), **constants})


def _wanted(job: Job, known: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {spec.name: known[spec.name].contiguous() for spec in job.inputs}


def shipped_runner(session: Session) -> RunnerKind:
    """TensorRT where the session has a GPU, ONNX Runtime on a CPU."""
    return runner_named("tensorrt" if session.on_gpu else "onnxruntime")


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


def engine_losses(session: Session, precision: str, worst: int, reporter: Reporter = SILENT) -> Report:
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
        frames, stages = measure_stages(backends, session.frame_inputs(), worst, reporter)
    findings = {
        "runner": kind.name,
        "grid_sample": session.grid_sample,
        "optimization_level": session.options.optimization_level,
        "stages": stages,
    }
    head = heading(session, f"{precision} by {kind.name} ({session.grid_sample} grid sample),", frames)
    drawn = stage_table(f"{precision} by {kind.name}", stages)
    legend = _LEGEND.format(precision, kind.name)
    return make_report(session, precision, frames, findings, [head], [drawn], [legend], how=f"{kind.name}-")


def measure_stages(
    backends: Mapping[tuple[Backend, str], Compute],
    inputs: Sequence[Mapping[str, Tensor]],
    worst: int,
    reporter: Reporter = SILENT,
) -> tuple[tuple[int, ...], tuple[StageLoss, ...]]:
    """The worst frames of the whole generator by the runner, and what every stage costs on them.

    `backends` has the four stages of GENERATOR_PARTS and the generator as one graph, each by every backend; `inputs`
    the generator's inputs for each frame.
    """
    everything = range(len(inputs))
    # What an earlier rendering computed alike, by the frame and the backends of the stages so far.
    kept: dict[tuple[int, tuple[Backend, ...]], dict[str, Tensor]] = {}

    def frame(chosen: Mapping[str, Backend], index: int) -> Tensor:
        known = dict(inputs[index])
        so_far: tuple[Backend, ...] = ()
        for stage in GENERATOR_PARTS:
            so_far = (*so_far, chosen[stage])
            # What is made once a clip is the same for every frame.
            key = (-1 if STAGES[stage].when == "once a clip" else index, so_far)
            if key not in kept:
                kept[key] = backends[chosen[stage], stage](known)
            known |= kept[key]
        return known["prediction"].cpu()

    def whole(way: Backend, indices: Sequence[int]) -> Tensor:
        return torch.cat([backends[way, GENERATOR](inputs[index])["prediction"].cpu() for index in indices])

    def mixed(own: Backend, stages: Sequence[str], others: Backend = "fp32") -> Tensor:
        chosen = {stage: own if stage in stages else others for stage in GENERATOR_PARTS}
        return torch.cat([frame(chosen, index) for index in frames])

    reporter.progress("drift: rendering the sequence", 0, None)
    exact = torch.cat([frame(dict.fromkeys(GENERATOR_PARTS, "fp32"), index) for index in everything])
    frames = worst_frames(measure_drift(exact, whole("runner", everything)), worst)
    done = 0

    def pair(doing: str, render: Callable[[Backend], Tensor]) -> Pair:
        nonlocal done
        reporter.progress(f"drift: {doing}", done, 2 * len(_STAGES))
        done += 1
        ways: tuple[Backend, ...] = ("runner", "simulated")
        return {way: Loss.of(measure_drift(exact[list(frames)], render(way))) for way in ways}

    def of_stage(stage: str) -> StageLoss:
        lowered = pair(f"{stage} alone", lambda way: mixed(way, [stage]))
        return StageLoss(stage, lowered, pair(f"all but {stage}", lambda way: mixed("fp32", [stage], way)))

    losses = [of_stage(stage) for stage in GENERATOR_PARTS]
    together = pair(TOGETHER, lambda way: mixed(way, GENERATOR_PARTS))
    alone = pair(GENERATOR, lambda way: whole(way, frames))
    return frames, (*losses, StageLoss(TOGETHER, together), StageLoss(GENERATOR, alone))


def beyond(pair: Pair) -> float:
    """What the runner loses beyond its types: the PSNR in dB of its mean squared error less the simulated one.

    Infinite where it loses no more, minus infinity where it alone is not finite.
    """
    error = 10 ** (-pair["runner"].decibels / 10)
    expected = 10 ** (-pair["simulated"].decibels / 10)
    if error <= expected:
        return math.inf
    return -math.inf if math.isinf(error) else -10 * math.log10(error - expected)


def stage_table(what: str, stages: Sequence[StageLoss]) -> Table:
    """The single stages, that first which alone loses most beyond its types; then those of them all."""
    title = f"What each stage costs in {what}, in dB, most beyond its types first"
    made = table(title, "stage", "lowered", "LSB", "types", "LSB", "beyond", "excluded", "types", width=15)
    single = [stage for stage in stages if stage.excluded is not None]
    single.sort(key=lambda stage: (beyond(stage.lowered), stage.lowered["runner"].decibels))
    for stage in (*single, *(stage for stage in stages if stage.excluded is None)):
        own = [cell for loss in stage.lowered.values() for cell in (loss.cell, str(loss.max_lsb))]
        more = beyond(stage.lowered)
        # Infinite by itself says nothing: either no loss beyond the types, or no picture.
        words = f"{more:.1f}" if math.isfinite(more) else "none" if more > 0 else "all"
        kept = [loss.cell for loss in stage.excluded.values()] if stage.excluded else ["-", "-"]
        made.add_row(escape(stage.stage), *own, words, *kept)
    return made
