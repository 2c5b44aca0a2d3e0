from __future__ import annotations

import io
import math

import pandas as pd
import pytest
from record_examples import drift, key, latency, measured, on_cpu, run_of

from sadtrt_core.case import Case
from sadtrt_core.records.measurements import Drift, Latency, Resources, Telemetry
from sadtrt_core.records.schema import Record
from sadtrt_core.report.ratios import ratio, strict
from sadtrt_core.report.tables import summary_csv, summary_rows, tails_table

LEADING = (
    "stage,runner,precision,grid_sample,batch,device_ms_median,host_ms_median,gpu_memory_mb,engine_mb,psnr_min,"
    "psnr_mean,ssim_min,max_lsb,weights,size,gpu,tensorrt,torch"
)
TAIL = ("p90", "p99", "slow")
REFERENCE = Case("generator", "pytorch", "fp32", "torch", 1)


def test_leading_columns_are_the_promised_ones() -> None:
    assert summary_csv(run_of()).startswith(LEADING + ",")
    assert summary_csv(run_of(measured())).splitlines()[0].startswith(LEADING + ",")


def test_a_row_holds_the_figures_of_its_record() -> None:
    record = measured(
        latency=latency(disturbed=(1, 4)),
        drift=drift((71.0, None), lsb=(3, 0)),
        resources=Resources(900.0, 220.5, 812.0),
        telemetry=Telemetry((1.0, 1980.0, 1980.0), None, None, (1.0, 650.0, 700.0), ("sw_power_cap",)),
        notes=("first", "second"),
    )
    row = pd.read_csv(io.StringIO(summary_csv(run_of(record)))).iloc[0]
    assert record.latency is not None
    assert row["device_ms_median"] == record.latency.device_ms_median
    assert row["device_ms_ci_low"] < row["device_ms_median"] < row["device_ms_ci_high"]
    assert (row["psnr_min"], row["psnr_mean"], row["max_lsb"]) == (71.0, 95.5, 3)
    assert (row["gpu_memory_mb"], row["engine_mb"], row["energy_mj_per_frame"]) == (900.0, 220.5, 812.0)
    assert (row["weights"], row["size"], row["gpu"]) == ("fitted:stand-in 256", 256, "NVIDIA H200")
    assert (row["samples"], row["disturbed"], row["steady"]) == (60, 2, True)
    assert (row["sm_clock_mhz"], row["throttle_reasons"], row["notes"]) == (1980.0, "sw_power_cap", "first; second")


def test_tails_stand_behind_the_older_columns_and_in_a_table_of_their_own() -> None:
    times = (*(5.0 + 0.01 * index for index in range(99)), 15.0)
    record = measured(latency=Latency(times, times, 5, True, visits=(0, 50)))
    row = pd.read_csv(io.StringIO(summary_csv(run_of(record)))).iloc[0]
    tails = ["repetitions", *(f"{clock}_ms_{x}" for clock in ("device", "host") for x in TAIL)]
    assert set(tails) <= set(row.index[LEADING.count(",") + 1 :]), (
        "readers of older files find their columns where they were"
    )
    assert row["device_ms_p90"] == pytest.approx(5.891)
    assert row["host_ms_p99"] == pytest.approx(6.07, abs=0.01)
    assert (row["device_ms_slow"], row["repetitions"]) == (1.0, 2)
    (cells,) = tails_table(run_of(record)).rows
    assert cells[-6:] == ("5.891", "6.070", "1", "5.891", "6.070", "1")


def test_what_was_not_measured_is_an_empty_cell() -> None:
    broken = Drift((math.nan,), (math.nan,), (255,), (True,))
    text = summary_csv(run_of(Record(key(), "skipped", "no GPU"), measured(key("warp"), drift=broken)))
    assert "nan" not in text.lower().replace("nan_", "")
    nan, skipped = text.splitlines()[1:3]
    assert skipped.startswith("generator,tensorrt,fp16,native,1,,,,,,,,,fitted")
    assert "skipped,no GPU" in skipped
    row = dict(zip(text.splitlines()[0].split(","), nan.split(","), strict=True))
    assert (row["psnr_min"], row["ssim_min"], row["max_lsb"], row["non_finite_frames"]) == ("", "", "255", "1")


def test_ratio_is_against_pytorch_fp32_at_the_same_stage_and_batch() -> None:
    reference = measured(REFERENCE, latency=latency(20.0, 30.0))
    fast = measured(latency=latency(5.0, 10.0))
    batched = measured(key(batch=4), latency=latency(5.0, 10.0))
    run = run_of(reference, fast, batched)
    ratio = summary_rows(run)["ratio_to_pytorch_fp32"]
    assert ratio[0] == 1.0
    assert math.isclose(ratio[1], 4.0, rel_tol=0.01)
    assert math.isnan(ratio[2])


def test_ratio_never_mixes_device_and_host_times() -> None:
    on_host = measured(REFERENCE, latency=latency(None, 30.0))
    assert ratio(measured(), run_of(on_host, measured()), strict) is None
    both_on_host = measured(latency=latency(None, 10.0))
    times = ratio(both_on_host, on_cpu(run_of(on_host, both_on_host)), strict)
    assert times is not None
    assert math.isclose(times, 3.0, rel_tol=0.02)
