"""Commands over results: report, history, gate, compare, fleet, docs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sadtrt_core.commands.options import console, errors, make_session, takes
from sadtrt_core.config import RunConfig
from sadtrt_core.errors import UserError
from sadtrt_core.files import require_writable, write_file

if TYPE_CHECKING:
    from sadtrt_core.records.schema import Run


Prices = Annotated[
    list[str] | None,
    typer.Option(
        "--price", help='Repeatable. What a GPU costs an hour, such as "L4=0.70"; what 1,000 frames cost follows.'
    ),
]
MinPsnr = Annotated[float, typer.Option(help="Of several GPUs, name the cheapest row that holds this PSNR, in dB.")]


def report(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            help="A run's folder or records.json (default: results/latest); or two, A and B; or those of several GPUs."
        ),
    ] = None,
    price: Prices = None,
    min_psnr: MinPsnr = 60.0,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Markdown for a pull request instead of tables.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option(help="Write an HTML page here: one file, with its chart and clips.")
    ] = None,
) -> None:
    """Show a run; or two, B judged by A as the gate would; or runs of several GPUs in one table with what they cost."""
    from sadtrt_core.gate.limits import Thresholds
    from sadtrt_core.gate.named import gate_files
    from sadtrt_core.gate.output import comparison_table, gate_markdown, print_gate
    from sadtrt_core.records.store import read_run, records_file
    from sadtrt_core.report.fleet import gpu_name
    from sadtrt_core.report.html import html_page, markdown_summary, print_tables

    paths = runs or [Path("results/latest")]
    recorded = [read_run(path) for path in paths]
    if html is not None and html.resolve() in {records_file(path).resolve() for path in paths}:
        raise UserError(f"--html {html} is what the report reads: choose another file")
    if len({gpu_name(run) for run in recorded}) > 1:
        _show_fleet(recorded, price or [], min_psnr, html)
        return
    if price:
        raise UserError("--price is for runs of different GPUs: give at least two")
    if len(paths) > 2:
        raise UserError(f"a report is of one run, of two, or of several GPUs, but {len(paths)} of one GPU were given")
    result = None
    if len(paths) == 2:
        here = Path("pyproject.toml")
        result = gate_files(paths[1], paths[0], Thresholds.read(here) if here.exists() else Thresholds())
    if html is not None:
        names = ("A", "B") if result else ("",)
        views = list(zip(names, recorded, [records_file(path).parent for path in paths], strict=True))
        write_file(html, html_page(views, comparison_table(result, *recorded) if result else None))
    if markdown:
        typer.echo(gate_markdown(result) if result else markdown_summary(recorded[0]))
    elif result:
        print_gate(result, console)
    else:
        print_tables(recorded[0], console)


def history(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="DIR...", help="Runs: their folders or records.json, or folders of them, however deep."),
    ],
) -> None:
    """Show how each row's time and PSNR went over runs, oldest first, and where they changed."""
    from sadtrt_core.records.store import read_runs
    from sadtrt_core.report.history import history_tables
    from sadtrt_core.report.html import print_table

    for table in history_tables(read_runs(folders)):
        print_table(table, console)


def _show_fleet(runs: list[Run], price: list[str], min_psnr: float, html: Path | None) -> None:
    """Print the runs of several GPUs in one table, and write the page where one is asked for."""
    from sadtrt_core.report.fleet import fleet_offers, fleet_page, fleet_sentences, fleet_table, parse_prices
    from sadtrt_core.report.html import print_table

    offers = fleet_offers(runs, parse_prices(price))
    sentences = fleet_sentences(runs, offers, min_psnr)
    if offers:
        print_table(fleet_table(offers), console)
    for sentence in sentences:
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    if html is not None:
        write_file(html, fleet_page(offers, sentences))
        console.print(f"wrote {html}", markup=False, soft_wrap=True)


@takes("results")
def fleet(
    config: RunConfig,
    suite: Annotated[list[str] | None, typer.Argument(help="Options of the suite, after --.")] = None,
    address: Annotated[
        str | None, typer.Option(help="Address of the Ray cluster (default: a Ray of this machine).")
    ] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="Repeatable. Only this kind of GPU, as Ray calls it, such as H100.")
    ] = None,
    price: Prices = None,
    min_psnr: MinPsnr = 60.0,
) -> None:
    """Run the suite on every kind of GPU of a Ray cluster, and show all runs in one table: exit 1 where one is missing.

    Every machine has this project installed, at the same commit, and weights of its own unless --checkpoint names some.
    """
    from sadtrt_core.fleet import run_fleet
    from sadtrt_core.progress import ConsoleReporter
    from sadtrt_core.records.store import read_run, utc_now
    from sadtrt_core.report.fleet import parse_prices

    parse_prices(price or [])  # Before hours of measuring.
    folder = config.results / f"{utc_now():%Y%m%dT%H%M%SZ}-fleet"
    with ConsoleReporter(errors) as reporter:
        outcomes = run_fleet(address, kind or [], suite or [], folder, reporter)
    runs = [read_run(outcome.folder) for outcome in outcomes if outcome.folder is not None]
    if runs:
        _show_fleet(runs, price or [], min_psnr, folder / "report.html")
    for outcome in outcomes:
        if outcome.problem is not None:
            console.print(f"{outcome.kind}: {outcome.problem}", style="red", markup=False, soft_wrap=True)
    raise typer.Exit(1 if any(outcome.problem for outcome in outcomes) else 0)


def gate(
    run: Annotated[Path, typer.Argument(help="The run to judge: its folder or records.json.")] = Path("results/latest"),
    baseline: Annotated[str, typer.Option(help="What to judge by: a name in results/baselines, or a path.")] = ...,  # type: ignore[assignment]
    anchor: Annotated[
        str | None, typer.Option(help="A pinned run to judge by as well, which catches the sum of small steps.")
    ] = None,
    thresholds: Annotated[
        Path | None,
        typer.Option(help=r"TOML file with a table \[gate], or a pyproject.toml (default: the one here, if any)."),
    ] = None,
    update: Annotated[bool, typer.Option("--update", help="Write the run as the new baseline; judge nothing.")] = False,
    add: Annotated[
        bool, typer.Option("--add", help="Add the run to the baseline's, which tell how much runs vary; judge nothing.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the verdicts as JSON.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write the verdicts as JUnit XML.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write a summary for a pull request.")] = None,
) -> None:
    """Judge a run by a baseline: exit 0 pass, 1 regression, 2 not comparable, 3 rows missing."""
    from sadtrt_core.gate.baselines import add_run, baseline_path, write_baseline
    from sadtrt_core.gate.limits import Thresholds
    from sadtrt_core.gate.named import gate_inputs, gate_named
    from sadtrt_core.gate.output import gate_json, gate_junit, gate_markdown, print_gate
    from sadtrt_core.records.store import read_run, records_file

    results = Path("results")
    outputs = {"--json": json_file, "--junit": junit, "--markdown": markdown}
    given = {flag: path for flag, path in outputs.items() if path is not None}
    if update or add:
        flag = "--add" if add else "--update"
        if given or anchor is not None or (update and add):
            extra = ", ".join([*given, *(["--anchor"] if anchor else []), *(["--update"] if update and add else [])])
            raise UserError(f"{flag} judges nothing, so there is nothing for {extra}: leave it out")
        written, recorded = baseline_path(results, baseline), read_run(run)
        if add:
            written = add_run(recorded, written)
        elif records_file(written).resolve() == records_file(run).resolve():
            raise UserError(f"{run} is the baseline {written} itself: there is nothing to write")
        else:
            write_baseline(recorded, written)
        failed = sum(record.status == "failed" for record in recorded.records)
        words = f"; {failed} of its {len(recorded.records)} rows failed and will not be judged" if failed else ""
        console.print(f"wrote {written}{words}", markup=False, soft_wrap=True)
        return
    here = Path("pyproject.toml")
    file = thresholds or (here if here.exists() else None)
    taken = gate_inputs(run, results, [baseline, *filter(None, [anchor])]) | ({file.resolve()} if file else set())
    for flag, path in given.items():
        if path.resolve() in taken:
            raise UserError(f"{flag} {path} is what the gate reads, or writes already: choose another file")
        taken.add(path.resolve())
    result = gate_named(run, results, baseline, Thresholds.read(file) if file else Thresholds(), anchor)
    print_gate(result, console)
    renderers = {"--json": gate_json, "--junit": gate_junit, "--markdown": gate_markdown}
    for flag, path in given.items():
        write_file(path, renderers[flag](result))
    raise typer.Exit(int(result.exit_code))


@takes(
    *("size", "weights", "checkpoint", "device", "optimization_level", "cache"),
    stages=("generator",),
    batches=1,
)
def compare(
    config: RunConfig,
    a: Annotated[
        str, typer.Argument(help="runner[:precision[:grid_sample]], such as pytorch:fp32, or a cached .engine file.")
    ],
    b: Annotated[str, typer.Argument(help="The other, such as onnxruntime:fp16-mixed:native.")],
    checkout: Annotated[Path | None, typer.Option(help="Run B in this other checkout of the project.")] = None,
    seconds: Annotated[float, typer.Option(help="How long to measure a stage, both sides together.")] = 10.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the outcomes as JSON.")] = None,
) -> None:
    """Time two runners, precisions, engine files or checkouts in turn, A B B A, and give the ratio with its interval.

    Of the generator and, within one checkout, of the frame, how far the two sides' pictures are apart too. An engine
    file is one that `sadtrt build` or the suite wrote into the cache, with its .json beside it.
    """
    import dataclasses
    import json

    from sadtrt_core.compare.compare import compare_sides
    from sadtrt_core.compare.sides import parse_side, picture_frames
    from sadtrt_core.report.html import print_table
    from sadtrt_core.report.tables import TextTable

    (batch,) = config.batches
    if json_file is not None:
        require_writable(json_file, file=True)
    session = make_session(dataclasses.replace(config, frames=picture_frames(batch)), config.cache)
    found = {}
    for stage in config.stages:
        sides = parse_side(a, stage, batch), parse_side(b, stage, batch)
        found[stage] = compare_sides(*sides, session, checkout, seconds)
    names = sides[0].label, sides[1].label if checkout is None else f"{sides[1].label} in {checkout}"
    rows = []
    for stage, one in found.items():
        interval = f"{one.interval.low:.4f} to {one.interval.high:.4f} ({one.interval.units})"
        figures = (f"{one.a_ms:.4g}", f"{one.b_ms:.4g}", f"{one.ratio:.4f}", interval, str(one.samples))
        rows.append((stage, one.clock, *figures))
    headings = ("stage", "clock", "A ms", "B ms", "B / A", "95% interval (n)", "samples")
    print_table(TextTable(f"A: {names[0]}, B: {names[1]}", headings, tuple(rows), 2), console)
    for stage, comparison in found.items():
        for sentence in comparison.sentences(*names):
            console.print(f"{stage}: {sentence}", markup=False, highlight=False, soft_wrap=True)
    if json_file is not None:
        about = {"a": names[0], "b": names[1]}
        outcomes = [{"stage": stage, **about, **comparison.to_json()} for stage, comparison in found.items()]
        json_file.parent.mkdir(parents=True, exist_ok=True)
        write_file(json_file, json.dumps(outcomes, indent=1) + "\n")


#: What `sadtrt docs` takes where it is given no files.
DOCUMENTS = ("README.md", "results/README.md", "results/baselines/README.md", "plugin/README.md", "plugin/*/README.md")


def docs(
    files: Annotated[list[Path] | None, typer.Argument(help="Documents (default: those of this checkout).")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing: exit 1 where a figure does not follow.")
    ] = False,
) -> None:
    """Write every figure of the documents anew from the committed files that they name, or check that all follow."""
    from sadtrt_core.files import read_file
    from sadtrt_core.report.documents import follow

    root, wrong = Path.cwd(), 0
    documents = files or sorted(path for pattern in DOCUMENTS for path in root.glob(pattern))
    if not documents:
        raise UserError(f"no document in {root}: expected {DOCUMENTS[0]} there, run this in a checkout or name files")
    for file in documents:
        name = file.relative_to(root) if file.is_relative_to(root) else file
        try:
            text = read_file(file, 1024 * 1024).decode("utf-8", "surrogateescape")
            new, differences = follow(text, root)
        except UserError as error:
            raise UserError(f"{name}, {error}") from error
        for one in differences:
            words = "" if check else "written anew: "
            typer.echo(f"{name}, line {one.line}: {words}{one.written or 'nothing'} is written, {one.follows} follows")
        wrong += len(differences)
        if differences and not check:
            write_file(file, new.encode("utf-8", "surrogateescape"))
    raise typer.Exit(1 if check and wrong else 0)
