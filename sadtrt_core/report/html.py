"""Shows a run to people: tables in the terminal, one self-contained HTML file, a Markdown summary."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sadtrt_core.files import write_file
from sadtrt_core.measure.seen import FRAME_RATE
from sadtrt_core.records.schema import Run
from sadtrt_core.report.answer import SHIPPED_DB, answers, headline, unshipped
from sadtrt_core.report.chart import TEMPLATES, draw_pareto
from sadtrt_core.report.clip import FAINTEST, STRONGEST, clips_of, error_colours, frames_of
from sadtrt_core.report.ratios import is_reference
from sadtrt_core.report.tables import (
    WHOLE,
    TextTable,
    absent_table,
    drift_table,
    in_order,
    latency_table,
    parts_table,
    report_tables,
)
from sadtrt_core.report.text import markdown_cell

REPORT_FILE = "report.html"
#: What a reader must know of weights that are no trained checkpoint's.
_WEIGHTS = {
    "seeded": "seeded weights are noise: drift under them says nothing about a trained renderer",
    "demo": "the demo is a small renderer of its own: neither its times nor its drift are SadTalker's",
    "fitted": "the weights are stand-ins fitted on a few pictures: a trained checkpoint drifts otherwise",
}
PARETO_FILE = "pareto.svg"
#: What a page shows: a name, a run, and its folder.
View = tuple[str, Run, Path]


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


def _content(name: str, run: Run, folder: Path) -> dict[str, Any]:
    """What the page's template reads of one run."""
    clips, left_out = clips_of(run, folder)
    # Neither what moves nor the reference beside itself is a still picture's business.
    seen = {clip.record.key.slug for clip in clips}
    seen |= {key.slug for key in (one.key for one in run.records) if is_reference(key)}
    return {
        "name": name,
        "title": f"{run.environment.gpu or run.environment.cpu}, {run.workload.size} px",
        "headline": headline(run),
        "answers": answers(run),
        "unshipped": unshipped(run),
        "warnings": warnings(run),
        "facts": conditions(run),
        "chart": draw_pareto(run),
        "clips": clips,
        "left_out": left_out,
        "frames": [(stem, uri) for stem, uri in frames_of(folder) if stem not in seen],
        "tables": [table.shown() for table in report_tables(run)],
        "notes": [(record.key.label(), record.notes) for record in in_order(run.records) if record.notes],
        "options": sorted(run.options.items()),
    }


def write_html(run: Run, folder: Path) -> Path:
    """Write report.html, one file that needs no other, and pareto.svg into a run's folder; the report's path.

    Takes in the clips and pictures of frames/. Raises UserError if the folder cannot be written.
    """
    if (chart := draw_pareto(run)) is not None:
        write_file(folder / PARETO_FILE, chart)
    write_file(folder / REPORT_FILE, html_page([("", run, folder)]))
    return folder / REPORT_FILE


def html_page(views: Sequence[View], comparison: TextTable | None = None) -> str:
    """The page of one run, or of several beside each other with a table that compares them."""
    loader = TEMPLATES.loader
    assert loader is not None
    script, style = (loader.get_source(TEMPLATES, name)[0] for name in ("report.js", "report.css"))
    shown = [_content(*view) for view in views]
    cases = [record.key for record in in_order([record for _, run, _ in views for record in run.records])]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return TEMPLATES.get_template("report.html.jinja").render(
        title=" and ".join(dict.fromkeys(view["title"] for view in shown)),
        views=shown,
        comparison=comparison,
        filters={name: list(dict.fromkeys(getattr(case, name) for case in cases)) for name in ("stage", "runner")},
        frames_a_second=FRAME_RATE,
        error_levels=f"1/{1 / FAINTEST:g} to {STRONGEST:g}",
        error_colours=["#" + bytes(colour).hex() for colour in error_colours()[::51]],
        least_db=f"{SHIPPED_DB:g}",
        style=Markup(style),
        script=Markup(script),
        script_digest=digest,
    )


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
    """What a reader must know before believing a figure, one line each: `conditions` and `warnings`."""
    return (*conditions(run), *warnings(run))


def conditions(run: Run) -> tuple[str, ...]:
    """Machine, software, weights, workload, one line each."""
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
    if run.order_seed is not None:
        lines.append(f"rows of a stage in the order of seed {run.order_seed}")
    return tuple(lines)


def warnings(run: Run) -> tuple[str, ...]:
    """What forbids believing some figures, one line each."""
    lines = []
    if run.weights.kind in _WEIGHTS:
        lines.append(_WEIGHTS[run.weights.kind])
    if not run.complete:
        lines.append("this run was interrupted: what follows is what had been measured until then")
    return tuple(lines)


def _markdown_lines(table: TextTable, rows: Sequence[tuple[str, ...]]) -> list[str]:
    heads = " | ".join(markdown_cell(heading) or " " for heading in table.headings)
    rule = "|".join("---" if index < table.words else "---:" for index in range(len(table.headings)))
    return [f"| {heads} |", f"|{rule}|", *("| " + " | ".join(map(markdown_cell, row)) + " |" for row in rows)]
