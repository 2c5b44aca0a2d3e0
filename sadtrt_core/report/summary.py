"""One row a record, as a pandas table and as summary.csv."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from sadtrt_core import stats
from sadtrt_core.case import Case
from sadtrt_core.records.schema import Record, Run

# fmt: off
LEADING_COLUMNS = (
    "stage", "runner", "precision", "grid_sample", "batch", "device_ms_median", "host_ms_median",
    "gpu_memory_mb", "engine_mb", "psnr_min", "psnr_mean", "ssim_min", "max_lsb", "weights", "size",
    "gpu", "tensorrt", "torch",
)
FURTHER_COLUMNS = (
    "status", "reason", "ratio_to_pytorch_fp32", "device_ms_ci_low", "device_ms_ci_high",
    "host_ms_ci_low", "host_ms_ci_high", "samples", "steady", "disturbed", "late", "worst_frame",
    "non_finite_frames", "flicker_min", "drift_meaningful", "drift_reference",
    "energy_mj_per_frame", "sm_clock_mhz", "temperature_c", "power_w", "throttle_reasons", "notes",
    "benchmark_version", "onnxruntime", "driver", "commit",
)
# fmt: on
INTEGER_COLUMNS = ("max_lsb", "samples", "disturbed", "late", "worst_frame", "non_finite_frames")
REFERENCE_RUNNER = "pytorch"
REFERENCE_PRECISION = "fp32"


def summary_rows(run: Run) -> pd.DataFrame:
    """A row for every record, in the run's order; NaN where a figure was not measured.

    Times are in ms with 95% intervals of the median, sizes in MB, PSNR in dB (a frame counts at most 120), energy in
    mJ, clocks in MHz, temperature in deg C, power in W (medians). `ratio_to_pytorch_fp32` is how many times faster
    than PyTorch fp32 at the same stage and batch.
    """
    rows = [_row(run, record) for record in run.records]
    table = pd.DataFrame(rows, columns=[*LEADING_COLUMNS, *FURTHER_COLUMNS])
    # Int64 has a missing value of its own, so that counts do not become 3.0 where some rows have none.
    return table.astype(dict.fromkeys(INTEGER_COLUMNS, "Int64"))


def summary_csv(run: Run) -> str:
    """`summary_rows` as CSV text, NaN and None as empty cells."""
    return summary_rows(run).to_csv(index=False, na_rep="", lineterminator="\n")


def reference_record(run: Run, key: Case) -> Record | None:
    """The PyTorch fp32 record at the same stage and batch that has a latency, or None."""
    for record in run.records:
        same = (record.key.stage, record.key.batch) == (key.stage, key.batch)
        if (
            same
            and record.key.runner == REFERENCE_RUNNER
            and record.key.precision == REFERENCE_PRECISION
            and record.latency is not None
        ):
            return record
    return None


def ratio_to_reference(run: Run, record: Record) -> float | None:
    """Times faster than PyTorch fp32: medians of device time where both have it, of host time where neither has.

    None where either is not measured, or where one has a device time and the other has not.
    """
    reference = reference_record(run, record.key)
    if reference is None or reference.latency is None or record.latency is None:
        return None
    if (reference.latency.device_ms is None) != (record.latency.device_ms is None):
        return None
    own = stats.median(record.latency.judged_ms)
    return stats.median(reference.latency.judged_ms) / own if own else None


def _row(run: Run, record: Record) -> dict[str, Any]:
    key = record.key
    return {
        "stage": key.stage,
        "runner": key.runner,
        "precision": key.precision,
        "grid_sample": key.grid_sample,
        "batch": key.batch,
        **_latency_cells(run, record),
        **_drift_cells(record),
        **_resource_cells(record),
        "weights": f"{run.weights.kind}:{run.weights.name}",
        "size": run.workload.size,
        "gpu": run.environment.gpu,
        "tensorrt": run.environment.tensorrt,
        "torch": run.environment.torch,
        "status": record.status,
        "reason": record.reason,
        "notes": "; ".join(record.notes) or None,
        "benchmark_version": record.benchmark_version,
        "onnxruntime": run.environment.onnxruntime,
        "driver": run.environment.driver,
        "commit": run.environment.commit,
    }


def _latency_cells(run: Run, record: Record) -> dict[str, Any]:
    latency = record.latency
    if latency is None:
        return {}
    host = stats.median_interval(latency.host_ms)
    device = None if latency.device_ms is None else stats.median_interval(latency.device_ms)
    return {
        "device_ms_median": latency.device_ms_median,
        "host_ms_median": latency.host_ms_median,
        "ratio_to_pytorch_fp32": ratio_to_reference(run, record),
        "device_ms_ci_low": device.low if device else math.nan,
        "device_ms_ci_high": device.high if device else math.nan,
        "host_ms_ci_low": host.low,
        "host_ms_ci_high": host.high,
        "samples": len(latency.judged_ms),
        "steady": latency.steady,
        # Nothing was seen to disturb what nothing watched.
        "disturbed": len(latency.disturbed) if latency.disturbed or record.telemetry else None,
        # Nothing was held back before version 4.
        "late": len(latency.late) if latency.device_ms and record.benchmark_version >= 4 else None,
    }


def _drift_cells(record: Record) -> dict[str, Any]:
    drift = record.drift
    if drift is None:
        return {}
    return {
        "psnr_min": drift.psnr_min,
        "psnr_mean": drift.psnr_mean,
        "ssim_min": drift.ssim_min,
        "max_lsb": drift.max_lsb_worst,
        "worst_frame": drift.worst_frame,
        "non_finite_frames": sum(drift.non_finite),
        "flicker_min": drift.flicker_min,
        "drift_meaningful": drift.meaningful,
        "drift_reference": drift.reference,
    }


def _resource_cells(record: Record) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    if record.resources is not None:
        cells.update(
            gpu_memory_mb=record.resources.gpu_memory_mb,
            engine_mb=record.resources.engine_mb,
            energy_mj_per_frame=record.resources.energy_mj_per_frame,
        )
    if record.telemetry is not None:
        for name in ("sm_clock_mhz", "temperature_c", "power_w"):
            spread = getattr(record.telemetry, name)
            cells[name] = math.nan if spread is None else spread[1]
        cells["throttle_reasons"] = " ".join(record.telemetry.throttle_reasons) or None
    return cells
