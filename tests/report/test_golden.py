"""What committed baselines show and how they are judged, byte for byte as when they were committed."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from sadtrt_core.gate.judge import compare_runs
from sadtrt_core.gate.limits import Thresholds
from sadtrt_core.gate.output import gate_json, gate_junit, gate_markdown, print_gate
from sadtrt_core.records.store import read_run
from sadtrt_core.report.html import markdown_summary, print_tables, write_html
from sadtrt_core.report.summary import summary_csv

ROOT = Path(__file__).parents[2]
BASELINES = ROOT / "results" / "baselines"
NAMES = ("h200-trt8.6", "h200-trt8.6-second-weights", "h200-trt8.6-stages", "h200-trt8.6-version-2")
#: SHA-256 of every text, by what it is of; of one baseline the texts themselves are kept beside it, to look at.
DIGESTS: dict[str, str] = json.loads((ROOT / "tests" / "data" / "golden" / "digests.json").read_text())
TEXTS = ROOT / "tests" / "data" / "golden"


def printed(show: Callable[[Console], None]) -> str:
    text = io.StringIO()
    show(Console(file=text, width=200))
    return text.getvalue()


def check(what: str, text: str) -> None:
    kept = TEXTS / what.replace("/", "--")
    if kept.exists():
        assert text.splitlines() == kept.read_text().splitlines()
    assert hashlib.sha256(text.encode()).hexdigest() == DIGESTS[what], f"{what} is not what it was"


@pytest.mark.parametrize("name", NAMES)
def test_a_report_of_a_committed_run_is_what_it_was(name: str, tmp_path: Path) -> None:
    run = read_run(BASELINES / name)
    check(f"{name}/summary.csv", summary_csv(run))
    check(f"{name}/tables.txt", printed(lambda console: print_tables(run, console)))
    check(f"{name}/summary.md", markdown_summary(run))
    page = write_html(run, tmp_path).read_text()
    # The chart is drawn by matplotlib, whose versions differ by pixels.
    check(f"{name}/report.html", re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "PNG", page))


@pytest.mark.parametrize("baseline", NAMES)
@pytest.mark.parametrize("candidate", NAMES)
def test_the_gates_decisions_on_committed_runs_are_what_they_were(candidate: str, baseline: str) -> None:
    thresholds = Thresholds.read(ROOT / "pyproject.toml")
    result = compare_runs(read_run(BASELINES / candidate), read_run(BASELINES / baseline), thresholds)
    both = f"{candidate} against {baseline}"
    check(f"{both}/gate.txt", printed(lambda console: print_gate(result, console)))
    check(f"{both}/gate.json", gate_json(result))
    check(f"{both}/gate.md", gate_markdown(result))
    check(f"{both}/gate.xml", gate_junit(result))
