"""Networks for 8.6 of a quantised graph: without casts, with them as roundings where no int8 is, with all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx
from onnx import TensorProto, helper

from sadtrt_core.engine.quantised import free_tensors, without_casts
from sadtrt_core.graph.edit import FLOAT_TYPES, element_types, replace_nodes

_FENCE = "Fence"
Network = Callable[[onnx.ModelProto, Mapping[str, "int | None"]], tuple[onnx.ModelProto, dict[str, "int | None"]]]


def with_fences(
    model: onnx.ModelProto, declared: Mapping[str, int | None]
) -> tuple[onnx.ModelProto, dict[str, int | None]]:
    """What `without_casts` gives, but where types meet away from the quantised convolutions two casts stand.

    To half and back to float32: the network stays one of float32, values are those of the typed graph, and the builder
    cannot move a type across, as layer precisions alone may let it.
    """
    types, free = element_types(model), free_tensors(model)
    outputs = {value.name for value in model.graph.output}
    quantised = {node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    marked = onnx.ModelProto()
    marked.CopyFrom(model)
    for node in marked.graph.node:
        if node.op_type != "Cast" or {types[node.input[0]], types[node.output[0]]} - FLOAT_TYPES:
            continue
        # A cast before a quantisation, or behind a quantised convolution, would keep the builder from fusing them.
        if node.input[0] not in free and node.output[0] not in quantised | outputs:
            node.op_type = _FENCE
            del node.attribute[:]
    plain, wanted = without_casts(marked, declared)
    nodes: list[onnx.NodeProto] = []
    for node in plain.graph.node:
        if node.op_type != _FENCE:
            nodes.append(node)
            continue
        low = f"{node.output[0]}_fence"
        nodes.append(
            helper.make_node("Cast", list(node.input), [low], name=f"{node.name}/fence", to=TensorProto.FLOAT16)
        )
        nodes.append(helper.make_node("Cast", [low], list(node.output), name=node.name, to=TensorProto.FLOAT))
    replace_nodes(plain, nodes)
    return plain, wanted


def as_typed(
    model: onnx.ModelProto, declared: Mapping[str, int | None]
) -> tuple[onnx.ModelProto, dict[str, int | None]]:
    """The graph as it is: the builder has to fuse across the casts around an eight-bit convolution, or run them."""
    return model, dict(declared)


#: How 8.6 is given a quantised graph, by what becomes of its casts; the first is how it is shipped.
NETWORKS: dict[str, Network] = {"none": without_casts, "fences": with_fences, "kept": as_typed}
