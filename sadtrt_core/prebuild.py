"""Builds the engines a run will need, several at a time, before anything is measured."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console

from sadtrt_core.engine.build import BuildOptions
from sadtrt_core.engine.display import build_progress
from sadtrt_core.engine.job import BuildJob
from sadtrt_core.engine.parallel import BuildOutcome, build_all
from sadtrt_core.runners.base import Job
from sadtrt_core.runners.clip import CLIP_PARTS
from sadtrt_core.runners.registry import runner_named
from sadtrt_core.runners.tensorrt import engine_job
from sadtrt_core.session import Session


def engines_for(suite: Session, rows: Iterable[tuple[str, str, int]]) -> list[BuildJob]:
    """The engines of rows (stage, precision, batch) that TensorRT can serve here, each once; a clip wants its parts."""
    kind = runner_named("tensorrt")
    wanted: dict[tuple[str, str, int], Job] = {}
    for stage, precision, batch in rows:
        parts = [(name, 1) for name in CLIP_PARTS] if stage == "clip" else [(stage, batch)]
        for name, count in parts:
            job = suite.job(name, kind, precision, count)
            if kind.available(job) is None:
                wanted[name, precision, count] = job
    return [engine_job(job, BuildOptions(optimization_level=job.optimization_level)) for job in wanted.values()]


def unbuilt_reason(suite: Session, job: Job) -> str | None:
    """Why the engine of a job, or of one of its clip's parts, could not be built before the run; None where it was."""
    parts = [(name, 1) for name in CLIP_PARTS] if job.stage.name == "clip" else [(job.stage.name, job.batch)]
    reasons = (suite.unbuilt.get((name, job.precision.name, batch)) for name, batch in parts)
    return next((reason for reason in reasons if reason is not None), None)


def build_engines(jobs: list[BuildJob], processes: int, console: Console) -> tuple[BuildOutcome, ...]:
    """Build what the cache lacks, with a progress display; the reasons of failed builds are printed."""
    if not jobs:
        return ()
    with build_progress(console) as progress:
        outcomes = tuple(build_all(jobs, processes, progress))
    for outcome in outcomes:
        if outcome.failure is not None:
            console.print(f"not built: {outcome.failure}", style="red", markup=False, soft_wrap=True)
    return outcomes
