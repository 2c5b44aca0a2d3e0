"""Commands over results: report, gate, compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from sadtrt_core.commands.options import Cache, Checkpoint, Device, Size, WeightsChoice, console, errors, one_sentence
from sadtrt_core.config import default_cache
from sadtrt_core.files import write_file
from sadtrt_core.renderer.stages import STAGES


def report(
    run: Annotated[Path, typer.Argument(help="A run's folder or records.json.")] = Path("results/latest"),
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Markdown for a pull request instead of tables.")
    ] = False,
) -> None:
    """Show a run again."""
    from sadtrt_core.records.store import read_run
    from sadtrt_core.report.html import markdown_summary, print_tables

    with one_sentence():
        recorded = read_run(run)
    if markdown:
        typer.echo(markdown_summary(recorded))
    else:
        print_tables(recorded, console)


def gate(
    run: Annotated[Path, typer.Argument(help="The run to judge: its folder or records.json.")] = Path("results/latest"),
    baseline: Annotated[str, typer.Option(help="What to judge by: a name in results/baselines, or a path.")] = ...,  # type: ignore[assignment]
    thresholds: Annotated[
        Path | None, typer.Option(help=r"TOML with \[gate], or a pyproject.toml (default: the one here, if any).")
    ] = None,
    update: Annotated[bool, typer.Option("--update", help="Write the run as the new baseline; judge nothing.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the verdicts as JSON.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write the verdicts as JUnit XML.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write a summary for a pull request.")] = None,
) -> None:
    """Judge a run by a baseline: exit 0 pass, 1 regression, 2 not comparable, 3 rows missing."""
    from sadtrt_core.gate.baselines import baseline_path, write_baseline
    from sadtrt_core.gate.judge import gate_named
    from sadtrt_core.gate.limits import Thresholds
    from sadtrt_core.gate.output import gate_json, gate_junit, gate_markdown, print_gate
    from sadtrt_core.records.store import read_run

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
                write_file(path, render(result))
    raise typer.Exit(int(result.exit_code))


def compare(
    a: Annotated[
        str, typer.Argument(help="runner[:precision[:grid_sample]], such as pytorch:fp32, or a cached .engine file.")
    ],
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
    """Time two runners, precisions, engine files or checkouts in turn, A B B A, and give the ratio with its interval.

    Of the generator, how far the two sides' pictures are apart as well. An engine file is one that `sadtrt build` or
    the suite wrote into the cache, with its .json beside it.
    """
    import dataclasses
    import json

    from sadtrt_core.compare.compare import compare_sides
    from sadtrt_core.compare.side import Conditions, Side
    from sadtrt_core.progress import ConsoleReporter

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
                weights=str(Path(weights).resolve()) if weights.endswith(".safetensors") else weights,
                checkpoint=str(checkpoint.resolve()) if checkpoint else None,
                device=device,
                cache=str((cache or default_cache()).resolve()),
                optimization_level=optimization_level,
            )
            found = compare_sides(*sides, conditions, checkout, seconds, ConsoleReporter(errors))
            outcome = found.latency
            low, high = outcome.interval.low, outcome.interval.high
            figures = (f"{outcome.a_ms:.4g}", f"{outcome.b_ms:.4g}", f"{outcome.ratio:.4f}", f"{low:.4f} to {high:.4f}")
            table.add_row(name, outcome.clock, *figures, str(outcome.samples))
            sentences += [f"{name}: {sentence}" for sentence in found.sentences(*names)]
            pictures = found.pictures.to_json() if found.pictures else None
            figures_of_it = {**dataclasses.asdict(outcome), "pictures": pictures}
            outcomes.append({"stage": name, "a": names[0], "b": names[1], **figures_of_it})
        console.print(table)
        for sentence in sentences:
            console.print(escape(sentence), highlight=False, soft_wrap=True)
        if json_file is not None:
            write_file(json_file, json.dumps(outcomes, indent=1) + "\n")
