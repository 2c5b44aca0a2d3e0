"""TensorRT 8.6's layer precisions, against a network of stand-in layers: the builder itself needs a GPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from sadtrt_core.engine.constraints import (
    Pinned,
    arithmetic_types,
    constrain_layers,
    has_low_precision,
    kept_names,
    kept_sentence,
    layer_types,
)

MakeGraph = Callable[..., onnx.ModelProto]
TRT = SimpleNamespace(float32="float32", float16="float16", int8="int8")


class Layer:
    """What the pass reads and sets of an ILayer."""

    def __init__(self, kind: str, output: str, dtype: str = "float32", inputs: tuple[str, ...] = ("float32",)) -> None:
        self.name = f"layer {output}"
        self.type = SimpleNamespace(name=kind)
        self.num_outputs, self.num_inputs = 1, len(inputs)
        self.precision: str | None = None
        self.output_types: dict[int, str] = {}
        self._output = SimpleNamespace(name=output, dtype=dtype)
        self._inputs = [SimpleNamespace(dtype=kind) for kind in inputs]

    def get_output(self, index: int) -> Any:
        return self._output

    def get_input(self, index: int) -> Any:
        return self._inputs[index]

    def set_output_type(self, index: int, kind: str) -> None:
        self.output_types[index] = kind


def network(*layers: Layer) -> Any:
    return SimpleNamespace(num_layers=len(layers), get_layer=lambda index: layers[index])


def mixed_graph() -> onnx.ModelProto:
    """Half arithmetic, then a comparison and a select kept in float32."""
    nodes = [
        helper.make_node("Cast", ["x"], ["x_half"], name="to_half", to=TensorProto.FLOAT16),
        helper.make_node("Sigmoid", ["x_half"], ["squashed"], name="squash"),
        helper.make_node("Cast", ["squashed"], ["wide"], name="widen", to=TensorProto.FLOAT),
        helper.make_node("Softmax", ["wide"], ["mask"], name="softmax"),
        helper.make_node("Less", ["mask", "floor"], ["low"], name="less"),
        helper.make_node("Where", ["low", "zero", "mask"], ["y"], name="where"),
        helper.make_node("Shape", ["mask"], ["shape"], name="shape"),
    ]
    graph = helper.make_graph(
        nodes,
        "mixed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor(name, TensorProto.FLOAT, [1], [0.0]) for name in ("floor", "zero")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_types_are_those_a_node_computes_in() -> None:
    types = arithmetic_types(mixed_graph())
    assert types["squashed"] == TensorProto.FLOAT16
    assert types["mask"] == TensorProto.FLOAT
    assert types["low"] == TensorProto.FLOAT, "a comparison computes in the type of what it compares"
    assert types["shape"] is None


def test_kept_tensors_are_the_inner_float32_ones(half_graph: MakeGraph) -> None:
    assert kept_names(mixed_graph()) == {"mask"}
    assert kept_names(half_graph()) == frozenset()
    assert has_low_precision(half_graph())


def test_what_a_quantized_convolution_makes_is_half_and_its_precision_free() -> None:
    layers = [Layer("CONVOLUTION", "sum"), Layer("CAST", "rounded", "float16"), Layer("CONVOLUTION", "other")]
    constrain_layers(TRT, network(*layers), {"sum": None, "rounded": None, "other": None}, "every layer", {"sum"})
    assert [layer.output_types for layer in layers] == [{0: "float16"}, {}, {}]
    assert {layer.precision for layer in layers} == {None}
    again = Layer("CONVOLUTION", "sum")
    constrain_layers(TRT, network(again), {"sum": None}, "float32 layers", {"sum"})
    assert again.output_types == {}


def test_layers_get_their_tensors_types_and_helpers_that_of_the_next() -> None:
    helper_layer = Layer("SHUFFLE", "(Unnamed Layer* 1) [Shuffle]_output")
    layers = (
        Layer("CAST", "x_half", "float16"),
        Layer("ACTIVATION", "squashed"),
        Layer("CAST", "wide"),
        helper_layer,
        Layer("SOFTMAX", "mask"),
        Layer("CONSTANT", "(Unnamed Layer* 5) [Constant]_output"),
        Layer("ELEMENTWISE", "low", "bool"),
        Layer("SELECT", "y", inputs=("bool", "float32", "float32")),
        Layer("SHAPE", "shape", "int32"),
    )
    pinned = constrain_layers(TRT, network(*layers), arithmetic_types(mixed_graph()), "every layer")
    precisions = {layer._output.name: layer.precision for layer in layers if layer.precision is not None}
    assert precisions == {
        "squashed": "float16",
        helper_layer._output.name: "float32",
        "mask": "float32",
        "(Unnamed Layer* 5) [Constant]_output": "float32",
        "low": "float32",
        "y": "float32",
    }
    assert pinned == 6
    assert layers[1].output_types == {0: "float16"}
    assert layers[6].output_types == {}, "a truth value has no float type"


def test_a_float32_constant_of_a_float32_layer_may_not_become_half() -> None:
    grid = Layer("CONSTANT", "(Unnamed Layer* 0) [Constant]_output", inputs=())
    weights = Layer("CONSTANT", "(Unnamed Layer* 2) [Constant]_output", "float16", inputs=())
    indices = Layer("CONSTANT", "(Unnamed Layer* 3) [Constant]_output", "int32", inputs=())
    layers = (grid, Layer("SOFTMAX", "mask"), weights, indices, Layer("ACTIVATION", "squashed"))
    constrain_layers(TRT, network(*layers), arithmetic_types(mixed_graph()), "every layer")
    assert (grid.precision, grid.output_types) == ("float32", {0: "float32"})
    assert weights.precision is None
    assert indices.precision is None


def test_integer_helpers_are_left_alone() -> None:
    index = Layer("ELEMENTWISE", "unnamed", "int32", inputs=("int32", "int32"))
    gather = Layer("GATHER", "squashed", inputs=("float16", "int32"))
    constrain_layers(TRT, network(index, gather), arithmetic_types(mixed_graph()), "every layer")
    assert index.precision is None
    assert gather.precision == "float16"


def test_a_plugin_keeps_its_own_input_types() -> None:
    sampler = Layer("PLUGIN_V2", "squashed", "float16", inputs=("float16", "float32"))
    constrain_layers(TRT, network(sampler), arithmetic_types(mixed_graph()), "every layer")
    assert sampler.precision is None
    assert sampler.output_types == {0: "float16"}


@pytest.mark.parametrize("pinned", ["every layer", "float32 layers"])
def test_a_norm_that_writes_eight_bits_is_told_so(pinned: Pinned) -> None:
    half = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT16, [1, 32, 4, 4]) for name in ("x", "m", "sum")}
    norm = helper.make_node("SpadeNormAddInt8", ["x", "x", "m"], ["sum", "y"], name="norm")
    y = helper.make_tensor_value_info("y", TensorProto.INT8, [1, 32, 4, 4])
    graph = helper.make_graph([norm], "norm", [half["x"], half["m"]], [half["sum"], y])
    types = layer_types(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    before, after = Layer("SHUFFLE", "moved", "float16"), Layer("SHUFFLE", "sum", "float16")
    layer = Layer("PLUGIN_V2", "y", inputs=("float16", "float16"))
    constrain_layers(TRT, network(before, layer, after), types, pinned)
    assert layer.output_types == {0: "int8"}, "though the layers around it are half, and the parser calls it float"
    assert before.output_types == after.output_types == ({0: "float16"} if pinned == "every layer" else {})


def test_the_looser_way_pins_the_float32_layers_alone() -> None:
    layers = (Layer("ACTIVATION", "squashed"), Layer("SOFTMAX", "mask"))
    assert constrain_layers(TRT, network(*layers), arithmetic_types(mixed_graph()), "float32 layers") == 1
    assert layers[0].precision is None
    assert layers[1].precision == "float32"


def test_bfloat16_is_no_layer_precision() -> None:
    with pytest.raises(ValueError, match="BFLOAT16 cannot be a layer precision"):
        constrain_layers(TRT, network(Layer("ACTIVATION", "a")), {"a": TensorProto.BFLOAT16}, "every layer")


def inspected(layers: list[dict[str, Any]]) -> Any:
    """A TensorRT whose inspector answers with these layers."""
    inspector = SimpleNamespace(get_engine_information=lambda form: json.dumps({"Layers": layers}))
    engine = SimpleNamespace(create_engine_inspector=lambda: inspector)
    module: Any = ModuleType("tensorrt")
    module.ILogger = type("ILogger", (), {"__init__": lambda self: None, "WARNING": 2})
    module.Runtime = lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda plan: engine)
    module.LayerInformationFormat = SimpleNamespace(JSON=1)
    return module


def test_kept_tensors_that_ended_in_half_are_counted_and_named() -> None:
    layers = [
        {"Name": "a", "Outputs": [{"Name": "mask", "Format/Datatype": "Row major linear FP32"}]},
        {"Name": "b", "Outputs": [{"Name": "sum", "Format/Datatype": "Channel major FP16 format where C % 8 == 0"}]},
        {"Name": "c", "Outputs": [{"Name": "other", "Format/Datatype": "Row major linear FP16 format"}]},
    ]
    found = kept_sentence(inspected(layers), b"plan", frozenset({"mask", "sum", "fused away"}))
    assert found == "of 3 tensors kept in float32 the engine shows 2, 1 in half (sum)"


def test_an_inspector_that_answers_with_raw_control_characters_is_read() -> None:
    """8.6 puts the separators between the layers it fused into its JSON as they are."""
    answer = '{"Layers": [{"Name": "a\x1eb", "Outputs": [{"Name": "mask", "Format/Datatype": "Row major FP32"}]}]}'
    inspector = SimpleNamespace(get_engine_information=lambda form: answer)
    trt = inspected([])
    engine = SimpleNamespace(create_engine_inspector=lambda: inspector)
    trt.Runtime = lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda plan: engine)
    found = kept_sentence(trt, b"plan", frozenset({"mask"}))
    assert found == "of 1 tensors kept in float32 the engine shows 1, 0 in half"


def test_an_engine_that_cannot_be_inspected_is_said() -> None:
    trt = inspected([])
    trt.Runtime = lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda plan: None)
    found = kept_sentence(trt, b"plan", frozenset({"mask"}))
    assert found.endswith("could not be read back: the engine that was just built cannot be loaded")
