"""One row a record, as a pandas table and as summary.csv."""

from __future__ import annotations

import pandas as pd

from sadtrt_core.records.schema import Run
from sadtrt_core.report.metrics import CSV_ORDER, columns

# fmt: off
LEADING_COLUMNS = (
    "stage", "runner", "precision", "grid_sample", "batch", "device_ms_median", "host_ms_median",
    "gpu_memory_mb", "engine_mb", "psnr_min", "psnr_mean", "ssim_min", "max_lsb", "weights", "size",
    "gpu", "tensorrt", "torch",
    "status", "reason",
)
LAST_COLUMNS = ("notes", "benchmark_version", "onnxruntime", "driver", "commit")
# fmt: on


def summary_rows(run: Run) -> pd.DataFrame:
    """A row for every record, in the run's order; NaN where a figure was not measured.

    Times are in ms with 95% intervals of the median, sizes in MB, PSNR in dB (a frame counts at most 120), energy in
    mJ, clocks in MHz, temperature in deg C, power in W (medians). `ratio_to_pytorch_fp32` is how many times faster
    than PyTorch fp32 at the same stage and batch. A metric that came later stands behind all others.
    """
    where = run.environment
    facts = {
        "weights": f"{run.weights.kind}:{run.weights.name}",
        "size": run.workload.size,
        **{name: getattr(where, name) for name in ("gpu", "tensorrt", "torch", "onnxruntime", "driver", "commit")},
    }
    rows = []
    for record in run.records:
        own = {name: getattr(record, name) for name in ("status", "reason", "benchmark_version")}
        figures = {metric.name: metric.value(record, run) for metric in columns("csv")}
        rows.append(record.key.to_json() | facts | own | figures | {"notes": "; ".join(record.notes) or None})
    names = [metric.name for metric in columns("csv")]
    known = [name for name in names if name in CSV_ORDER and name not in LEADING_COLUMNS]
    later = [name for name in names if name not in CSV_ORDER]
    table = pd.DataFrame(rows, columns=[*LEADING_COLUMNS, *known, *LAST_COLUMNS, *later])
    # Int64 has a missing value of its own, so that counts do not become 3.0 where some rows have none.
    counts = [name for name in names if all(_is_count(row[name]) for row in rows)]
    return table.astype(dict.fromkeys(counts, "Int64"))


def _is_count(value: object) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool))


def summary_csv(run: Run) -> str:
    """`summary_rows` as CSV text, NaN and None as empty cells."""
    return summary_rows(run).to_csv(index=False, na_rep="", lineterminator="\n")
