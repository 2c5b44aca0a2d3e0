"""Which tensors of a quantized graph get no type as a layer precision from us: TensorRT 8.6 chooses those.

The graph says that a quantized convolution reads and makes float32, the type of its scales. 8.6 fuses it with the pairs
before its operands, and with an activation and the QuantizeLinear behind it, into one kernel that reads int8 and may
write int8 or half at once. A layer precision of float32, obeyed, would ask for a convolution of float operands between
layers that quantize and dequantize. Everything else is pinned as in any typed graph (engine/constraints.py).
"""

from __future__ import annotations

import onnx

_PAIR = frozenset({"QuantizeLinear", "DequantizeLinear"})
#: What the builder fuses into a convolution before it quantizes the result.
_ACTIVATIONS = frozenset({"Relu", "LeakyRelu"})


def is_quantized(model: onnx.ModelProto) -> bool:
    """Whether any tensor of the graph is quantized."""
    return any(node.op_type in _PAIR for node in model.graph.node)


def free_tensors(model: onnx.ModelProto) -> frozenset[str]:
    """Names of the tensors whose type belongs to the builder: what quantized convolutions and their fusions make.

    Those are quantized and dequantized values, the convolutions' results, and an activation between a convolution and
    the next quantization. Casts in between count as one with what they read.
    """
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def behind_casts(name: str) -> list[tuple[str, onnx.NodeProto]]:
        found: list[tuple[str, onnx.NodeProto]] = []
        for reader in readers.get(name, ()):
            found += behind_casts(reader.output[0]) if reader.op_type == "Cast" else [(reader.op_type, reader)]
        return found

    free = {name for node in model.graph.node if node.op_type in _PAIR for name in node.output}
    for made in [node.output[0] for node in model.graph.node if node.op_type == "Conv" and node.input[0] in free]:
        free.add(made)
        for kind, reader in behind_casts(made):
            if kind in _ACTIVATIONS and any(after == "QuantizeLinear" for after, _ in behind_casts(reader.output[0])):
                free.add(reader.output[0])
    return frozenset(free)
