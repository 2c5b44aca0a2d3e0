"""Commands that get things ready: doctor, build, build-plugin, fit."""

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
    WeightsChoice,
    console,
    errors,
    make_session,
    one_sentence,
)
from sadtrt_core.config import default_cache
from sadtrt_core.precision import PRECISIONS
from sadtrt_core.renderer.stages import GRAPH_STAGES


def doctor(
    size: Size = 256,
    weights: WeightsChoice = "auto",
    checkpoint: Checkpoint = None,
    device: Device = "auto",
    grid_sample: GridSampleChoice = "auto",
    cache: Cache = None,
) -> None:
    """Say what is here and, for every runner and precision that would be skipped, why and what mends it."""
    from sadtrt_core.doctor import print_findings

    with one_sentence():
        print_findings(make_session(size, weights, checkpoint, device, grid_sample, cache), console)


def build(
    precision: Annotated[
        list[str], typer.Option(help=f"Repeatable: {', '.join(PRECISIONS)}, or a plan's .toml file.")
    ] = ["fp16-mixed"],  # noqa: B006
    stage: Annotated[list[str], typer.Option(help=f"Repeatable: {', '.join(GRAPH_STAGES)}.")] = ["generator"],  # noqa: B006
    batch: Annotated[list[int], typer.Option(help="Repeatable: batch sizes.")] = [1],  # noqa: B006
    jobs: Annotated[int, typer.Option(help="Engines built at the same time.")] = os.cpu_count() or 1,
    optimization_level: Annotated[int, typer.Option(help="The builder's level, 0 (quick) to 5 (thorough).")] = 3,
    size: Size = 256,
    weights: WeightsChoice = "auto",
    checkpoint: Checkpoint = None,
    grid_sample: GridSampleChoice = "auto",
    cache: Cache = None,
) -> None:
    """Build TensorRT engines into the cache, several at a time; what is there already is kept."""
    from sadtrt_core.benchmark import build_engines, engines_for
    from sadtrt_core.runners.registry import runner_named

    with one_sentence():
        suite = make_session(size, weights, checkpoint, "auto", grid_sample, cache, optimization_level)
        rows = [(name, how, count) for name in stage for how in precision for count in batch]
        for name, how, count in rows:
            absence = runner_named("tensorrt").available(suite.job(name, runner_named("tensorrt"), how, count))
            if absence is not None:
                raise ValueError(f"{name} in {how} cannot be built: {absence}")
        engines = engines_for(suite, rows)
        outcomes = build_engines(engines, jobs, console)
    raise typer.Exit(1 if any(outcome.failure is not None for outcome in outcomes) else 0)


def build_plugin_command(
    include: Annotated[Path | None, typer.Option(help="Folder of TensorRT's headers (NvInfer.h).")] = None,
    build_dir: Annotated[Path | None, typer.Option(help="Where to build (default: plugin/build).")] = None,
    architectures: Annotated[
        str | None, typer.Option(help="CUDA architectures, such as 86;90 (default: this GPU).")
    ] = None,
) -> None:
    """Compile the plugin library for the TensorRT whose headers are given."""
    from sadtrt_core.engine.plugin_build import build_plugin

    with one_sentence():
        library = build_plugin(include, build_dir, architectures)
    console.print(f"built {library.path}, version {library.version}", soft_wrap=True)


def fit(
    size: Size = 256,
    demo: Annotated[bool, typer.Option("--demo", help="Fit the small demo renderer instead of the full size.")] = False,
    seconds: Annotated[float, typer.Option(help="How long to fit the generator.")] = 120.0,
    seed: Annotated[int, typer.Option(help="Seed of weights and training pairs.")] = 0,
    batch: Annotated[int, typer.Option(help="Pairs in a step.")] = 8,
    steps: Annotated[int | None, typer.Option(help="At most so many steps of each network.")] = None,
    portrait: Annotated[list[Path] | None, typer.Option(help="Repeatable: pictures to fit on, a face first.")] = None,
    preview: Annotated[Path | None, typer.Option(help="Write a picture of driven frames here.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write (default: the cache).")] = None,
    cache: Cache = None,
) -> None:
    """Fit stand-in weights, so that drift says something without SadTalker's checkpoint (three minutes on an H200)."""
    import torch

    from sadtrt_core.progress import ConsoleReporter
    from sadtrt_core.renderer.fit import FitPlan
    from sadtrt_core.renderer.preview import save_preview
    from sadtrt_core.renderer.standin import DEMO_FILE, fit_standin, fitted_file, load_standin

    if not torch.cuda.is_available():
        errors.print("there is no GPU here: fitting on the CPU takes hours for a usable picture")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    target = out or (DEMO_FILE if demo else fitted_file(cache or default_cache(), size, seed))
    plan = FitPlan(seconds=seconds, seed=seed, batch=batch, steps=steps)
    with one_sentence(), ConsoleReporter(console) as report:
        fitted = fit_standin(
            size, demo=demo, plan=plan, portraits=portrait or [], out=target, device=device, report=report
        )
        renderer = load_standin(target, "demo" if demo else "fitted", size)
        if preview is not None:
            save_preview(preview, renderer, device)
    console.print(
        f"wrote {target} ({target.stat().st_size / 1e6:.1f} MB): {fitted.steps} steps, "
        f"{fitted.held_out_psnr:.1f} dB on pairs it never saw",
        soft_wrap=True,
    )
