"""Whatever a readable run holds, every door that shows runs shows it: tables, page, Markdown, CSV, history, gate."""

from __future__ import annotations

import dataclasses
import io
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from record_examples import drift, key, latency, measured, run_of, runs
from rich.console import Console

from sadtrt_core.case import Case
from sadtrt_core.gate.judge import compare_runs
from sadtrt_core.gate.limits import Thresholds
from sadtrt_core.gate.output import comparison_table, gate_json, gate_junit, gate_markdown, print_gate
from sadtrt_core.records.measurements import Drift, Latency, Resources, Sustained, Telemetry
from sadtrt_core.records.schema import Record, Run
from sadtrt_core.report.fleet import fleet_offers, fleet_page, fleet_sentences
from sadtrt_core.report.history import history_tables
from sadtrt_core.report.html import html_page, markdown_summary, print_table, print_tables
from sadtrt_core.report.tables import summary_csv

REFERENCE = Case("generator", "pytorch", "fp32", "torch", 1)
LEAST, MOST = 5e-324, 1e9


def shown(run: Run, other: Run, folder: Path) -> str:
    """Everything that is said of a run, and of it beside another."""
    console = Console(file=io.StringIO(), width=250)
    print_tables(run, console)
    result = compare_runs(run, other, Thresholds())
    print_gate(result, console)
    for table in history_tables([run, other]):
        print_table(table, console)
    ElementTree.fromstring(gate_junit(result))
    elsewhere = dataclasses.replace(other.environment, gpu="another")
    alike = dataclasses.replace(other, environment=elsewhere, workload=run.workload, weights=run.weights)
    several = [run, alike]
    offers = fleet_offers(several, {"another": 0.7})
    views = [("A", other, folder), ("B", run, folder)]
    said = [
        *(gate_json(result), gate_markdown(result), markdown_summary(run), summary_csv(run)),
        html_page(views, comparison_table(result, other, run)),
        fleet_page(offers, fleet_sentences(several, offers, 60.0)),
    ]
    return console.file.getvalue() + "".join(said)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(runs, runs)
def test_any_run_can_be_shown(tmp_path: Path, run: Run, other: Run) -> None:
    assert shown(run, other, tmp_path)


def times(*ms: float, device: bool = True) -> Latency:
    return Latency(ms * 8 if device else None, ms * 8, 0, True)


EXTREMES: dict[str, dict[str, object]] = {
    "times of zero": {"latency": times(0.0)},
    "host times of zero": {"latency": times(0.0, device=False)},
    "times of next to nothing": {"latency": times(LEAST)},
    "times that are far apart": {"latency": times(LEAST, 0.0, MOST)},
    "the longest times": {"latency": times(MOST)},
    "the largest energies": {
        "resources": Resources(1e308, 1e308, 1e308, 1e308, 1e308),
        "sustained": Sustained(1, LEAST, 1e308, LEAST, (LEAST, 1.0, 1e308)),
    },
    "nothing of anything": {"resources": Resources(0.0, 0.0, 0.0, 0.0, 0.0), "sustained": Sustained(2**62, 1e300, 0.0)},
    "the widest telemetry": {"telemetry": Telemetry(*[(-1e308, 0.0, 1e308)] * 4, yardstick_ms=1e308)},
    "the worst pictures": {"drift": drift((-1000.0, 1000.0), lsb=(0, 2**62), ssim=(-1e308, 1e308))},
    "identical pictures": {"drift": drift((None, None), lsb=(0, 0))},
    "no whole picture": {"drift": Drift((None,), (None,), (255,), (True,))},
    "a large batch": {},
}


@pytest.mark.parametrize("where", ["everywhere", "TensorRT", "PyTorch"])
@pytest.mark.parametrize("name", EXTREMES)
def test_figures_at_their_ends_can_be_shown(name: str, where: str, tmp_path: Path) -> None:
    batch = 2**62 if name == "a large batch" else 1
    extreme, usual = {"latency": latency(), **EXTREMES[name]}, {"latency": latency()}
    theirs, own = (extreme if where in ("everywhere", runner) else usual for runner in ("PyTorch", "TensorRT"))
    rows: list[Record] = [measured(dataclasses.replace(REFERENCE, batch=batch), **theirs)]
    rows += [measured(key(stage, batch=batch), **own) for stage in ("generator", "appearance", "frame")]
    run, other = run_of(*rows), run_of(measured(), measured(REFERENCE))
    for pair in ((run, other), (other, run), (run, run)):
        assert "generator" in shown(*pair, tmp_path)
