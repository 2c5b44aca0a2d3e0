"""Shares of measured time by stage, from the records of an earlier run."""

from __future__ import annotations

from pathlib import Path

from sadtrt_core.errors import UserError
from sadtrt_core.records.schema import Run
from sadtrt_core.records.store import read_run
from sadtrt_core.renderer.stages import GENERATOR_PARTS
from sadtrt_core.stats import median

#: Whose latencies are taken where several runners have them, the nearest to what is shipped first.
_RUNNERS = ("tensorrt", "tensorrt-enqueue", "torch-compile", "pytorch", "onnxruntime")


def time_shares(run: Run, precision: str, size: int) -> tuple[dict[str, float], str] | None:
    """Each stage's share (0 to 1) of the generator's stages at batch 1, and whose latencies they are; None without.

    The coordinates are computed inside the motion stage, so its share holds theirs.
    """
    if run.workload.size != size:
        return None
    rows = {
        (record.key.runner, record.key.stage): median(record.latency.judged_ms)
        for record in run.records
        if record.latency is not None and record.key.precision == precision and record.key.batch == 1
    }
    for runner in _RUNNERS:
        times = {stage: rows[runner, stage] for stage in GENERATOR_PARTS if (runner, stage) in rows}
        if len(times) == len(GENERATOR_PARTS) and sum(times.values()) > 0:
            total = sum(times.values())
            where = run.environment.gpu or run.environment.cpu
            source = f"{runner} {precision} on {where}, run of {run.started_utc}"
            return {stage: time / total for stage, time in times.items()}, source
    return None


def latest_time_shares(results: Path, precision: str, size: int) -> tuple[dict[str, float], str] | None:
    """`time_shares` of the newest run in a results folder; None where there is none that can be read."""
    try:
        run = read_run(results / "latest")
    except UserError:
        return None  # No run yet, or one of another version: shares of time are then simply not shown.
    return time_shares(run, precision, size)
