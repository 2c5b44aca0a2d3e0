"""Every typed graph of the renderer parses and builds where TensorRT's builder works on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sadtrt_core.engine import tensorrt_api as api
from sadtrt_core.engine.build import build_engine
from sadtrt_core.engine.job import build_job
from sadtrt_core.graph.quantize import Calibration
from sadtrt_core.precision import PRECISIONS
from sadtrt_core.renderer.renderer import Renderer
from sadtrt_core.renderer.stages import GRAPH_STAGES, STAGES


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("graphs")


def build(
    trt: Any,
    renderer: Renderer,
    stage: str,
    precision: str,
    grid_sample: str,
    cache: Path,
    ranges: Calibration | None = None,
) -> bytes:
    how = PRECISIONS[precision]
    if how.compute == "bfloat16" and (reason := api.bfloat16_absence(trt)):
        pytest.skip(str(reason))
    job = build_job(renderer, STAGES[stage], how, grid_sample, 1, cache, 0, ranges)  # type: ignore[arg-type]
    return build_engine(trt, job).plan


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("stage", GRAPH_STAGES)
def test_native_graph_builds(
    trt: Any, seeded_demo: Renderer, seeded_calibration: Calibration, cache: Path, stage: str, precision: str
) -> None:
    assert len(build(trt, seeded_demo, stage, precision, "native", cache, seeded_calibration)) > 1000


@pytest.mark.parametrize("precision", ["fp32", "fp16-mixed", "int8"])
def test_builtin_graph_builds_where_the_runtime_samples_volumes(
    trt: Any, seeded_demo: Renderer, seeded_calibration: Calibration, cache: Path, precision: str
) -> None:
    if reason := api.builtin_grid_sample_absence(trt):
        pytest.skip(str(reason))
    assert len(build(trt, seeded_demo, "generator", precision, "builtin", cache, seeded_calibration)) > 1000
