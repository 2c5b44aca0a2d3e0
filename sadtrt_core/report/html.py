"""Shows a run to people: tables in the terminal, one self-contained HTML file, a Markdown summary."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment as Templates
from jinja2 import PackageLoader, StrictUndefined
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sadtrt_core.files import write_file
from sadtrt_core.records.schema import Run
from sadtrt_core.report.pictures import draw_pareto, frames_of
from sadtrt_core.report.tables import (
    WHOLE,
    TextTable,
    absent_table,
    drift_table,
    latency_table,
    parts_table,
    report_tables,
)
from sadtrt_core.report.text import markdown_cell

REPORT_FILE = "report.html"
PARETO_FILE = "pareto.png"
TEMPLATE = "report.html.jinja"


def print_tables(run: Run, console: Console) -> None:
    """Everything that a report holds, to the terminal."""
    _print(run, report_tables(run), console)


def print_summary(run: Run | None, skipped: Mapping[str, int], console: Console) -> None:
    """What a run is for, to the terminal: latency, drift, sum of parts; what was not measured as one line a reason.

    `skipped` has the number of benchmarks that were skipped, by the reason, those that record nothing among them.
    """
    if run is not None:
        _print(
            run, [table for table in (latency_table(run), drift_table(run), parts_table(run)) if table.rows], console
        )
        for record in run.records:
            if record.status == "failed":
                console.print(f"failed: {record.key}: {record.reason}", style="red", markup=False, soft_wrap=True)
    for reason, count in sorted(skipped.items()):
        console.print(f"skipped {count}: {reason}", style="dim", markup=False, highlight=False, soft_wrap=True)


def _print(run: Run, tables: Sequence[TextTable], console: Console) -> None:
    for line in facts(run):
        console.print(escape(line), style="dim", highlight=False)
    for text in tables:
        print_table(text, console)
    if not run.records:
        console.print("[yellow]nothing was recorded[/]")


def print_table(text: TextTable, console: Console) -> None:
    """One table to the terminal."""
    table = Table(title=escape(text.title), title_justify="left", caption=escape(text.note), caption_justify="left")
    for index, heading in enumerate(text.headings):
        figures = index >= text.words
        table.add_column(escape(heading), justify="right" if figures else "left", overflow="fold")
    for index, row in enumerate(text.rows):
        if index in text.breaks:
            table.add_section()
        table.add_row(*map(escape, row))
    console.print(table)


def write_html(run: Run, folder: Path) -> Path:
    """Write report.html, one file that needs no other, and pareto.png into a run's folder; the report's path.

    Takes in the pictures of frames/. Raises UserError if the folder cannot be written.
    """
    folder = Path(folder)
    chart = draw_pareto(run)
    if chart is not None:
        write_file(folder / PARETO_FILE, chart)
    templates = Templates(
        loader=PackageLoader("sadtrt_core.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = templates.get_template(TEMPLATE).render(
        title=f"{run.environment.gpu or run.environment.cpu}, {run.workload.size} px",
        facts=facts(run),
        tables=report_tables(run),
        chart=None if chart is None else "data:image/png;base64," + base64.b64encode(chart).decode("ascii"),
        frames=frames_of(folder),
        notes=[(record.key.label(), record.notes) for record in run.records if record.notes],
        options=sorted(run.options.items()),
    )
    write_file(folder / REPORT_FILE, page)
    return folder / REPORT_FILE


def markdown_summary(run: Run) -> str:
    """Markdown for a pull request: what was measured where, the generator's latency and drift, and what was not run."""
    lines = [f"### sadtrt: {markdown_cell(run.environment.gpu or run.environment.cpu)}, {run.workload.size} px", ""]
    lines += [f"- {markdown_cell(line)}" for line in facts(run)]
    for table in (latency_table(run), drift_table(run)):
        whole = [row for row in table.rows if row[0] == WHOLE] or list(table.rows)
        if whole:
            lines += ["", f"**{table.title}**", "", *_markdown_lines(table, whole)]
            lines += ["", markdown_cell(table.note)] if table.note else []
    absent = absent_table(run)
    if absent.rows:
        lines += ["", "<details><summary>Not measured, and why</summary>", "", *_markdown_lines(absent, absent.rows)]
        lines += ["", "</details>"]
    return "\n".join(lines) + "\n"


def facts(run: Run) -> tuple[str, ...]:
    """What a reader must know before believing a figure, one line each: machine, software, weights, workload."""
    where, weights, work = run.environment, run.weights, run.workload
    versions = (
        ("TensorRT for RTX" if where.tensorrt_flavour == "tensorrt_rtx" else "TensorRT", where.tensorrt),
        ("torch", where.torch),
        ("ONNX Runtime", where.onnxruntime),
        ("CUDA", where.cuda),
        ("driver", where.driver),
        ("Python", where.python),
    )
    lines = [
        f"machine: {where.gpu or 'no GPU'}; {where.cpu}, {where.cpu_count} cores; {where.platform}",
        "versions: " + ", ".join(f"{name} {version}" for name, version in versions if version),
        f"weights: {weights.kind} ({weights.name}); workload: {work.name}, {work.frames} frames of {work.size} px",
        f"sadtrt {where.sadtrt_version}, commit {where.commit or 'unknown'}"
        f"{' with uncommitted changes' if where.dirty else ''}, started {run.started_utc}",
    ]
    if weights.kind == "seeded":
        lines.append("seeded weights are noise: drift under them says nothing about a trained renderer")
    if not run.complete:
        lines.append("this run was interrupted: what follows is what had been measured until then")
    return tuple(lines)


def _markdown_lines(table: TextTable, rows: list[tuple[str, ...]] | tuple[tuple[str, ...], ...]) -> list[str]:
    heads = " | ".join(markdown_cell(heading) or " " for heading in table.headings)
    rule = "|".join("---" if index < table.words else "---:" for index in range(len(table.headings)))
    return [f"| {heads} |", f"|{rule}|", *("| " + " | ".join(map(markdown_cell, row)) + " |" for row in rows)]
