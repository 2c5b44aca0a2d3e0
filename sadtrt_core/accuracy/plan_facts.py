"""What a plan found by a search says of itself, and what its engines were: facts for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from sadtrt_core.accuracy.confirm import Confirmed
from sadtrt_core.accuracy.findings import Budget
from sadtrt_core.codec import to_json
from sadtrt_core.environment import read_environment
from sadtrt_core.files import write_file
from sadtrt_core.plan import Fact
from sadtrt_core.records.measurements import Drift
from sadtrt_core.report.chart import Spot, draw_spots
from sadtrt_core.runners.registry import RunnerKind, grid_sample_label
from sadtrt_core.session import Session


def plan_facts(session: Session, budget: Budget, drift: Drift) -> dict[str, Fact]:
    """What was asked for and found on the rounded graph, and what of."""
    weights, workload = session.renderer.weights, session.recorded_workload
    facts: dict[str, Fact] = {"budget_min_psnr_db": float(budget.min_psnr_db)}
    if budget.max_lsb is not None:
        facts["budget_max_lsb"] = budget.max_lsb
    facts |= {
        **drift_facts(drift),
        "runner": "pytorch, the rounded graph" if session.on_gpu else "onnxruntime",
        "reference": drift.reference,
        "meaningful": session.drift_is_meaningful,
        "frames": workload.frames,
        "size": session.renderer.config.image_size,
        "workload": f"{workload.name} {workload.digest[:16]}",
        "weights": f"{weights.kind} {weights.name} {weights.digest[:16]}",
    }
    return facts


def engine_facts(session: Session, kind: RunnerKind, best: Confirmed, others: Sequence[Confirmed]) -> dict[str, Fact]:
    """What the best engine costs, and the others beside it."""
    job = session.job(session.case("generator", kind.name, "fp32"))
    here = read_environment(session.device)
    facts: dict[str, Fact] = {
        **drift_facts(best.drift),
        "runner": kind.name,
        "latency_ms": round(best.latency_ms, 4),
        "device": here.gpu or here.cpu,
        "grid_sample": grid_sample_label(kind, job.stage, job.grid_sample),
    }
    if here.gpu is not None:
        facts |= {"tensorrt": here.tensorrt or "unknown", "optimization_level": job.optimization_level}
    for item in others:
        word = item.precision.name.replace("-", "_")
        facts |= {f"{word}_latency_ms": round(item.latency_ms, 4), f"{word}_max_lsb": item.drift.max_lsb_worst}
        if not item.drift.has_non_finite:
            facts[f"{word}_psnr_min_db"] = item.drift.psnr_min
    return facts


def drift_facts(drift: Drift) -> dict[str, Fact]:
    """The worst of a drift's frames, and their mean."""
    return {
        "psnr_min_db": drift.psnr_min,
        "psnr_mean_db": drift.psnr_mean,
        "ssim_min": drift.ssim_min,
        "max_lsb": drift.max_lsb_worst,
    }


def write_engines(engines: Sequence[Confirmed], target: Path, seconds: float) -> str:
    """Beside the plan: what each engine costs as JSON, and their chart; a sentence that says so."""
    target.parent.mkdir(parents=True, exist_ok=True)
    table, chart = target.with_suffix(".engines.json"), target.with_suffix(".svg")
    write_file(table, json.dumps(to_json({"seconds": round(seconds), "engines": list(engines)}), indent=1) + "\n")
    spots = [
        Spot(item.latency_ms, item.loss.decibels, "engine", item.precision.name, row=item.precision.name)
        for item in engines
        if item.loss.decibels > 0
    ]
    if (drawn := draw_spots(spots, "median time")) is not None:
        write_file(chart, drawn)
    return f"{len(engines)} engines measured in {seconds:.0f} s: {table}, {chart.name}"
