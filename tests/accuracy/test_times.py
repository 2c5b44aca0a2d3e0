"""Shares of time: from the newest run that has them, of the same size and weights, or not at all."""

from __future__ import annotations

import pytest
import torch

from sadtrt_core.accuracy.losses import latest_time_shares
from sadtrt_core.case import Case
from sadtrt_core.environment import read_environment
from sadtrt_core.records.measurements import Latency
from sadtrt_core.records.schema import Record, Weights, Workload
from sadtrt_core.records.store import RunWriter
from sadtrt_core.report.tables import summary_csv

MS = {"appearance": 1.0, "motion": 5.0, "warp": 0.5, "decode": 3.5}


def write_run(results, runner="tensorrt", precision="fp16", stages=MS, size=256):
    environment = read_environment(torch.device("cpu"))
    writer = RunWriter(
        results, environment, Weights("demo", "demo", "d1"), Workload("astronaut", 1, size, "0"), {"size": str(size)}
    )
    for stage, ms in stages.items():
        latency = Latency(device_ms=(ms, ms, ms), host_ms=(9 * ms,), warmup_calls=1, steady=True)
        writer.add(Record(Case(stage, runner, precision, "native", 1), "measured", latency=latency))
    writer.finish(summary_csv)


def test_shares_come_from_the_newest_run_by_its_device_times(tmp_path):
    write_run(tmp_path)
    shares, source = latest_time_shares(tmp_path, "fp16", 256, "d1")
    assert shares == pytest.approx({"appearance": 0.1, "motion": 0.5, "warp": 0.05, "decode": 0.35})
    assert source.startswith("tensorrt fp16 on ")


def test_no_shares_without_all_stages_of_that_precision_and_size(tmp_path):
    assert latest_time_shares(tmp_path, "fp16", 256, "d1") is None
    write_run(tmp_path)
    assert latest_time_shares(tmp_path, "fp16-mixed", 256, "d1") is None
    assert latest_time_shares(tmp_path, "fp16", 512, "d1") is None
    assert latest_time_shares(tmp_path, "fp16", 256, "d2") is None, "of another renderer"
    write_run(tmp_path, stages={"motion": 5.0, "decode": 3.0})
    assert latest_time_shares(tmp_path, "fp16", 256, "d1") is None
