"""The last convolution as a node of the plugin: it reads half, and computes the picture in float32."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from plugin_operators import evaluate

from sadtrt_core.graph.edit import constants_to_initializers, element_types
from sadtrt_core.graph.export import export_stage
from sadtrt_core.graph.picture_conv import fuse_picture
from sadtrt_core.graph.typed import apply_precision, picture_slice
from sadtrt_core.precision import PRECISIONS
from sadtrt_core.renderer.renderer import Renderer
from sadtrt_core.renderer.stages import STAGES


@pytest.fixture(scope="module")
def decode(tiny: Renderer) -> onnx.ModelProto:
    model = export_stage(tiny, STAGES["decode"])
    constants_to_initializers(model)
    return model


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_the_picture_is_the_same(decode: onnx.ModelProto, tiny: Renderer) -> None:
    fused = copy_of(decode)
    assert fuse_picture(fused, picture_slice(fused)) == {"/decoder/conv_img/Conv/PictureConv"}
    assert kinds(fused)[-1] == "PictureConv"
    assert "Sigmoid" not in kinds(fused)
    (spec,) = STAGES["decode"].inputs(tiny.config)
    inputs = {spec.name: torch.randn(spec.batched(1), generator=torch.Generator().manual_seed(3)).numpy()}
    (expected,), (actual,) = evaluate(decode, inputs), evaluate(fused, inputs)
    assert np.abs(actual - expected).max() < 2e-6


def test_it_reads_half_and_nothing_is_cast_before_it(decode: onnx.ModelProto) -> None:
    typed = apply_precision(decode, PRECISIONS["fp16-mixed"], has_plugin=True)
    types = element_types(typed)
    (node,) = (node for node in typed.graph.node if node.op_type == "PictureConv")
    single = TensorProto.FLOAT
    assert [types[name] for name in (*node.input, *node.output)] == [TensorProto.FLOAT16, single, single, single]
    assert [value.name for value in typed.graph.output] == list(node.output)
    assert all(other.op_type != "Cast" for other in typed.graph.node if other.output[0] in node.input)


def test_a_picture_that_is_not_kept_in_float32_stays_a_convolution(decode: onnx.ModelProto) -> None:
    how = replace(PRECISIONS["fp16-mixed"], keep_picture=False)
    assert "PictureConv" not in kinds(apply_precision(decode, how, has_plugin=True))


def test_other_convolutions_stay(decode: onnx.ModelProto) -> None:
    strided = copy_of(decode)
    last = next(node for node in strided.graph.node if node.name == "/decoder/conv_img/Conv")
    next(item for item in last.attribute if item.name == "strides").ints[:] = [2, 2]
    names = {node.name for node in strided.graph.node}
    assert not fuse_picture(strided, names)
    without = copy_of(decode)
    next(node for node in without.graph.node if node.name == "/decoder/conv_img/Conv").input.pop()
    assert not fuse_picture(without, names)
