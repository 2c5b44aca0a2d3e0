"""TensorRT 8.6: the types of a typed graph as layer precisions that the builder must obey.

Later generations read the types from the graph. Here the parsed network is walked in order: a layer whose output bears
the name of a tensor of the graph gets that tensor's type, a layer that the parser added takes the type of the next one
that is known."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, Literal

import onnx
from onnx import TensorProto

from sadtrt_core.engine.tensorrt_api import create_runtime
from sadtrt_core.graph.edit import FLOAT_TYPES, GraphIndex, element_types
from sadtrt_core.graph.plugin_nodes import INT8_NORMS

#: Which layers are pinned: all of them, or those the graph keeps in float32 alone.
Pinned = Literal["every layer", "float32 layers"]
#: Layers whose type is fixed by what they are.
_UNTYPED_LAYERS = ("SHAPE", "CAST", "QUANTIZE", "DEQUANTIZE", "ASSERTION")
#: Plugins say themselves which types each of their inputs has (float32 coordinates beside half features).
_PLUGIN_LAYERS = ("PLUGIN", "PLUGIN_V2", "PLUGIN_V3")


def arithmetic_types(model: onnx.ModelProto) -> dict[str, int | None]:
    """For each tensor a node makes, the ONNX float type the node computes in; None for integer and shape arithmetic.

    A comparison computes in the type of what it compares.
    """
    types = element_types(model)
    found: dict[str, int | None] = {}
    for node in model.graph.node:
        for name in node.output:
            kinds = [types[name], *(types[source] for source in node.input if source in types)]
            is_shape = node.op_type in ("Shape", "Size")
            found[name] = None if is_shape else next((kind for kind in kinds if kind in FLOAT_TYPES), None)
    return found


def kept_names(model: onnx.ModelProto) -> frozenset[str]:
    """Names of the inner tensors that a typed graph computes in float32; casts and the graph's outputs not counted."""
    types = element_types(model)
    outputs = {value.name for value in model.graph.output}
    made = {name for node in model.graph.node if node.op_type != "Cast" for name in node.output}
    return frozenset(name for name in made - outputs - free_tensors(model) if types[name] == TensorProto.FLOAT)


def has_low_precision(model: onnx.ModelProto) -> bool:
    """Whether any tensor of the graph is half or bfloat16."""
    return any(kind in FLOAT_TYPES and kind != TensorProto.FLOAT for kind in element_types(model).values())


def layer_types(model: onnx.ModelProto) -> dict[str, int | None]:
    """The types for `constrain_layers`: those of the arithmetic, None for what a quantized graph leaves free, and INT8
    for what a norm writes in eight bits.
    """
    norms = [node for node in model.graph.node if node.op_type in INT8_NORMS.values()]
    in_int8 = dict.fromkeys((node.output[-1] for node in norms), TensorProto.INT8)
    return arithmetic_types(model) | dict.fromkeys(free_tensors(model)) | in_int8


def constrain_layers(
    trt: Any, network: Any, types: Mapping[str, int | None], pinned: Pinned, in_half: Collection[str] = ()
) -> int:
    """Set precision and output types of a parsed network's layers, in place; returns how many layers were pinned.

    `types` comes from `layer_types`, `in_half` from `half_results`: these are left their precision, their output alone
    is half, unless only float32 layers are pinned. Raises ValueError for a type that 8.6 cannot compute in.
    """
    wanted: dict[int, int | None] = {}
    following: int | None = None
    for index in reversed(range(network.num_layers)):
        layer = network.get_layer(index)
        outputs = [layer.get_output(i).name for i in range(layer.num_outputs)]
        known = [types[name] for name in outputs if name in types and types[name] != TensorProto.INT8]
        if known:
            following = known[0]
        wanted[index] = following
    for index in range(network.num_layers) if pinned == "every layer" else ():
        layer = network.get_layer(index)
        if layer.type.name == "CONVOLUTION" and layer.get_output(0).name in in_half:
            layer.set_output_type(0, trt.float16)
    count = sum(_pin(trt, network.get_layer(index), kind, pinned) for index, kind in wanted.items() if kind is not None)
    # Whatever else is pinned: 8.6 takes the output of a plugin for float, and finds no format for one that is int8.
    for layer in map(network.get_layer, range(network.num_layers)):
        for i in range(layer.num_outputs):
            if types.get(layer.get_output(i).name) == TensorProto.INT8:
                layer.set_output_type(i, trt.int8)
    return count


def _pin(trt: Any, layer: Any, kind: int, pinned: Pinned) -> bool:
    if kind not in (TensorProto.FLOAT, TensorProto.FLOAT16):
        raise ValueError(f"layer {layer.name}: {TensorProto.DataType.Name(kind)} cannot be a layer precision here")
    if pinned == "float32 layers" and kind != TensorProto.FLOAT:
        return False
    if layer.type.name in _UNTYPED_LAYERS:
        return False
    target = trt.float32 if kind == TensorProto.FLOAT else trt.float16
    floats = (trt.float32, trt.float16)
    outputs = [i for i in range(layer.num_outputs) if layer.get_output(i).dtype in floats]
    inputs = [layer.get_input(i) for i in range(layer.num_inputs)]
    reads_floats = any(tensor is not None and tensor.dtype in floats for tensor in inputs)
    if not outputs and not reads_floats:
        return False  # Indices, shapes and truth values.
    if layer.type.name == "CONSTANT" and (kind != TensorProto.FLOAT or layer.get_output(0).dtype != target):
        return False  # Half weights are half. Float ones, the coordinate grid say, would be free to become half.
    if not outputs and kind != TensorProto.FLOAT:
        return False  # A comparison rounds nothing: what it compares is pinned already.
    if layer.type.name not in _PLUGIN_LAYERS:
        layer.precision = target
    for i in outputs:
        layer.set_output_type(i, target)
    return True


def kept_sentence(trt: Any, plan: bytes, kept: frozenset[str]) -> str:
    """How many of the tensors that a mixed graph keeps in float32 the engine that was just built has in half.

    `kept` comes from `kept_names`. Those that are no output of any layer any more were fused away. Where
    the engine cannot be inspected the sentence says why.
    """
    unread = "the types of the engine's layers could not be read back"
    try:
        engine = create_runtime(trt).deserialize_cuda_engine(plan)
        if engine is None:
            return f"{unread}: the engine that was just built cannot be loaded"
        text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
        layers = json.loads(text, strict=False).get("Layers", [])  # 8.6 leaves control characters in names.
    except (RuntimeError, json.JSONDecodeError) as error:
        return f"{unread}: {error}"
    shown: dict[str, bool] = {}
    for layer in layers:
        if not isinstance(layer, dict):
            continue  # Names alone: the engine was built without detailed verbosity.
        for output in layer.get("Outputs", []):
            name = output.get("Name")
            if name in kept:
                kind = " ".join(str(value) for key, value in output.items() if key != "Name")
                shown[name] = "FP16" in kind or "Half" in kind
    in_half = sorted(name for name, half in shown.items() if half)
    text = f"of {len(kept)} tensors kept in float32 the engine shows {len(shown)}, {len(in_half)} in half"
    return f"{text} ({', '.join(in_half[:3])})" if in_half else text


# The graph says that a quantized convolution reads and makes float32, the type of its scales. 8.6 fuses it with the
# pairs before its operands, and with an activation and the QuantizeLinear behind it, into one kernel that reads int8
# and may write int8 or half at once. A layer precision of float32, obeyed, would ask for a convolution of float
# operands between layers that quantize and dequantize. Everything else is pinned as in any typed graph.
_PAIR = frozenset({"QuantizeLinear", "DequantizeLinear"})
#: What the builder fuses into a convolution before it quantizes the result.
_ACTIVATIONS = frozenset({"Relu", "LeakyRelu"})


def is_quantized(model: onnx.ModelProto) -> bool:
    """Whether any tensor of the graph is quantized."""
    return any(node.op_type in _PAIR for node in model.graph.node)


def half_results(model: onnx.ModelProto) -> frozenset[str]:
    """Names of what quantized convolutions make that nothing reads but casts to half: the epilogue may round it."""
    types, graph = element_types(model), GraphIndex(model)

    def is_quantized_convolution(node: onnx.NodeProto) -> bool:
        return node.op_type == "Conv" and graph.makers.get(node.input[0], node).op_type == "DequantizeLinear"

    return frozenset(
        node.output[0]
        for node in model.graph.node
        if is_quantized_convolution(node)
        and (after := graph.readers.get(node.output[0]))
        and all(one.op_type == "Cast" and types[one.output[0]] == TensorProto.FLOAT16 for one in after)
    )


def free_tensors(model: onnx.ModelProto) -> frozenset[str]:
    """Names of the tensors whose type belongs to the builder: what quantized convolutions and their fusions make.

    Those are quantized and dequantized values, the convolutions' results, and an activation between a convolution and
    the next quantization. Casts in between count as one with what they read.
    """
    readers = GraphIndex(model).readers

    def behind_casts(name: str) -> list[onnx.NodeProto]:
        found: list[onnx.NodeProto] = []
        for reader in readers.get(name, ()):
            found += behind_casts(reader.output[0]) if reader.op_type == "Cast" else [reader]
        return found

    free = {name for node in model.graph.node if node.op_type in _PAIR for name in node.output}
    for made in [node.output[0] for node in model.graph.node if node.op_type == "Conv" and node.input[0] in free]:
        free.add(made)
        for reader in behind_casts(made):
            quantized = any(after.op_type == "QuantizeLinear" for after in behind_casts(reader.output[0]))
            if reader.op_type in _ACTIVATIONS and quantized:
                free.add(reader.output[0])
    return frozenset(free)
