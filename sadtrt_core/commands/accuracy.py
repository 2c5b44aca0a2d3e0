"""Commands that find where a picture is lost and what to keep of it: drift, search."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from sadtrt_core.commands.options import (
    Cache,
    Checkpoint,
    Device,
    GridSampleChoice,
    Size,
    SourceImage,
    WeightsChoice,
    console,
    errors,
    make_session,
    one_sentence,
)

_CORES = os.cpu_count() or 1
Jobs = Annotated[int, typer.Option(min=1, help="Engines built at the same time.")]
OptimizationLevel = Annotated[int, typer.Option(min=0, max=5, help="The builder's level, 0 (quick) to 5 (thorough).")]


def drift(
    precision: Annotated[str, typer.Option(help="A precision that computes low, or a plan's .toml file.")] = "fp16",
    engines: Annotated[
        bool,
        typer.Option(
            "--engines",
            help="Measure the stages as they are shipped, by TensorRT's engines (ONNX Runtime on a CPU), beside what "
            "their types alone cost: which stage loses more than that to tactics and fusions.",
        ),
    ] = False,
    half_sums: Annotated[
        bool,
        typer.Option(
            "--half-sums",
            help="Which convolutions lose the picture where kernels sum in half, as TensorRT 8.6's do on Hopper. "
            "Takes minutes on a CPU.",
        ),
    ] = False,
    frames: Annotated[int, typer.Option(min=1, help="Frames of the driving sequence.")] = 16,
    worst: Annotated[int, typer.Option(min=1, help="How many of them, the worst, every part is measured on.")] = 4,
    jobs: Jobs = _CORES,
    optimization_level: OptimizationLevel = 3,
    grid_sample: GridSampleChoice = "auto",
    device: Device = "auto",
    size: Size = 256,
    weights: WeightsChoice = "auto",
    checkpoint: Checkpoint = None,
    source_image: SourceImage = None,
    results: Annotated[Path, typer.Option(help="Folder for results.")] = Path("results"),
    cache: Cache = None,
) -> None:
    """Find where a precision loses the picture: which stage, block and nodes, and whose numbers do not fit.

    Its roundings are simulated, so that the findings are the types' alone, whoever computes them. With --engines the
    engines themselves are measured, stage by stage; --jobs, --optimization-level and --grid-sample are theirs. With
    --half-sums what kernels add to the types that sum in half.
    """
    from dataclasses import replace

    from rich.console import RenderableType

    from sadtrt_core.accuracy.accumulation_losses import sum_losses
    from sadtrt_core.accuracy.drift import localise_session, write_report
    from sadtrt_core.accuracy.engines import engine_losses, prepare_engines
    from sadtrt_core.accuracy.findings import DriftReport, EngineReport, SumsReport
    from sadtrt_core.accuracy.tables import engine_renderables, renderables, sums_renderables
    from sadtrt_core.progress import ConsoleReporter, shown_progress
    from sadtrt_core.session import Session

    found: DriftReport | EngineReport | SumsReport
    shown: list[RenderableType]
    with one_sentence():
        if engines and half_sums:
            raise ValueError("--engines measures kernels and --half-sums simulates them: give one of the two")
        options = make_session(
            size, weights, checkpoint, device, grid_sample, cache, optimization_level, jobs, source_image
        ).options
        suite = Session(replace(options, frames=frames, results=results), report=ConsoleReporter(errors))
        complete = True
        if engines:
            prepare_engines(suite, precision, errors)
            with shown_progress(errors) as tell:
                found = engine_losses(suite, precision, worst, tell)
            shown = engine_renderables(found)
        elif half_sums:
            with shown_progress(errors) as tell:
                found = sum_losses(suite, suite.precision(precision), worst, tell)
            shown, complete = sums_renderables(found), found.complete
        else:
            with shown_progress(errors) as tell:
                found = localise_session(
                    suite, suite.precision(precision), worst, lambda now: tell(now.doing, now.done, now.total)
                )
            shown, complete = renderables(found), found.complete
        folder = write_report(found, results)
    for one in shown:
        console.print(one)
    console.print(f"results: {folder}", soft_wrap=True)
    raise typer.Exit(0 if complete else 130)


def search(
    precision: Annotated[str, typer.Option(help="The base: fp16 or bf16.")] = "fp16",
    min_psnr: Annotated[float, typer.Option(help="What every frame has to hold, in dB.")] = 60.0,
    max_lsb: Annotated[int | None, typer.Option(help="The largest difference of a pixel, of 255.")] = None,
    frames: Annotated[int, typer.Option(min=1, help="Frames of the driving sequence.")] = 16,
    worst: Annotated[int, typer.Option(min=1, help="How many of them, the worst, are tried first.")] = 4,
    out: Annotated[Path | None, typer.Option(help="The plan to write (default: plans/<base>-<dB>db.toml).")] = None,
    jobs: Jobs = _CORES,
    optimization_level: OptimizationLevel = 3,
    grid_sample: GridSampleChoice = "auto",
    device: Device = "auto",
    size: Size = 256,
    weights: WeightsChoice = "auto",
    checkpoint: Checkpoint = None,
    source_image: SourceImage = None,
    cache: Cache = None,
) -> None:
    """Find what has to stay fp32 for an accuracy budget, and write it as a plan. Run again, it goes on.

    With TensorRT the plans that come into question are built and timed beside the built-in fp16-mixed; the fastest that
    holds the budget is written. Without a GPU the arithmetic kept in fp32 stands for time.
    """
    from sadtrt_core.accuracy.search_command import search_command

    with one_sentence():
        suite = make_session(
            size, weights, checkpoint, device, grid_sample, cache, optimization_level, jobs, source_image
        )
        try:
            found = search_command(suite, precision, min_psnr, max_lsb, frames, worst, out, console, errors)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
    raise typer.Exit(0 if found else 1)
