"""`sadtrt drift`: measures the losses of a session's renderer and keeps the findings under results/."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch

from sadtrt_core.accuracy.findings import REPORT_VERSION, DriftReport, EngineReport, SumsReport
from sadtrt_core.accuracy.losses import REFERENCE, measure_losses
from sadtrt_core.accuracy.simulate import Simulator
from sadtrt_core.accuracy.tables import Report, as_text, renderables
from sadtrt_core.environment import read_environment
from sadtrt_core.errors import UserError
from sadtrt_core.files import write_file
from sadtrt_core.graph.export import OPSET, cached_export
from sadtrt_core.precision import Precision
from sadtrt_core.progress import SILENT, Reporter
from sadtrt_core.records.schema import Run
from sadtrt_core.records.store import read_run, utc_now
from sadtrt_core.renderer.stages import GENERATOR_PARTS, STAGES
from sadtrt_core.renderer.workload import frame_inputs
from sadtrt_core.session import Session
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


REPORT_FILE = "drift.json"
TABLE_FILE = "drift.txt"


def simulator_of(session: Session, quantized: bool = False) -> Simulator:
    """The session's generator as an fp32 graph, and its inputs for every driving frame.

    PyTorch computes it where the session has a GPU, ONNX Runtime on a CPU. `quantized` adds ranges, which are measured
    where the cache has none.
    """
    calibration = session.calibration if quantized else None
    graph = cached_export(session.renderer, STAGES["generator"], OPSET, session.options.cache)
    items = frame_inputs(session.renderer, session.workload, STAGES["generator"], torch.device("cpu"))
    return Simulator(graph, items, session.device if session.device.type == "cuda" else None, calibration)


def session_losses(session: Session, precision: Precision, worst: int, reporter: Reporter = SILENT) -> DriftReport:
    """Where `precision` loses the picture of the session's renderer, on the `worst` frames of its sequence.

    Shares of time come from the newest run of the session's results folder, where it has them. Raises UserError as
    `measure_losses` does.
    """
    shares = latest_time_shares(session.options.results, precision.name, session.recorded_workload.size)
    simulator = simulator_of(session, precision.quantize is not None)
    found = measure_losses(simulator, precision, worst, shares[0] if shares else None, reporter)
    return DriftReport(
        version=REPORT_VERSION,
        precision=precision.name,
        compute=precision.compute,
        reference=REFERENCE,
        meaningful=session.drift_is_meaningful,
        weights=session.recorded_weights,
        workload=session.recorded_workload,
        frames=found.frames,
        complete=found.complete,
        low=found.low,
        parts=found.parts,
        ranges=found.ranges,
        versions=versions(),
        time_source=shares[1] if shares else None,
    )


def versions(device: torch.device | None = None) -> dict[str, str]:
    """What drift depends on beside the weights and the workload; without a device, what it does on a CPU."""
    here = read_environment(device or torch.device("cpu"))
    commit = f"{here.commit}{' with changes' if here.dirty else ''}" if here.commit else "unknown"
    found = {
        "sadtrt": here.sadtrt_version,
        "commit": commit,
        "torch": here.torch or "unknown",
        "onnxruntime": here.onnxruntime or "unknown",
    }
    if here.gpu is None:
        return found
    return found | {"gpu": here.gpu, "driver": here.driver or "unknown", "tensorrt": here.tensorrt or "none"}


def write_report(report: Report, results: Path) -> Path:
    """Keep the findings as JSON and as text in `<results>/<UTC time>-drift-<precision>-<commit>/`; the folder.

    Those of a shipped runner have its name before the precision, those of sums in half say so there.
    """
    match report:
        case EngineReport():
            what = f"{report.runner}-{report.precision}"
        case SumsReport():
            what = f"half-sums-{report.precision}"
        case DriftReport():
            what = report.precision
    words = f"{what}-{report.versions.get('commit', '')[:10]}"
    name = f"{utc_now():%Y%m%dT%H%M%SZ}-drift-{re.sub(r'[^A-Za-z0-9.-]+', '-', words).strip('-')}"
    folder = results / name
    number = 1
    while folder.exists():
        number += 1
        folder = results / f"{name}-{number}"
    folder.mkdir(parents=True)
    write_file(folder / REPORT_FILE, json.dumps(report.to_json(), indent=1, allow_nan=False) + "\n")
    write_file(folder / TABLE_FILE, as_text(renderables(report)))
    return folder
