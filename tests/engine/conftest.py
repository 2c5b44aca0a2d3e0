"""Small typed graphs and engine jobs for the tests of engines."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from sadtrt_core.case import Case
from sadtrt_core.engine import tensorrt_api as api
from sadtrt_core.engine.job import BuildJob
from sadtrt_core.precision import PRECISIONS


def _half_graph(operator: str = "Sigmoid") -> onnx.ModelProto:
    """x (batch, 3) float32 -> cast to half -> one operator -> plus a half constant -> cast to float32 y."""
    nodes = [
        helper.make_node("Cast", ["x"], ["x_half"], name="to_half", to=TensorProto.FLOAT16),
        helper.make_node(operator, ["x_half"], ["squashed"], name="squash"),
        helper.make_node("Add", ["squashed", "one"], ["sum"], name="sum"),
        helper.make_node("Cast", ["sum"], ["y"], name="to_float", to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "half",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor("one", TensorProto.FLOAT16, [1], [1.0])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


@pytest.fixture(scope="session")
def half_graph() -> Callable[..., onnx.ModelProto]:
    """Makes the small half graph with any operator in its middle."""
    return _half_graph


@pytest.fixture(scope="session")
def trt() -> Any:
    """A TensorRT whose builder works on this machine; TensorRT for RTX's needs no GPU."""
    module = api.tensorrt_module()
    if isinstance(module, api.Unavailable):
        pytest.skip(module.reason)
    try:
        api.create_builder(module)
    except RuntimeError as error:
        pytest.skip(str(error))
    return module


@pytest.fixture
def make_job(tmp_path: Path) -> Callable[..., BuildJob]:
    """Jobs for the small half graph; keyword arguments replace fields."""

    def make(content: bytes | None = None, stage: str = "mapping", precision: str = "fp16", **fields: Any) -> BuildJob:
        data = _half_graph().SerializeToString() if content is None else content
        graph = tmp_path / f"{hashlib.sha256(data).hexdigest()[:12]}.onnx"
        graph.write_bytes(data)
        values: dict[str, Any] = {
            "case": Case(stage, "tensorrt", precision, "native", 2),
            "precision": PRECISIONS[precision],
            "image_size": 256,
            "graph": graph,
            "input_shapes": (("x", (2, 3)),),
            "optimization_level": 0,
            "cache": tmp_path / "cache",
        }
        return BuildJob(**{**values, **fields})

    return make
