"""The gate's answer for people (table, Markdown) and for machines (JSON, JUnit XML)."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sadtrt_core import stats
from sadtrt_core.gate.verdicts import REGRESSIONS, ExitCode, GateResult, GateRow, Verdict
from sadtrt_core.records.schema import Run
from sadtrt_core.report.tables import CASE_HEADINGS, TextTable
from sadtrt_core.report.text import decibels, markdown_cell, milliseconds, xml_text

MARKDOWN_LIMIT = 60_000
"""Characters; a comment on GitHub takes 65536."""
COLOURS: dict[Verdict, str] = {
    "worse picture": "bold red",
    "slower": "bold red",
    "heavier": "bold red",
    "not comparable": "yellow",
    "missing": "yellow",
    "new": "cyan",
    "faster": "green",
    "same": "dim",
}


def print_gate(result: GateResult, console: Console) -> None:
    """A table with a line for every row, or what forbids the whole comparison; then remarks and the headline."""
    if not result.problems:
        console.print(_row_table(result))
    for problem in result.problems:
        console.print(f"[yellow]cannot compare:[/] {escape(problem)}")
    for remark in result.remarks:
        console.print(f"[dim]{escape(remark)}[/]")
    colour = "green" if result.exit_code == ExitCode.PASS else "bold red"
    console.print(f"[{colour}]{escape(result.headline())}[/]")


def _row_table(result: GateResult) -> Table:
    table = Table(title="Gate", title_justify="left")
    for heading in ("stage", "runner", "precision", "grid", "batch"):
        table.add_column(heading, overflow="fold")
    table.add_column("time", justify="right")
    table.add_column("worst PSNR", justify="right")
    table.add_column("verdict")
    table.add_column("why", overflow="fold")
    for row in result.rows:
        key = row.key
        table.add_row(
            *(escape(str(cell)) for cell in (key.stage, key.runner, key.precision, key.grid_sample, key.batch)),
            _time_change(row),
            _psnr_change(row),
            f"[{COLOURS[row.verdict]}]{row.verdict}[/]",
            escape(row.detail),
        )
    return table


def comparison_table(result: GateResult, a: Run, b: Run) -> TextTable:
    """Run A, the baseline, beside run B, which is judged by it: a row a case, for a page of both.

    Figures are the runs' own, so they stand there where the runs do not compare.
    """
    figures = ("A ms", "B ms", "time", "A PSNR min", "B PSNR min")
    old, new = ({record.key: record for record in run.records} for run in (a, b))
    rows = []
    for row in result.rows:
        pair = old.get(row.key), new.get(row.key)
        times = [None if one is None or one.latency is None else stats.median(one.latency.judged_ms) for one in pair]
        worst = [None if one is None or one.drift is None else one.drift.psnr_min for one in pair]
        if not any(value is not None for value in (*times, *worst)):
            continue
        cells = (*map(milliseconds, times), _time_change(row), *map(decibels, worst))
        # What forbids the whole comparison is told once, below.
        rows.append((*row.key.cells, row.verdict, *cells, "" if result.problems else row.detail))
    absent = len(result.rows) - len(rows)
    remarks = (*result.remarks, f"{absent} rows that neither run measured are left out") if absent else result.remarks
    note = "; ".join((*result.problems, *remarks))
    headings = (*CASE_HEADINGS, "verdict", *figures, "why")
    return TextTable(f"B against A: {result.headline()}", headings, tuple(rows), 6, note=note)


def gate_json(result: GateResult) -> str:
    """JSON text: exit_code, headline, counts, problems, remarks, and rows with verdict, reason, detail and findings."""
    body = result.to_json()
    for row, plain in zip(result.rows, body["rows"], strict=True):
        plain.update(label=row.key.label(), verdict=row.verdict, reason=row.reason, detail=row.detail)
    body.update(headline=result.headline(), counts=result.count(), exit_name=result.exit_code.name.lower())
    return json.dumps(body, indent=1, sort_keys=True, allow_nan=False) + "\n"


def gate_junit(result: GateResult) -> str:
    """JUnit XML: a test case a row, failed for a regression, an error where it could not be judged.

    What forbids the whole comparison is a test case of its own, so that an empty answer is never all green.
    """
    suite = ElementTree.Element("testsuite", name="sadtrt gate")
    failures = errors = 0
    for problem in result.problems:
        case = ElementTree.SubElement(suite, "testcase", classname="gate", name="runs can be compared")
        ElementTree.SubElement(case, "error", message=xml_text(problem), type="not comparable")
        errors += 1
    for row in result.rows:
        case = ElementTree.SubElement(
            suite, "testcase", classname=xml_text(f"gate.{row.key.stage}"), name=xml_text(row.key.label())
        )
        message = {"message": xml_text(row.detail), "type": row.reason}
        if row.verdict in REGRESSIONS:
            told = ElementTree.SubElement(case, "failure", message)
            failures += 1
        elif row.verdict in ("not comparable", "missing"):
            told = ElementTree.SubElement(case, "error", message)
            errors += 1
        else:
            told = ElementTree.SubElement(case, "system-out")
        lines = (f"{finding.verdict} [{finding.reason}] {finding.sentence}" for finding in row.findings)
        told.text = xml_text("\n".join(lines))
    if not failures and not errors and result.exit_code != ExitCode.PASS:
        case = ElementTree.SubElement(suite, "testcase", classname="gate", name="the gate passes")
        ElementTree.SubElement(case, "error", message=xml_text(result.headline()), type="gate")
        errors += 1
    suite.set("tests", str(len(suite)))
    suite.set("failures", str(failures))
    suite.set("errors", str(errors))
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def gate_markdown(result: GateResult) -> str:
    """Markdown for a pull-request comment: headline, rows that changed, and the others folded away; at most 60 kB."""
    mark = "✅" if result.exit_code == ExitCode.PASS else "❌"
    lines = [f"### {mark} {markdown_cell(result.headline())}", ""]
    lines += [f"- **cannot compare:** {markdown_cell(problem)}" for problem in result.problems]
    lines += [f"- {markdown_cell(remark)}" for remark in result.remarks]
    changed = [row for row in result.rows if row.verdict != "same"]
    if changed and not result.problems:
        lines += ["", *_markdown_table(changed)]
    same = [row for row in result.rows if row.verdict == "same"]
    if same:
        lines += ["", f"<details><summary>{len(same)} rows the same</summary>", "", *_markdown_table(same)]
        lines += ["", "</details>"]
    text = "\n".join(lines) + "\n"
    if len(text) <= MARKDOWN_LIMIT:
        return text
    head: list[str] = []
    length = 0
    for line in lines[: len(lines) - (len(same) + 6 if same else 0)]:
        length += len(line) + 1
        if length > MARKDOWN_LIMIT - 200:
            break
        head.append(line)
    return "\n".join(head) + "\n\n*Shortened: the JSON and JUnit files hold every row.*\n"


def _markdown_table(rows: list[GateRow]) -> list[str]:
    lines = ["| row | time | worst PSNR | verdict | why |", "|---|---:|---:|---|---|"]
    for row in rows:
        cells = (row.key.label(), _time_change(row), _psnr_change(row), row.verdict, row.detail)
        lines.append("| " + " | ".join(markdown_cell(cell) for cell in cells) + " |")
    return lines


def _time_change(row: GateRow) -> str:
    """The change of the device time, else of the host time, with its interval and the limit it was judged by:
    "+5.1% (+4.8 to +5.4), limit 3%". That is the row's smallest effect of interest, or its noise where that is more.
    """
    found = row.finding("device_ms") or row.finding("host_ms")
    if found is None or found.change is None:
        return "-"
    limit = "" if found.limit is None else f", limit {found.limit:.3g}%"
    if found.low is None or found.high is None:
        return f"{found.change:+.1f}%{limit}"
    return f"{found.change:+.1f}% ({found.low:+.1f} to {found.high:+.1f}){limit}"


def _psnr_change(row: GateRow) -> str:
    found = row.finding("psnr_min")
    if found is None or found.baseline is None or found.candidate is None:
        return "NaN" if row.finding("non_finite") else "-"
    return f"{found.baseline:.1f} to {found.candidate:.1f} dB"
