"""What the shipped runner's stages cost in a precision, beside what the precision's types alone would cost.

Each of the generator's stages is computed by the runner with the others in fp32 by PyTorch, then the reverse; the same
is done with the stages' typed graphs, every rounding explicit and sums in fp32. Where the runner loses more than these,
its tactics or fusions do.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from rich.console import Console
from torch import Tensor

from sadtrt_core.accuracy.backends import GENERATOR, Backend, Compute, StageChain, by_pytorch, by_runner, by_simulation
from sadtrt_core.accuracy.drift import versions
from sadtrt_core.accuracy.findings import ENGINE_REPORT_VERSION, EngineReport, Loss, Pair, StageLoss
from sadtrt_core.accuracy.losses import worst_frames
from sadtrt_core.benchmark import build_engines, engines_for
from sadtrt_core.errors import BuildError, UserError
from sadtrt_core.measure.drift import measure_drift
from sadtrt_core.progress import Tell
from sadtrt_core.renderer.stages import GENERATOR_PARTS
from sadtrt_core.runners.registry import RunnerKind, runner_named
from sadtrt_core.session import Session

TOGETHER = "all four stages"
_STAGES = (*GENERATOR_PARTS, GENERATOR)


def shipped_runner(suite: Session) -> RunnerKind:
    """TensorRT where the suite has a GPU, ONNX Runtime on a CPU."""
    return runner_named("tensorrt" if suite.device.type == "cuda" else "onnxruntime")


def prepare_engines(suite: Session, precision: str, console: Console) -> None:
    """Build the engines of the stages and of the generator that the cache lacks, several at a time.

    Raises UserError where the runner cannot serve the precision here, BuildError where a build fails.
    """
    kind = shipped_runner(suite)
    cases = [suite.case(stage, kind.name, precision) for stage in _STAGES]
    for case in cases:
        absence = suite.unavailable(case)
        if absence is not None:
            raise UserError(f"{case.stage} in {precision} cannot be computed by {kind.name}: {absence}")
    engines = engines_for(suite, cases) if kind.name == "tensorrt" else {}
    for outcome in build_engines(list(engines.values()), suite.options.jobs, console):
        if outcome.failure is not None:
            raise BuildError(outcome.failure)


def engine_losses(
    suite: Session, precision: str, worst: int, tell: Tell = lambda doing, done, total: None
) -> EngineReport:
    """What each stage costs computed by the shipped runner, on the `worst` frames of the sequence.

    The worst are those of the whole generator by the runner. Raises as `prepare_engines` and runners do.
    """
    kind = shipped_runner(suite)
    tell("loading the stages", 0, None)
    with ExitStack() as active:
        backends: dict[tuple[Backend, str], Compute] = {}
        for stage in _STAGES:
            job = suite.job(suite.case(stage, kind.name, precision))
            backends["runner", stage] = by_runner(active.enter_context(kind.create(job)))
            backends["simulated", stage] = by_simulation(job)
            backends["fp32", stage] = by_pytorch(job, tf32=False)
        frames, stages = measure_stages(StageChain(backends, suite.frame_inputs), worst, tell)
    return EngineReport(
        version=ENGINE_REPORT_VERSION,
        precision=suite.precision(precision).name,
        runner=kind.name,
        grid_sample=suite.grid_sample,
        optimization_level=suite.options.optimization_level,
        meaningful=suite.drift_is_meaningful,
        weights=suite.recorded_weights,
        workload=suite.recorded_workload,
        frames=frames,
        stages=stages,
        versions=versions(suite.device),
    )


def measure_stages(chain: StageChain, worst: int, tell: Tell) -> tuple[tuple[int, ...], tuple[StageLoss, ...]]:
    """The worst frames of the whole generator by the runner, and what every stage costs on them."""
    everything = range(len(chain.inputs))
    exact: Backend = "fp32"
    fp32 = (exact,) * len(GENERATOR_PARTS)
    tell("rendering the sequence", 0, None)
    sequence = chain.frames(fp32, everything)
    frames = worst_frames(measure_drift(sequence, chain.whole("runner", everything)), worst)
    reference = sequence[list(frames)]
    pairs_done = 0

    def pair(doing: str, render: Callable[[Backend], Tensor]) -> Pair:
        nonlocal pairs_done
        tell(doing, pairs_done, 2 * len(_STAGES))
        pairs_done += 1
        by_engine, simulated = (Loss.of(measure_drift(reference, render(way))) for way in ("runner", "simulated"))
        return Pair(by_engine, simulated)

    def mixed(position: int, own: Backend, others: Backend) -> Tensor:
        chosen = [others] * len(fp32)
        chosen[position] = own
        return chain.frames(tuple(chosen), frames)

    def of_stage(position: int, name: str) -> StageLoss:
        alone = pair(f"{name} alone", lambda way: mixed(position, way, "fp32"))
        return StageLoss(name, alone, pair(f"all but {name}", lambda way: mixed(position, "fp32", way)))

    losses = [of_stage(position, name) for position, name in enumerate(GENERATOR_PARTS)]
    losses.append(StageLoss(TOGETHER, pair(TOGETHER, lambda way: chain.frames((way,) * len(fp32), frames))))
    losses.append(StageLoss(GENERATOR, pair(GENERATOR, lambda way: chain.whole(way, frames))))
    return frames, tuple(losses)
