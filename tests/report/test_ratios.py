"""Which PyTorch row a row is compared with."""

from __future__ import annotations

import dataclasses
import math

import pytest
from record_examples import drift, latency, measured, on_cpu, run_of

from sadtrt_core.case import Case
from sadtrt_core.records.schema import Record, Run
from sadtrt_core.report.ratios import Choice, as_shipped, best, best_name, ratio, strict
from sadtrt_core.report.tables import latency_table, summary_rows


def row(name: str, device_ms: float, psnr: float | None, stage: str = "generator", batch: int = 1) -> Record:
    """A row of "runner precision"; without `psnr` its frames were not compared."""
    runner, precision = name.split()
    grid = "torch" if "torch" in runner else "plugin"
    times = latency(device_ms, 2 * device_ms)
    lost = None if psnr is None else drift((psnr, psnr))
    return measured(Case(stage, runner, precision, grid, batch), latency=times, drift=lost)


#: Lowest PSNR of the worst frame and device times as on a GPU.
PYTORCH = (
    row("pytorch fp32", 40.0, 120.0),
    row("pytorch default", 16.0, 75.0),
    row("pytorch fp16", 9.0, 69.0),
    row("pytorch-channels-last fp16", 7.0, 69.2),
    row("pytorch-cuda-graph fp16", 6.5, 69.2),
    row("torch-compile fp16", 5.0, 68.4),
    row("torch-compile fp16-mixed", 6.0, 77.6),
)


@pytest.mark.parametrize(
    ("psnr", "expected"),
    [
        (120.0, "pytorch fp32"),
        (78.2, "pytorch fp32"),  # torch-compile fp16-mixed is 0.6 dB lower.
        (78.1, "torch-compile fp16-mixed"),
        (70.0, "torch-compile fp16-mixed"),
        (69.5, "torch-compile fp16-mixed"),
        (68.9, "torch-compile fp16"),
        (38.5, "torch-compile fp16"),
        (math.nan, "torch-compile fp16"),
    ],
)
def test_the_best_pytorch_row_is_the_fastest_of_no_worse_picture(psnr: float, expected: str) -> None:
    record = row("tensorrt int8", 4.0, 70.0)
    if math.isnan(psnr):
        broken = drift((None, 70.0), ssim=(None, 0.9), non_finite=(True, False))
        record = measured(record.key, latency=record.latency, drift=broken)
    else:
        record = row("tensorrt int8", 4.0, psnr)
    assert best_name(record, run_of(*PYTORCH, record)) == expected


def test_a_stage_or_batch_has_the_picture_of_its_runner_and_precision_and_its_own_rows() -> None:
    frames = [
        row("pytorch fp32", 30.0, None, "frame", 8),
        row("torch-compile fp16", 3.0, None, "frame", 8),
        row("tensorrt fp16", 2.0, None, "frame", 8),
        row("tensorrt int8", 2.0, None, "frame", 8),
    ]
    run = run_of(*PYTORCH, row("tensorrt fp16", 4.0, 66.5), *frames)
    assert best(frames[2], run) is frames[1]
    assert ratio(frames[2], run, best) == pytest.approx(1.5, rel=0.01)
    assert best(frames[3], run) is frames[0], "nothing is known of its picture"


def test_a_stage_with_drift_of_its_own_is_compared_by_that() -> None:
    frames = [
        row("pytorch fp32", 30.0, None, "frame"),
        row("torch-compile fp16", 3.0, 70.0, "frame"),
        row("torch-compile fp16-mixed", 4.0, 80.0, "frame"),
        row("tensorrt fp16-mixed", 2.0, 79.0, "frame"),
    ]
    # By the generator's 66.5 dB torch.compile fp16 would be good enough.
    run = run_of(*PYTORCH, row("tensorrt fp16-mixed", 4.0, 66.5), *frames)
    assert best(frames[3], run) is frames[2]
    # Pictures of two stages say nothing of each other: of the frame alone nothing is known of torch.compile fp16-mixed.
    unknown = row("torch-compile fp16-mixed", 4.0, None, "frame")
    run = run_of(*PYTORCH, row("tensorrt fp16-mixed", 4.0, 66.5), frames[0], frames[1], unknown, frames[3])
    assert best(frames[3], run) is frames[0]


@pytest.mark.parametrize("choice", [best, as_shipped, strict])
def test_a_row_that_failed_is_compared_with_by_none(choice: Choice) -> None:
    """Whatever was timed of it before it was seen not to compute its stage."""
    record = row("tensorrt fp16", 4.0, 68.0)
    before = choice(record, run_of(*PYTORCH, record))
    assert before is not None
    broken = dataclasses.replace(before, status="failed", reason="what was timed is not the stage")
    after = choice(record, run_of(*(broken if one is before else one for one in PYTORCH), record))
    assert after is None or after.status == "measured"


@pytest.mark.parametrize("choice", [best, as_shipped, strict])
def test_a_row_that_failed_is_no_times_faster_and_says_so(choice: Choice) -> None:
    record = row("tensorrt fp16", 4.0, 68.0)
    broken = dataclasses.replace(record, status="failed", reason="what was timed is not the stage")
    run = run_of(*PYTORCH, broken)
    assert ratio(record, run_of(*PYTORCH, record), choice) is not None
    assert ratio(broken, run, choice) is None
    cells = table_row(run, broken)
    assert "faster" not in " ".join(cells.values())
    assert cells["device ms"].endswith(" (failed)")


def test_drift_that_means_nothing_chooses_no_row() -> None:
    noise = [measured(one.key, latency=one.latency, drift=drift(meaningful=False)) for one in PYTORCH]
    record = measured(Case("generator", "tensorrt", "fp16", "plugin", 1), drift=drift(meaningful=False))
    assert best(record, run_of(*noise, record)) is noise[0]


def test_as_shipped_is_the_row_of_that_name_and_fp32_where_there_is_no_gpu() -> None:
    record = row("tensorrt fp16", 4.0, 66.5)
    run = run_of(*PYTORCH, record)
    assert as_shipped(record, run) is PYTORCH[1]
    assert as_shipped(record, on_cpu(run)) is PYTORCH[0]
    assert as_shipped(record, run_of(PYTORCH[0], record)) is None
    assert strict(record, run_of(PYTORCH[1], record)) is None


def table_row(run: Run, record: Record) -> dict[str, str]:
    table = latency_table(run)
    return next(dict(zip(table.headings, cells, strict=True)) for cells in table.rows if cells[:5] == record.key.cells)


def test_tables_and_csv_have_all_three_ratios_and_name_the_row() -> None:
    record = row("tensorrt fp16", 4.0, 66.5)
    run = run_of(*PYTORCH, record)
    cells = table_row(run, record)
    assert cells["vs PyTorch fp32"] == "10.00x faster"
    assert cells["vs PyTorch as shipped"] == "4.00x faster"
    assert cells["vs best PyTorch of no worse picture"] == "1.25x faster than torch-compile fp16"
    assert table_row(run, PYTORCH[5])["vs best PyTorch of no worse picture"] == "reference"
    assert table_row(run, PYTORCH[2])["vs best PyTorch of no worse picture"] == (
        "1.50x slower than torch-compile fp16-mixed"
    )
    figures = summary_rows(run).set_index(["runner", "precision"]).loc[("tensorrt", "fp16")]
    assert figures["ratio_to_pytorch_default"] == pytest.approx(4.0, rel=0.01)
    assert figures["ratio_to_best_pytorch"] == pytest.approx(1.25, rel=0.01)
    assert figures["best_pytorch"] == "torch-compile fp16"
