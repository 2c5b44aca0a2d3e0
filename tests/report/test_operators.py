"""Rates and limits of a row, and the file that keeps them."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from sadtrt_core.environment import read_environment
from sadtrt_core.report.html import print_table
from sadtrt_core.report.operators import OperatorRow, operator_table, ratio_lines, write_rows

ON_GPU = OperatorRow("16 grids", "float16", "kernel", 40.0, 16.0, 14.0, 20_000_000, 2.5e12, 1e-3)
ON_CPU = OperatorRow("16 grids", "float32", "PyTorch", 40_000.0, None, None, 20_000_000, 2.5e10, 0.0)


def test_rates_come_from_the_devices_cold_time_and_on_a_cpu_from_the_hosts():
    assert ON_GPU.rate == pytest.approx(20e6 / 16e-6)
    assert ON_GPU.limit_us == pytest.approx(8.0)
    assert ON_CPU.rate == pytest.approx(20e6 / 40e-3)
    assert ON_GPU.extra_info()["share_of_copy_rate"] == pytest.approx(0.5)
    assert ON_CPU.extra_info()["device_us_cold"] is None


def test_the_table_shows_share_of_the_copy_rate_and_the_limit():
    console = Console(width=160, record=True, file=io.StringIO())
    print_table(operator_table("grid sample", [ON_GPU, ON_CPU]), console)
    lines = {line.split("│")[3].strip(): line for line in console.export_text().splitlines() if line.startswith("│")}
    assert "50.0%" in lines["kernel"]
    assert "8.00" in lines["kernel"]
    assert lines["PyTorch"].count(" - ") == 2


def test_ratios_name_the_form_of_pytorch_they_are_to_and_stay_within_a_type():
    tiled = replace(ON_GPU, method="PyTorch, tiles in each call", cold_us=64.0)
    view = replace(ON_GPU, method="PyTorch, expanded view", cold_us=24.0)
    assert ratio_lines([ON_GPU, tiled, view, ON_CPU]) == [
        "16 grids, float16, kernel: 4.00 x PyTorch, tiles in each call; 1.50 x PyTorch, expanded view"
    ]


def test_the_file_holds_every_row_and_the_machine(tmp_path):
    path = tmp_path / "new" / "grid_sample.json"
    write_rows([ON_GPU, ON_CPU], read_environment(torch.device("cpu")), path)
    content = json.loads(path.read_text())
    assert [row["method"] for row in content["rows"]] == ["kernel", "PyTorch"]
    assert content["rows"][0]["cold_us"] == 16.0
    assert content["rows"][0]["bytes_per_second"] == pytest.approx(1.25e12)
    assert content["environment"]["torch"] == torch.__version__
