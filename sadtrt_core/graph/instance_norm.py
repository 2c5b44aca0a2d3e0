"""Instance norm as ordinary arithmetic, for runtimes whose own needs what is not there.

TensorRT 8.6 parses InstanceNormalization into a plugin that wants cuDNN. The parser flag that avoids it cannot be set
through bindings of 8.6.1 on a library of 8.6.0: the parser's virtual functions changed places between the two, and the
call ends the process.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from sadtrt_core.graph.edit import GraphBuilder, rewrite_nodes


def decompose_instance_norm(model: onnx.ModelProto) -> None:
    """Replace every InstanceNormalization of a typed graph (opset 17 or earlier), in place.

    (x - mean) / sqrt(variance + epsilon) over height and width, in float32 whatever the tensor's type, as runtimes
    compute their own. Raises ValueError for a norm with a scale or bias of its own, which the renderer does not have.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}

    def decompose(builder: GraphBuilder, node: onnx.NodeProto, types: dict[str, int]) -> None:
        scale, bias = (numpy_helper.to_array(weights[name]).astype(np.float32) for name in node.input[1:3])
        if (scale != 1).any() or bias.any():
            raise ValueError(f"node {node.name}: an instance norm with a scale or bias of its own is not supported")
        op, kind = builder.op, types[node.input[0]]
        epsilon = next((item.f for item in node.attribute if item.name == "epsilon"), 1e-5)
        low = kind != TensorProto.FLOAT
        x = op("Cast", node.input[0], to=TensorProto.FLOAT) if low else node.input[0]
        centred = op("Sub", x, op("ReduceMean", x, axes=[2, 3], keepdims=1))
        variance = op("ReduceMean", op("Mul", centred, centred), axes=[2, 3], keepdims=1)
        deviation = op("Sqrt", op("Add", variance, builder.constant(epsilon, TensorProto.FLOAT)))
        result = op("Div", centred, deviation, output=None if low else node.output[0])
        if low:
            op("Cast", result, output=node.output[0], to=kind)

    if any(node.op_type == "InstanceNormalization" for node in model.graph.node):
        rewrite_nodes(model, "InstanceNormalization", decompose)
