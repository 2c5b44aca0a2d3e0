"""The numeric case that every sampler is held to: it lets rounding pass and nothing else."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F

from sadtrt_core.engine.job import (
    SAMPLER_STAGE,
    TOLERANCE,
    sampler_case,
    sampler_fault,
    sampler_precision,
)
from sadtrt_core.graph.export import typed_graph
from sadtrt_core.graph.rounding import explicit_rounding
from sadtrt_core.precision import PRECISIONS
from sadtrt_core.renderer.renderer import Renderer
from sadtrt_core.renderer.sampling import sample_volume


def exact() -> torch.Tensor:
    case = sampler_case()
    return sample_volume(case["volume"], case["grid"])


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("grid_sample", ["native", "builtin"])
def test_the_exported_case_agrees_in_onnx_runtime(
    precision: str, grid_sample: str, seeded_demo: Renderer, tmp_path: Path
) -> None:
    how = sampler_precision(PRECISIONS[precision])
    graph = onnx.load_from_string(typed_graph(seeded_demo, SAMPLER_STAGE, how, grid_sample, tmp_path))
    session = onnxruntime.InferenceSession(explicit_rounding(graph).SerializeToString())
    samples = session.run(None, {name: tensor.numpy() for name, tensor in sampler_case().items()})[0]
    assert sampler_fault(torch.from_numpy(samples), how.compute) is None


def test_the_case_reaches_outside_the_volume() -> None:
    grid = sampler_case()["grid"]
    assert (grid.abs() > 1).any(dim=-1).float().mean() > 0.2
    assert exact().abs().max() > 0.5


@pytest.mark.parametrize("compute", TOLERANCE)
def test_nearest_instead_of_linear_is_found_and_named(compute: str) -> None:
    case = sampler_case()
    nearest = F.grid_sample(case["volume"], case["grid"], mode="nearest", align_corners=False)
    fault = sampler_fault(nearest, compute)
    assert fault is not None
    assert fault.endswith("it reads 'linear' as nearest")


@pytest.mark.parametrize("wrong", [{"align_corners": True}, {"align_corners": False, "padding_mode": "border"}])
def test_other_readings_of_the_grid_are_found(wrong: dict[str, object]) -> None:
    case = sampler_case()
    assert sampler_fault(F.grid_sample(case["volume"], case["grid"], **wrong), "bfloat16") is not None


def test_nan_and_another_shape_are_faults() -> None:
    assert sampler_fault(torch.full_like(exact(), torch.nan), "bfloat16") is not None
    assert "shape" in str(sampler_fault(exact()[..., :-1], "float32"))
    assert sampler_fault(exact(), "float32") is None
