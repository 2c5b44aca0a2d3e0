"""Every typed graph of the renderer parses and builds where TensorRT's builder works on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sadtrt_core.engine import tensorrt_api as api
from sadtrt_core.engine.build import build_engine
from sadtrt_core.engine.job import BuildJob, build_job
from sadtrt_core.graph.quantize import Calibration
from sadtrt_core.precision import PRECISIONS
from sadtrt_core.renderer.renderer import Renderer
from sadtrt_core.renderer.stages import GRAPH_STAGES, STAGES


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("graphs")


def job_of(
    trt: Any, renderer: Renderer, stage: str, precision: str, grid_sample: str, cache: Path, ranges: Calibration
) -> BuildJob | None:
    """None where this TensorRT has no such type."""
    how = PRECISIONS[precision]
    if how.compute == "bfloat16" and api.bfloat16_absence(trt):
        return None
    return build_job(renderer, STAGES[stage], how, grid_sample, 1, cache, 0, ranges)  # type: ignore[arg-type]


@pytest.mark.parametrize("stage", GRAPH_STAGES)
def test_native_graphs_build(
    trt: Any, seeded_demo: Renderer, seeded_calibration: Calibration, cache: Path, stage: str
) -> None:
    jobs = [job_of(trt, seeded_demo, stage, name, "native", cache, seeded_calibration) for name in PRECISIONS]
    # Several precisions may have one graph: all of float32, and where there is nothing to quantize.
    graphs = {job.graph: job for job in jobs if job is not None}
    assert len(graphs) >= 3
    for job in graphs.values():
        assert len(build_engine(trt, job).plan) > 1000, job.case


@pytest.mark.parametrize("precision", ["fp32", "fp16-mixed", "int8"])
def test_builtin_graph_builds_where_the_runtime_samples_volumes(
    trt: Any, seeded_demo: Renderer, seeded_calibration: Calibration, cache: Path, precision: str
) -> None:
    if reason := api.builtin_grid_sample_absence(trt):
        pytest.skip(str(reason))
    job = job_of(trt, seeded_demo, "generator", precision, "builtin", cache, seeded_calibration)
    assert job is not None
    assert len(build_engine(trt, job).plan) > 1000
