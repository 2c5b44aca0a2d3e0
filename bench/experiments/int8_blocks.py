"""Where in the decoder an engine leaves what its types say: its blocks' results shown as outputs of their own."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor

from sadtrt_core.graph.edit import GraphBuilder, element_types, replace_nodes

_BLOCK = re.compile(r"(/decoder/(?:G_middle_\d+|up_\d+))/Add(?:_\d+)?")
#: What comes before the blocks, and the first convolution of the first block, which is quantised alone or first.
_CONVOLUTIONS = frozenset({"/decoder/fc/Conv", "/decoder/G_middle_0/conv_0/Conv"})


def block_tensors(model: onnx.ModelProto) -> dict[str, str]:
    """The decoder's first convolution and its residual blocks, in order: the name, and the tensor that it makes.

    Before the first block comes the first convolution within it.
    """
    found: dict[str, str] = {}
    for node in model.graph.node:
        match = _BLOCK.fullmatch(node.name)
        if node.name in _CONVOLUTIONS:
            found[node.name.removesuffix("/Conv")] = node.output[0]
        elif match:
            found[match.group(1)] = node.output[0]  # The last sum of a block is its result.
    return found


def output_name(block: str) -> str:
    """What the output is called that shows a block."""
    return f"shown{block.replace('/', '_')}"


def show_blocks(model: onnx.ModelProto) -> None:
    """Add an output in float32 for each of `block_tensors` to a typed graph, in place.

    Multiplied by one in float32: an output that is a cast alone would be of the type of what is shown.
    """
    types = element_types(model)
    nodes = list(model.graph.node)
    for block, tensor in block_tensors(model).items():
        builder = GraphBuilder(f"{block}/shown")
        value = tensor if types[tensor] == TensorProto.FLOAT else builder.op("Cast", tensor, to=TensorProto.FLOAT)
        builder.op("Mul", value, builder.constant(np.float32(1), TensorProto.FLOAT), output=output_name(block))
        nodes.extend(builder.nodes)
        model.graph.initializer.extend(builder.initializers)
        model.graph.output.append(helper.make_tensor_value_info(output_name(block), TensorProto.FLOAT, [None] * 4))
    replace_nodes(model, nodes)


def signal_to_noise_db(reference: Tensor, found: Tensor) -> float:
    """10 log10 of the reference's power over the difference's; infinite where nothing differs."""
    signal, noise = (float(torch.sum(value.double() ** 2)) for value in (reference, found - reference))
    return 10 * math.log10(signal / noise) if noise and signal else math.inf


def block_lines(engine: Mapping[str, float], simulated: Mapping[str, float]) -> list[str]:
    """Signal over noise of each block for people: the engine's, and that of the types alone."""
    parts = [f"{block.removeprefix('/decoder/')} {engine[block]:.1f} ({simulated[block]:.1f})" for block in engine]
    return [f"signal over noise of blocks in dB, by the types alone in brackets: {', '.join(parts)}"]
