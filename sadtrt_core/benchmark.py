"""The experiment: engines are built, then each case is loaded and timed, its repetitions interleaved with others'.

`bench/` calls this from its tests and hands over pytest-benchmark's own rounds; nothing here knows of pytest.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from rich.console import Console
from torch import Tensor

from sadtrt_core.case import Case
from sadtrt_core.engine.job import BuildJob
from sadtrt_core.engine.parallel import build_all
from sadtrt_core.errors import BuildError, Unavailable, UserError, printable
from sadtrt_core.files import write_file
from sadtrt_core.left_out import not_measured
from sadtrt_core.measure.drift import worst_frame_picture
from sadtrt_core.measure.interleave import Interleaver, Repetitions
from sadtrt_core.measure.outputs import output_fault
from sadtrt_core.measure.resources import (
    CLIP_SECONDS,
    SUSTAINED_SECONDS,
    device_memory_free_of_leftovers,
    device_memory_used,
    sustain,
)
from sadtrt_core.measure.seen import absences, codec_absence
from sadtrt_core.measure.timing import LatencySampler
from sadtrt_core.progress import ConsoleReporter
from sadtrt_core.records.measurements import Drift, Resources, Sustained
from sadtrt_core.records.schema import Record
from sadtrt_core.records.store import FRAMES_FOLDER
from sadtrt_core.renderer.stages import RENDERING, STAGES, clip_parts, seeded_notes
from sadtrt_core.report.clip import make_clip
from sadtrt_core.report.ratios import is_reference
from sadtrt_core.runners.base import StageRunner
from sadtrt_core.runners.registry import runner_named
from sadtrt_core.runners.tensorrt import engine_job
from sadtrt_core.session import Session

#: Raised when the benchmarks measure something else than before; older baselines then do not compare.
BENCHMARK_VERSION = 8
#: Why a benchmark that pytest-benchmark has switched off is skipped.
NOT_TIMED = "nothing is timed with --benchmark-disable or pytest-xdist's -n: ran once, recorded nothing"


def skipped(case: Case, reason: str) -> Record:
    """A record that says why a case was not measured."""
    return Record(case, "skipped", reason=reason, benchmark_version=BENCHMARK_VERSION)


def failed(case: Case, error: BaseException) -> Record:
    """A record that says how a case broke."""
    words = printable(" ".join(str(error).split())) or type(error).__name__
    return Record(case, "failed", reason=f"{type(error).__name__}: {words}"[:500], benchmark_version=BENCHMARK_VERSION)


def engine_cases(case: Case) -> list[Case]:
    """The cases whose engines a case of TensorRT loads: itself, or a clip's parts."""
    if case.stage != "clip":
        return [case]
    return [Case(name, case.runner, case.precision, case.grid_sample, 1) for name in clip_parts()]


def engines_for(session: Session, cases: Iterable[Case]) -> dict[Case, BuildJob]:
    """The engines of those cases that TensorRT can serve here, each once."""
    wanted = dict.fromkeys(part for case in cases for part in engine_cases(case))
    return {part: engine_job(session.job(part)) for part in wanted if session.unavailable(part) is None}


def prebuild(session: Session, cases: Iterable[Case], console: Console) -> None:
    """Build what the cases need that will be measured, in parallel, so that none builds while another is measured."""
    of_tensorrt = [case for case in cases if case.runner.startswith("tensorrt")]
    engines = engines_for(session, [case for case in of_tensorrt if not_measured(session, case, timed=True) is None])
    failures = build_engines(list(engines.values()), session.options.jobs, console)
    for case, failure in zip(engines, failures, strict=True):
        if failure is not None:
            session.unbuilt[case] = failure


def require_built(session: Session, case: Case) -> None:
    """Raise BuildError where an engine of the case could not be built before: trying again takes the same minutes."""
    for part in engine_cases(case):
        if (reason := session.unbuilt.get(part)) is not None:
            raise BuildError(reason)


def build_engines(jobs: list[BuildJob], processes: int, console: Console) -> tuple[str | None, ...]:
    """Build what the cache lacks, with a progress display; the reasons of failed builds are printed.

    Returns them in the order of `jobs`, None where the engine is in the cache.
    """
    if not jobs:
        return ()
    with ConsoleReporter(console) as report:
        failures = build_all(jobs, processes, report)
    for failure in failures:
        if failure is not None:
            console.print(f"not built: {failure}", style="red", markup=False, soft_wrap=True)
    return failures


def measure_latency(
    session: Session,
    case: Case,
    interleaver: Interleaver,
    take: Callable[[LatencySampler, int], object],
    on_record: Callable[[Record], None],
    on_error: Callable[[Exception], None],
) -> None:
    """Load the case's runner, time its first repetition, repeat what waits, and leave the rest to the interleaver.

    `take` takes the first samples. `on_record` is told the case's record now and after each later repetition,
    `on_error` how a later one failed; the run has both by then. Raises whatever breaks in the first repetition, and
    RuntimeError where what was timed does not compute the stage.
    """
    require_built(session, case)
    job = session.job(case)
    # Made before memory is looked at: they are none of the runner's.
    flush, inputs = session.l2_flush, session.inputs(job)
    runner = session.runner(case)
    interleaver.evict(runner)
    cold = _first_load(session.runner(case), inputs) if session.on_gpu and runner_named(case.runner).graph else None
    before = device_memory_free_of_leftovers(job.device)
    with contextlib.ExitStack() as loaded:
        begin = time.perf_counter()
        loaded.enter_context(runner)
        runner.synchronize()
        load_seconds = time.perf_counter() - begin
        runner.bind(inputs)
        timing = Repetitions(runner, session.timing_plan, session.sensors, flush)
        timing.repeat(take)
        stretch, energy = _sustained(session, runner, timing.call_seconds)
        # Before what waits is repeated: what it takes anew would else be counted here.
        load_s, first_call_ms = cold or (load_seconds, timing.sampler.first_call_ms)
        used = replace(
            _resources(runner, before), energy_mj_per_frame=energy, load_s=load_s, first_call_ms=first_call_ms
        )
        notes = (*runner.notes, *seeded_notes(job.stage, job.renderer))
        if session.on_gpu and timing.watch.absence is not None:
            notes = (*notes, f"no telemetry: {timing.watch.absence}")
        made = Record(
            case,
            "measured",
            latency=timing.latency(),
            resources=used,
            telemetry=timing.telemetry(),
            notes=notes,
            benchmark_version=BENCHMARK_VERSION,
            sustained=stretch,
            calibration=job.calibration_digest,
        )
        on_record(session.writer.add(made))
        # Last, because it takes memory of its own.
        if (fault := stage_fault(session, runner)) is not None:
            raise RuntimeError(fault)

        def repeated() -> None:
            # At once, so that a run that is killed keeps what it measured.
            on_record(session.writer.update_times(case, timing.latency(), timing.telemetry()))

        def broke(error: Exception) -> None:
            session.writer.add(failed(case, error))
            on_error(error)

        interleaver.repeat()
        interleaver.keep(timing, runner, loaded.pop_all(), repeated, broke)


def _first_load(runner: StageRunner, inputs: dict[str, Tensor]) -> tuple[float, float]:
    """Load, call and free a runner: seconds until it was loaded, and the first call's milliseconds.

    A process keeps what it loaded for an engine, such as the code of its kernels, when the engine is freed: it would
    count as memory of whichever row was the first to load it.
    """
    begin = time.perf_counter()
    with runner:
        runner.synchronize()
        loaded = time.perf_counter()
        runner.bind(inputs)
        called = time.perf_counter()
        runner.execute()
        runner.synchronize()
        return loaded - begin, 1e3 * (time.perf_counter() - called)


def stage_fault(session: Session, runner: StageRunner) -> str | None:
    """That the runner's last call did not compute its stage; None where it did, and under noise, which says nothing."""
    job = runner.job
    if not session.drift_is_meaningful or seeded_notes(job.stage, job.renderer):
        return None
    fault = output_fault(runner.fetch(), session.exact_outputs(job))
    return None if fault is None else f"what was timed is not the stage {job.stage.name}: {fault}"


def _sustained(
    session: Session, runner: StageRunner, call_seconds: float
) -> tuple[Sustained, float | None] | tuple[None, None]:
    """The stretch without a pause and its energy a frame: of every row where there are sensors, elsewhere of clips."""
    clip = runner.job.stage.module is None
    if isinstance(session.sensors, Unavailable) and not clip:
        return None, None
    seconds = CLIP_SECONDS if clip and session.on_gpu else SUSTAINED_SECONDS
    return sustain(runner, session.sensors, call_seconds, runner.job.batch, seconds)


def _resources(runner: StageRunner, before_mb: float | None) -> Resources:
    """What an activated runner takes: device memory beyond `before_mb`, and its engine's size."""
    after = device_memory_used(runner.job.device)
    memory = None if after is None or before_mb is None else max(0.0, after - before_mb)
    return Resources(memory, None if runner.engine_bytes is None else runner.engine_bytes / 1e6)


def measure_drift(session: Session, case: Case, render: Callable[[StageRunner], Tensor]) -> tuple[Record, Drift]:
    """Render the whole driving sequence in the runner of a stage of RENDERING; record how far it is from the reference.

    `render` gives the frames (T, 3, H, W) of an activated runner. Raises UserError where the reference itself is not
    good enough to judge them by.
    """
    require_built(session, case)
    reference = session.reference
    if reference.good_for_db == -math.inf:
        raise UserError(f"the reference cannot judge anything: {reference.sentence()}")
    with session.runner(case) as runner:
        runner.infer(session.frame_inputs(case.stage)[0])  # Loads, compiles and tunes outside the one timed round.
        frames = render(runner)
        notes, calibration = (*runner.notes, *absences()), runner.job.calibration_digest
    drift = session.drift(frames)
    if is_reference(case):
        notes = (*notes, f"the reference: {reference.sentence()}", *filter(None, [session.prediction_line]))
    elif (warning := reference.warning(drift.psnr_min)) is not None:
        notes = (*notes, warning)
    version = BENCHMARK_VERSION
    record = Record(case, "measured", drift=drift, notes=notes, benchmark_version=version, calibration=calibration)
    record = session.writer.add(record)
    if case.stage == next((name for name in RENDERING if name in (session.options.stages or STAGES)), None):
        _save_frames(session, case, frames, drift)
    if all(drift.non_finite):
        raise RuntimeError(f"each of the {len(drift.non_finite)} frames holds NaN or infinity: there is no picture")
    return record, drift


def _save_frames(session: Session, case: Case, frames: Tensor, drift: Drift) -> None:
    """Keep a picture of the worst frame, beside the reference's and an error map, and a clip in the run's folder.

    There is no clip without PyAV, nor of the reference itself, where nothing is to be seen.
    """
    reference, folder = session.reference.frames, session.writer.folder / FRAMES_FOLDER
    folder.mkdir(exist_ok=True)
    picture = worst_frame_picture(f"{case.runner} {case.precision}", reference, frames, drift)
    write_file(folder / f"{case.slug}.png", picture)
    if codec_absence() is None and not is_reference(case):
        write_file(folder / f"{case.slug}.mp4", make_clip(reference, frames))
