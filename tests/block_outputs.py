"""What each block of the generator makes, in a typed graph and in its simulation: the same tensors of both."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor

from sadtrt_core.graph.edit import FLOAT_TYPES, element_types

#: Decibels beyond which values are called the same.
CEILING = 90.0
#: What moves values about rounds nothing, and may lay them out otherwise in one of two graphs.
MOVING = frozenset({"Concat", "Pad", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})


def block_tensors(typed: onnx.ModelProto, simulated: onnx.ModelProto) -> dict[str, str]:
    """Block to the last float tensor of its scope that both graphs compute and a node reads, in the order of the graph.

    Scopes are those of the tensors' names: a residual sum bears its block's, whoever makes it.
    """
    types = element_types(typed)
    # What casts make is named by its number, which is another in the other graph.
    theirs = {name for node in simulated.graph.node for name in node.output if not name.startswith("/precision/")}
    read = {name for node in typed.graph.node for name in node.input}
    found: dict[str, str] = {}
    for node in (node for node in typed.graph.node if node.op_type not in MOVING):
        for name in node.output:
            if name in theirs and name in read and types[name] in FLOAT_TYPES and name[:1] == "/":
                block = "/".join(name.split("/")[:3])
                found.pop(block, None)
                found[block] = name
    return found


def output_of(block: str) -> str:
    """What `with_outputs` calls a block's output: a tensor of no module is a block of its own name."""
    return f"{block}/as an output"


def with_outputs(typed: onnx.ModelProto, blocks: Mapping[str, str]) -> onnx.ModelProto:
    """A copy that gives these tensors as float32 outputs as well, `output_of` their blocks."""
    model = onnx.ModelProto()
    model.CopyFrom(typed)
    for block, tensor in blocks.items():
        name = output_of(block)
        model.graph.node.append(helper.make_node("Cast", [tensor], [name], name=name, to=TensorProto.FLOAT))
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return model


def decibels(reference: Tensor, value: Tensor) -> float:
    """Signal to noise of `value`, at most CEILING; minus infinity where it is not finite."""
    reference, value = reference.double().cpu(), value.double().cpu()
    if not bool(value.isfinite().all()):
        return -math.inf
    noise = float((value - reference).square().sum())
    return min(CEILING, 10 * math.log10(float(reference.square().sum()) / max(noise, 1e-300)))


def first_parting(
    exact: Mapping[str, Tensor], types: Mapping[str, Tensor], engine: Mapping[str, Tensor], within: float = 1.0
) -> tuple[str | None, list[str]]:
    """The first block whose engine is `within` dB worse than its types, or None; and a line for every block.

    A block that an operator lays out otherwise, depth as batch, is no reason.
    """
    lines, parted = [], None
    for block, reference in exact.items():
        if engine[block].shape != reference.shape:
            lines.append(f"{block}: laid out as {list(engine[block].shape)}, not compared")
            continue
        by_types, by_engine = decibels(reference, types[block]), decibels(reference, engine[block])
        lines.append(f"{block}: types {by_types:.1f} dB, engine {by_engine:.1f} dB")
        if parted is None and by_engine < by_types - within:
            parted = block
    return parted, lines


def kernels_of(layers: list[object], block: str) -> list[str]:
    """The kernels of the layers that make a tensor of this block, from an inspector's JSON."""
    found = []
    for layer in layers:
        if isinstance(layer, dict) and any(block in str(made.get("Name")) for made in layer.get("Outputs", [])):
            found.append(f"{layer.get('Name')} ({layer.get('TacticName') or layer.get('LayerType')})")
    return found


def seen_by(blocks: Mapping[str, str], see: dict[str, Tensor]) -> object:
    """A function for run_graph that keeps what these blocks' tensors hold in `see`."""
    block_of = {tensor: block for block, tensor in blocks.items()}

    def keep(name: str, value: Tensor) -> None:
        if name in block_of:
            see[block_of[name]] = value.detach().float().clone()

    return torch.no_grad()(keep)
