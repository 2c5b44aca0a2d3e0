"""The command line: doctor, build, build-plugin, fit, drift, search, report, gate, compare."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from sadtrt_core.cli_options import (
    Cache,
    Checkpoint,
    Device,
    GridSampleChoice,
    Size,
    WeightsChoice,
    console,
    errors,
    make_suite,
    one_sentence,
)
from sadtrt_core.precision import PRECISIONS
from sadtrt_core.stages import GRAPH_STAGES, STAGES

app = typer.Typer(
    help="What a lower precision costs and buys for the SadTalker face renderer on NVIDIA GPUs. "
    "The benchmark suite itself is `pytest bench/ --benchmark-only`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
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
        print_findings(make_suite(size, weights, checkpoint, device, grid_sample, cache), console)


@app.command()
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
    from sadtrt_core.prebuild import build_engines, engines_for
    from sadtrt_core.runners.registry import runner_named

    with one_sentence():
        suite = make_suite(size, weights, checkpoint, "auto", grid_sample, cache, optimization_level)
        rows = [(name, how, count) for name in stage for how in precision for count in batch]
        for name, how, count in rows:
            absence = runner_named("tensorrt").available(suite.job(name, runner_named("tensorrt"), how, count))
            if absence is not None:
                raise ValueError(f"{name} in {how} cannot be built: {absence}")
        engines = engines_for(suite, rows)
        outcomes = build_engines(engines, jobs, console)
    raise typer.Exit(1 if any(outcome.failure is not None for outcome in outcomes) else 0)


@app.command(name="build-plugin")
def build_plugin_command(
    include: Annotated[Path | None, typer.Option(help="Folder of TensorRT's headers (NvInfer.h).")] = None,
    build_dir: Annotated[Path | None, typer.Option(help="Where to build (default: plugin/build).")] = None,
    architectures: Annotated[
        str | None, typer.Option(help="CUDA architectures, such as 86;90 (default: this GPU).")
    ] = None,
) -> None:
    """Compile the GridSample3D plugin for the TensorRT whose headers are given."""
    from sadtrt_core.engine.plugin import build_plugin

    with one_sentence():
        library = build_plugin(include, build_dir, architectures)
    console.print(f"built {library.path}, version {library.version}", soft_wrap=True)


@app.command()
def fit(
    size: Size = 256,
    demo: Annotated[bool, typer.Option("--demo", help="Fit the small demo renderer instead of the full size.")] = False,
    seconds: Annotated[float, typer.Option(help="How long to fit the generator.")] = 120.0,
    seed: Annotated[int, typer.Option(help="Seed of weights and training pairs.")] = 0,
    batch: Annotated[int, typer.Option(help="Pairs in a step.")] = 8,
    steps: Annotated[int | None, typer.Option(help="At most so many steps of each network.")] = None,
    portrait: Annotated[list[Path] | None, typer.Option(help="Repeatable: pictures to fit on.")] = None,
    preview: Annotated[Path | None, typer.Option(help="Write a picture of driven frames here.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write (default: the cache).")] = None,
    cache: Cache = None,
) -> None:
    """Fit stand-in weights, so that drift says something without SadTalker's checkpoint (three minutes on an H200)."""
    import torch

    from sadtrt_core.renderer.fit import FitPlan
    from sadtrt_core.renderer.fit_display import shown_fit
    from sadtrt_core.renderer.preview import save_preview
    from sadtrt_core.renderer.standin import DEMO_FILE, fit_standin, fitted_file, load_standin
    from sadtrt_core.suite import default_cache

    if not torch.cuda.is_available():
        errors.print("there is no GPU here: fitting on the CPU takes hours for a usable picture")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    target = out or (DEMO_FILE if demo else fitted_file(cache or default_cache(), size, seed))
    plan = FitPlan(seconds=seconds, seed=seed, batch=batch, steps=steps)
    with one_sentence(), shown_fit(console) as show:
        fitted = fit_standin(
            size, demo=demo, plan=plan, portraits=portrait or [], out=target, device=device, report=show
        )
        renderer = load_standin(target, "demo" if demo else "fitted", size)
        if preview is not None:
            save_preview(preview, renderer, device)
    console.print(
        f"wrote {target} ({target.stat().st_size / 1e6:.1f} MB): {fitted.steps} steps, "
        f"{fitted.held_out_psnr:.1f} dB on pairs it never saw",
        soft_wrap=True,
    )


@app.command()
def drift(
    precision: Annotated[str, typer.Option(help="A precision that computes low, or a plan's .toml file.")] = "fp16",
    frames: Annotated[int, typer.Option(help="Frames of the driving sequence.")] = 16,
    worst: Annotated[int, typer.Option(min=1, help="How many of them, the worst, every part is measured on.")] = 4,
    device: Device = "auto",
    size: Size = 256,
    weights: WeightsChoice = "auto",
    checkpoint: Checkpoint = None,
    results: Annotated[Path, typer.Option(help="Folder for results.")] = Path("results"),
    cache: Cache = None,
) -> None:
    """Find where a precision loses the picture: which stage, block and nodes, and whose numbers do not fit."""
    from dataclasses import replace

    from sadtrt_core.localise.display import shown_progress
    from sadtrt_core.localise.run import localise_suite, write_report
    from sadtrt_core.localise.table import renderables
    from sadtrt_core.plan import precision_named
    from sadtrt_core.suite import Suite

    with one_sentence():
        options = make_suite(size, weights, checkpoint, device, "auto", cache).options
        suite = Suite(replace(options, frames=frames, results=results), say=errors.print)
        with shown_progress(errors) as tell:
            found = localise_suite(
                suite, precision_named(precision), worst, lambda now: tell(now.doing, now.done, now.total)
            )
        folder = write_report(found, results)
    for shown in renderables(found):
        console.print(shown)
    console.print(f"results: {folder}", soft_wrap=True)
    raise typer.Exit(0 if found.complete else 130)


@app.command()
def search(
    precision: Annotated[str, typer.Option(help="The base: fp16 or bf16.")] = "fp16",
    min_psnr: Annotated[float, typer.Option(help="What every frame has to hold, in dB.")] = 60.0,
    max_lsb: Annotated[int | None, typer.Option(help="The largest difference of a pixel, of 255.")] = None,
    frames: Annotated[int, typer.Option(help="Frames of the driving sequence.")] = 16,
    worst: Annotated[int, typer.Option(min=1, help="How many of them, the worst, are tried first.")] = 4,
    out: Annotated[Path | None, typer.Option(help="The plan to write (default: plans/<base>-<dB>db.toml).")] = None,
    device: Device = "auto",
    size: Size = 256,
    weights: WeightsChoice = "auto",
    checkpoint: Checkpoint = None,
    cache: Cache = None,
) -> None:
    """Find what has to stay fp32 for an accuracy budget, and write it as a plan. Run again, it goes on."""
    from sadtrt_core.search.command import search_command

    with one_sentence():
        suite = make_suite(size, weights, checkpoint, device, "auto", cache)
        try:
            found = search_command(suite, precision, min_psnr, max_lsb, frames, worst, out, console, errors)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
    raise typer.Exit(0 if found else 1)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run's folder or records.json.")] = Path("results/latest"),
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Markdown for a pull request instead of tables.")
    ] = False,
) -> None:
    """Show a run again."""
    from sadtrt_core.records.report import markdown_summary, print_tables
    from sadtrt_core.records.store import read_run

    with one_sentence():
        recorded = read_run(run)
    if markdown:
        typer.echo(markdown_summary(recorded))
    else:
        print_tables(recorded, console)


@app.command()
def gate(
    run: Annotated[Path, typer.Argument(help="The run to judge: its folder or records.json.")] = Path("results/latest"),
    baseline: Annotated[str, typer.Option(help="What to judge by: a name in results/baselines, or a path.")] = ...,  # type: ignore[assignment]
    thresholds: Annotated[
        Path | None, typer.Option(help="TOML with [gate], or a pyproject.toml (default: the one here, if any).")
    ] = None,
    update: Annotated[bool, typer.Option("--update", help="Write the run as the new baseline; judge nothing.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the verdicts as JSON.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write the verdicts as JUnit XML.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write a summary for a pull request.")] = None,
) -> None:
    """Judge a run by a baseline: exit 0 pass, 1 regression, 2 not comparable, 3 rows missing."""
    from sadtrt_core.records.baselines import baseline_path, write_baseline
    from sadtrt_core.records.files import write_atomically
    from sadtrt_core.records.gate import gate_named
    from sadtrt_core.records.gate_output import gate_json, gate_junit, gate_markdown, print_gate
    from sadtrt_core.records.store import read_run
    from sadtrt_core.records.thresholds import Thresholds

    results = Path("results")
    with one_sentence():
        if update:
            written = baseline_path(results, baseline)
            write_baseline(read_run(run), written)
            console.print(f"wrote {written}", soft_wrap=True)
            return
        here = Path("pyproject.toml")
        file = thresholds or (here if here.exists() else None)
        result = gate_named(run, results, baseline, Thresholds.read(file) if file else Thresholds())
        print_gate(result, console)
        for path, render in ((json_file, gate_json), (junit, gate_junit), (markdown, gate_markdown)):
            if path is not None:
                write_atomically(path, render(result))
    raise typer.Exit(int(result.exit_code))


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="runner[:precision[:grid_sample]], such as pytorch:fp32.")],
    b: Annotated[str, typer.Argument(help="The other, such as onnxruntime:fp16-mixed:native.")],
    checkout: Annotated[Path | None, typer.Option(help="Run B in this other checkout of the project.")] = None,
    stage: Annotated[list[str], typer.Option(help=f"Repeatable: {', '.join(STAGES)}.")] = ["generator"],  # noqa: B006
    batch: Annotated[int, typer.Option(help="Batch size.")] = 1,
    seconds: Annotated[float, typer.Option(help="How long to measure a stage, both sides together.")] = 10.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the outcomes as JSON.")] = None,
    size: Size = 256,
    weights: WeightsChoice = "auto",
    checkpoint: Checkpoint = None,
    device: Device = "auto",
    optimization_level: Annotated[int, typer.Option(help="The builder's level, 0 (quick) to 5 (thorough).")] = 3,
    cache: Cache = None,
) -> None:
    """Time two runners, precisions or checkouts in turn, A B B A, and give the ratio with its interval."""
    import dataclasses
    import json

    from sadtrt_core.compare import Conditions, Side, compare_sides
    from sadtrt_core.records.files import write_atomically
    from sadtrt_core.suite import default_cache

    outcomes = []
    with one_sentence():
        sides = Side.parse(a), Side.parse(b)
        names = sides[0].label(), sides[1].label() if checkout is None else f"{sides[1].label()} in {checkout}"
        table = Table(title=f"A: {escape(names[0])}, B: {escape(names[1])}", title_justify="left")
        for heading in ("stage", "clock", "A ms", "B ms", "B / A", "95% interval", "samples"):
            table.add_column(heading, justify="left" if heading in ("stage", "clock") else "right")
        sentences = []
        for name in stage:
            # The worker of a checkout runs in that folder, so paths must not depend on this one.
            conditions = Conditions(
                stage=name,
                batch=batch,
                size=size,
                weights=weights,
                checkpoint=str(checkpoint.resolve()) if checkpoint else None,
                device=device,
                cache=str((cache or default_cache()).resolve()),
                optimization_level=optimization_level,
            )
            outcome = compare_sides(*sides, conditions, checkout, seconds, errors.print)
            low, high = outcome.interval.low, outcome.interval.high
            figures = (f"{outcome.a_ms:.4g}", f"{outcome.b_ms:.4g}", f"{outcome.ratio:.4f}", f"{low:.4f} to {high:.4f}")
            table.add_row(name, outcome.clock, *figures, str(outcome.samples))
            sentences.append(f"{name}: {outcome.sentence(*names)}")
            outcomes.append({"stage": name, "a": names[0], "b": names[1], **dataclasses.asdict(outcome)})
        console.print(table)
        for sentence in sentences:
            console.print(escape(sentence), highlight=False, soft_wrap=True)
        if json_file is not None:
            write_atomically(json_file, json.dumps(outcomes, indent=1) + "\n")


if __name__ == "__main__":
    app()
