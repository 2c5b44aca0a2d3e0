"""A typed graph for runtimes without half arithmetic: fp32 operators with explicit rounding after each.

ONNX Runtime's CPU provider computes half operators in float and drops the casts between neighbours, so that
(0.3 + 2048) - 2048 comes out as 0.30 where half arithmetic gives 0: it would report less drift than there is. Here
every rounding is a pair of casts in the graph, which ONNX Runtime keeps because it loses precision. The arithmetic of
one operator stays fp32, as PyTorch's half convolutions sum. Tensor cores can sum in half as well (graph/split_k.py):
what that costs is no rounding of a tensor and is not shown here.
"""

from __future__ import annotations

from copy import deepcopy

import onnx
import onnxruntime
import torch
from onnx import TensorProto, numpy_helper

from sadtrt_core.graph.edit import FLOAT_TYPES, GraphBuilder, element_types, replace_nodes

_LOW = FLOAT_TYPES - {TensorProto.FLOAT}
#: Operators that move or choose values without computing new ones: what was rounded stays so.
# fmt: off
EXACT = frozenset({
    "Reshape", "Transpose", "Concat", "Slice", "Gather", "Unsqueeze", "Squeeze", "Pad",
    "Split", "Expand", "Relu", "Identity", "Where", "Flatten", "Resize", "Max",
    "Min", "Floor", "Abs", "Neg",
})
# fmt: on


def explicit_rounding(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every tensor of half or bfloat16 is float32 that holds exactly the rounded values.

    Graphs of one type are returned as they are. Raises ValueError where a custom node is left.
    """
    types = element_types(model)
    if not _LOW & set(types.values()):
        return model
    rounded = deepcopy(model)
    for tensor in rounded.graph.initializer:
        if tensor.data_type in _LOW:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype("float32"), tensor.name))
    builder = GraphBuilder("/rounding")

    def rounding(value: str, output: str, kind: int) -> None:
        builder.op("Cast", builder.op("Cast", value, to=kind), to=TensorProto.FLOAT, output=output)

    for node in rounded.graph.node:
        target = types[node.output[0]]
        low = target in _LOW
        if node.op_type == "Cast" and target in FLOAT_TYPES and types[node.input[0]] in FLOAT_TYPES:
            if low:
                rounding(node.input[0], node.output[0], target)
            else:
                same = onnx.helper.make_node("Identity", list(node.input), list(node.output), name=node.name)
                builder.nodes.append(same)
            continue
        builder.nodes.append(node)
        if node.op_type == "Cast" and low:
            node.attribute[0].i = TensorProto.FLOAT
        if not low or node.op_type in EXACT:
            continue
        for position, name in enumerate(list(node.output)):
            node.output[position] = f"{name}_unrounded"
            rounding(node.output[position], name, target)
    replace_nodes(rounded, builder.nodes)
    return rounded


def session_options(model: onnx.ModelProto) -> onnxruntime.SessionOptions:
    """Options for a session of this graph, with as many threads as PyTorch uses.

    Quantized operands and their convolution are left apart: fused, they would be computed by integer kernels that
    saturate on some processors, and rounded once more.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    if any(tensor.data_type == TensorProto.FLOAT8E4M3FN for tensor in model.graph.initializer):
        # Higher levels change what a graph with eight-bit floats computes: PyTorch agrees with this one.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return options


def cpu_session(model: onnx.ModelProto, spinning: bool = True) -> onnxruntime.InferenceSession:
    """A session of the CPU provider. Threads that spin while they wait slow down whoever shares the cores."""
    options = session_options(model)
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
