"""Commands that get things ready: doctor, build, build-plugin, fit, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sadtrt_core.commands.options import console, errors, make_session, takes
from sadtrt_core.config import RunConfig
from sadtrt_core.errors import UserError
from sadtrt_core.files import require_writable


@takes("size", "weights", "checkpoint", "device", "grid_sample", "cache")
def doctor(
    config: RunConfig,
    fix: Annotated[
        bool, typer.Option("--fix", help="Print the commands that this machine needs, in order; run none.")
    ] = False,
) -> None:
    """Say what is here, which runners and precisions can run, and else why not and what fixes it."""
    from sadtrt_core.doctor import print_checks
    from sadtrt_core.machine_fixes import fixes, look

    session = make_session(config)
    if not fix:
        print_checks(session, console)
        return
    needed = fixes(look(session))
    for why, command in needed:
        typer.echo(f"# {why}\n{command}")
    if not needed:
        typer.echo("# nothing is missing here")


@takes(
    *("jobs", "optimization_level", "size", "weights", "checkpoint", "grid_sample", "cache"),
    precisions=("fp16-mixed",),
    stages=("generator",),
    batches=(1,),
)
def build(config: RunConfig) -> None:
    """Build TensorRT engines into the cache, several at a time; what is there already is kept."""
    from sadtrt_core.benchmark import build_engines, engines_for

    session = make_session(config, config.cache)
    cases = [
        session.case(stage, "tensorrt", precision, batch)
        for stage in config.stages
        for precision in config.precisions
        for batch in config.batches
    ]
    for case in cases:
        if (missing := session.unavailable(case)) is not None:
            raise UserError(f"{case.stage} in {case.precision} cannot be built: {missing}")
    failures = build_engines(list(engines_for(session, cases).values()), config.jobs, console)
    raise typer.Exit(1 if any(failure is not None for failure in failures) else 0)


def build_plugin(
    include: Annotated[Path | None, typer.Option(help="Folder of TensorRT's headers (NvInfer.h).")] = None,
    build_dir: Annotated[Path | None, typer.Option(help="Where to build (default: plugin/build).")] = None,
    architectures: Annotated[
        str | None, typer.Option(help="CUDA architectures, such as 86;90 (default: this GPU).")
    ] = None,
) -> None:
    """Compile the plugin library for the TensorRT whose headers are given."""
    from sadtrt_core.engine.plugin_build import build_plugin

    library = build_plugin(include, build_dir, architectures)
    console.print(f"built {library.path}, version {library.version}", markup=False, soft_wrap=True)


@takes("size", "cache")
def fit(
    config: RunConfig,
    demo: Annotated[bool, typer.Option("--demo", help="Fit the small demo renderer instead of the full size.")] = False,
    seconds: Annotated[float, typer.Option(help="How long to fit the generator.")] = 120.0,
    seed: Annotated[int, typer.Option(help="Seed of weights and training pairs.")] = 0,
    batch: Annotated[int, typer.Option(help="Pairs of pictures in a step.")] = 8,
    steps: Annotated[
        int | None, typer.Option(help="Steps of each network at most (default: as many as the time allows).")
    ] = None,
    portrait: Annotated[
        list[Path] | None, typer.Option(help="Repeatable. Pictures to fit on, or folders of them, a face first.")
    ] = None,
    until_psnr: Annotated[
        float | None, typer.Option(help="Stop as soon as held-out pairs reach this PSNR, in dB.")
    ] = None,
    preview: Annotated[Path | None, typer.Option(help="Write a picture of driven frames here.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write (default: the cache).")] = None,
) -> None:
    """Fit stand-in weights, so that drift says something without SadTalker's checkpoint."""
    import torch

    from sadtrt_core.progress import ConsoleReporter
    from sadtrt_core.renderer.fit import FitPlan
    from sadtrt_core.renderer.picture import picture_files
    from sadtrt_core.renderer.standin import fit_standin, fitted_file, load_standin
    from sadtrt_core.renderer.workload import save_preview

    if not torch.cuda.is_available():
        errors.print("there is no GPU here: fitting on the CPU takes hours for a usable picture")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    target = out or fitted_file(config.cache, config.size, seed, "demo" if demo else "fitted")
    for written in filter(None, (target, preview)):
        require_writable(written, file=True)
    if preview is not None and preview.resolve() in {path.resolve() for path in picture_files(portrait or [])}:
        raise UserError(f"--preview {preview} is what is fitted on: choose another file")
    plan = FitPlan(seconds=seconds, seed=seed, batch=batch, steps=steps, until_psnr=until_psnr)
    with ConsoleReporter(console) as report:
        fitted = fit_standin(
            config.size, demo=demo, plan=plan, portraits=portrait or [], out=target, device=device, report=report
        )
        renderer = load_standin(target, "demo" if demo else "fitted", config.size)
        if preview is not None:
            save_preview(preview, renderer, device)
    console.print(
        f"wrote {target} ({target.stat().st_size / 1e6:.1f} MB): {fitted.steps} steps, "
        f"{fitted.held_out_psnr:.1f} dB on held-out pairs",
        markup=False,
        soft_wrap=True,
    )


@takes(
    *("optimization_level", "size", "weights", "checkpoint", "source_images", "device", "grid_sample", "cache"),
    stages="generator",
    precisions="fp16-mixed",
    batches=1,
)
def export(
    config: RunConfig,
    out: Annotated[Path, typer.Option(help="The folder to write.")] = ...,  # type: ignore[assignment]
    engine: Annotated[bool, typer.Option("--engine", help="Write TensorRT's engine too.")] = False,
) -> None:
    """Write a stage's typed ONNX with example inputs, reference outputs and the commands that run it elsewhere."""
    from sadtrt_core.export_folder import README, export_stage_folder

    (stage,), (precision,), (batch,) = config.stages, config.precisions, config.batches
    for sentence in export_stage_folder(make_session(config), stage, precision, batch, out, engine):
        console.print(f"{sentence}.", markup=False, highlight=False, soft_wrap=True)
    console.print(f"wrote {out}; what to do with it: {out / README}", markup=False, soft_wrap=True)
