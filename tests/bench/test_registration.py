"""A stage, a runner and a metric of one's own, each registered in one place, found wherever there are any."""

from __future__ import annotations

import csv
import json

import pytest
from suite_runs import Finished, SuiteProcess

TOYS = """
    from torch import nn
    from sadtrt_core import stats
    from sadtrt_core.renderer.config import NUM_KEYPOINTS
    from sadtrt_core.renderer.stages import STAGES, Stage, TensorSpec
    from sadtrt_core.report.metrics import METRICS, Limit, Metric
    from sadtrt_core.runners.pytorch import PyTorchRunner
    from sadtrt_core.runners.registry import RUNNERS, RunnerKind

    class Halves(nn.Module):
        def forward(self, kp_source):
            return kp_source / 2

    STAGES["toystage"] = Stage(
        "toystage",
        "each frame",
        inputs=lambda config: (TensorSpec("kp_source", (NUM_KEYPOINTS, 3)),),
        outputs=lambda config: (TensorSpec("halves", (NUM_KEYPOINTS, 3)),),
        module=lambda renderer: Halves(),
    )
    RUNNERS["toyrunner"] = RunnerKind("toyrunner", PyTorchRunner, lambda job: None, graph=False)
    METRICS["slowest_ms"] = Metric(
        "slowest_ms",
        "latency",
        lambda record, run: None if record.latency is None else max(record.latency.judged_ms),
        "slowest",
        "ms",
        "lower",
        ("csv", "latency"),
        limit=Limit("slowest_growth_percent", 50.0, "slowest", "slower", percent=True),
    )
"""
ARGUMENTS = (
    *("bench/test_stage_latency.py", "--benchmark-only", "--device", "cpu", "-p", "no:cacheprovider"),
    *("--weights", "seeded", "--stage", "toystage", "--runner", "toyrunner", "--precision", "fp32"),
)


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory):
    made = SuiteProcess(tmp_path_factory.mktemp("suite"), TOYS)
    yield made
    made.close()


@pytest.fixture(scope="module")
def measured(process: SuiteProcess) -> Finished:
    finished = process.run((*ARGUMENTS, f"--benchmark-json={process.folder / 'all.json'}"))
    assert finished.code == 0, finished.output
    return finished


def test_they_are_in_the_options_of_pytest(process: SuiteProcess) -> None:
    shown = " ".join(process.run(("bench/", "--help")).output.split())
    assert "toystage" in shown
    assert "toyrunner" in shown


def test_they_are_in_the_summary_the_terminal_the_report_and_pytest_benchmarks_json(
    process: SuiteProcess, measured: Finished
) -> None:
    (folder,) = measured.folders
    (row,) = csv.DictReader((folder / "summary.csv").read_text().splitlines())
    assert (row["stage"], row["runner"]) == ("toystage", "toyrunner")
    assert float(row["slowest_ms"]) >= float(row["host_ms_median"])
    for text in (measured.output, (folder / "report.html").read_text()):
        assert "toystage" in text
        assert "toyrunner" in text
        assert "slowest ms" in text
    (benchmark,) = json.loads((process.folder / "all.json").read_text())["benchmarks"]
    assert benchmark["extra_info"]["slowest_ms"] == pytest.approx(float(row["slowest_ms"]))
