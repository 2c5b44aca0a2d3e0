"""A graph for one batch size computes what the dynamic one does, with no shape arithmetic left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from sadtrt_core.graph.export import typed_graph
from sadtrt_core.graph.fixed_shapes import fix_shapes
from sadtrt_core.precision import PRECISIONS
from sadtrt_core.renderer.renderer import Renderer
from sadtrt_core.renderer.stages import STAGES


def run(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    return list(onnxruntime.InferenceSession(model.SerializeToString()).run(None, inputs))


@pytest.mark.parametrize("stage", ["mapping", "motion", "warp"])
@pytest.mark.parametrize("batch", [1, 2])
def test_the_fixed_graph_computes_the_same(stage: str, batch: int, seeded_demo: Renderer, tmp_path: Path) -> None:
    row = STAGES[stage]
    dynamic = onnx.load_from_string(typed_graph(seeded_demo, row, PRECISIONS["fp32"], "native", tmp_path))
    shapes = {spec.name: spec.batched(batch) for spec in row.inputs(seeded_demo.config)}
    fixed = onnx.ModelProto()
    fixed.CopyFrom(dynamic)
    fix_shapes(fixed, shapes)
    onnx.checker.check_model(fixed)
    assert not {"Shape", "ConstantOfShape", "Range"} & {node.op_type for node in fixed.graph.node}
    generator = np.random.default_rng(0)
    inputs = {name: generator.random(shape, dtype=np.float32) - 0.5 for name, shape in shapes.items()}
    for one, other in zip(run(dynamic, inputs), run(fixed, inputs), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_the_padding_of_a_pad_becomes_a_constant(seeded_demo: Renderer, tmp_path: Path) -> None:
    row = STAGES["motion"]
    model = onnx.load_from_string(typed_graph(seeded_demo, row, PRECISIONS["fp16"], "plugin", tmp_path))
    fix_shapes(model, {spec.name: spec.batched(1) for spec in row.inputs(seeded_demo.config)})
    constants = {tensor.name for tensor in model.graph.initializer}
    pads = [node for node in model.graph.node if node.op_type == "Pad"]
    assert pads
    assert all(node.input[1] in constants for node in pads)
