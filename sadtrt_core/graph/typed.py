"""A precision applied to an fp32 ONNX graph: the result carries its own types.

TensorRT 10 and later build such a graph strongly typed, 8.6 gets the same types as layer precisions it must obey. The
graph's inputs and outputs stay float32.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from fnmatch import fnmatchcase

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sadtrt_core.errors import UserError
from sadtrt_core.graph.dense_motion import fuse_dense_motion
from sadtrt_core.graph.edit import (
    FLOAT_TYPES,
    GraphBuilder,
    constants_to_initializers,
    drop_unused,
    element_types,
    replace_nodes,
)
from sadtrt_core.graph.fold_depth import fold_depth, tensor_shapes
from sadtrt_core.graph.picture_conv import fuse_picture
from sadtrt_core.graph.plugin_nodes import COORDINATE_INPUTS, FLOAT32_INPUTS, FLOAT32_OUTPUTS
from sadtrt_core.graph.quantize import CONVOLUTION, Calibration, quantize_convolutions, quantize_in_norms
from sadtrt_core.graph.spade_norm import fuse_spade_norms
from sadtrt_core.graph.split_k import split_long_sums
from sadtrt_core.graph.split_sum import fuse_split_sums
from sadtrt_core.graph.upsampled import convolve_before_upsampling
from sadtrt_core.precision import COORDINATES, Precision
from sadtrt_core.renderer.sampling import NODE_TYPE

ONNX_TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
#: Outputs that are coordinates themselves, and grids for whatever samples with them next.
_COORDINATE_OUTPUTS = frozenset({"deformation", "kp_canonical", "keypoints"})
_PICTURE_OUTPUTS = frozenset({"prediction"})
#: Inputs that are float32 whatever the data's type is: the region of interest and scales of Resize, because ONNX wants
#: that, and some of the plugin's nodes.
_ALWAYS_FLOAT32 = {"Resize": frozenset({1, 2})} | FLOAT32_INPUTS


def apply_precision(
    model: onnx.ModelProto,
    precision: Precision,
    calibration: Calibration | None = None,
    has_plugin: bool = False,
) -> onnx.ModelProto:
    """A typed copy of an fp32 graph whose volume samplers are still GridSample3D nodes.

    `has_plugin`: whatever runs the graph knows the operators of the plugin library, so that they take the place of what
    they compute, where the precision has them.

    Casts are inserted where types meet, weights are stored in the type that reads them. A sampler's grid keeps fp32
    where the precision keeps coordinates. A quantized convolution and the nodes that quantize its operands are fp32,
    the type of its sums and scales. Raises UserError where a convolution is to be quantized without a range.
    """
    typed = deepcopy(model)
    constants_to_initializers(typed)
    fused = precision.operators and has_plugin
    if fused:
        # First, because these want shapes, which end at the nodes that the others make.
        shapes = tensor_shapes(typed)
        fold_depth(typed)
        fuse_dense_motion(typed)
    kept = kept_nodes(typed, precision)
    chosen = quantized_nodes(typed, precision)
    if fused:
        convolve_before_upsampling(typed, shapes, excluded=chosen, kept=kept)
        kept = fuse_split_sums(typed, kept)
        kept |= fuse_spade_norms(typed, kept, chosen)
        fuse_picture(typed, kept)
        chosen &= {node.name for node in typed.graph.node}
    if precision.quantize is not None and chosen:
        if calibration is None:
            raise UserError(
                f"precision {precision.name!r} quantizes {len(chosen)} convolutions here and needs their ranges: "
                "give a calibration of these weights"
            )
        kept |= chosen | quantize_convolutions(typed, chosen, calibration, precision.quantize.type)
    if precision.split_k:
        # Sums of fp32 convolutions are float, those of eight bits integers.
        split_long_sums(typed, excluded=kept, operators=fused)
    if precision.half_coordinates:
        for node in typed.graph.node:
            if node.op_type == NODE_TYPE:
                node.attribute.append(helper.make_attribute("half_coordinates", 1))
    low = ONNX_TYPES[precision.compute]
    if low != TensorProto.FLOAT:
        _retype(typed, low, kept, low if precision.rounds_grids else TensorProto.FLOAT)
    if fused:
        quantize_in_norms(typed)
    drop_unused(typed)
    return typed


def quantized_nodes(model: onnx.ModelProto, precision: Precision) -> frozenset[str]:
    """Names of the convolutions that a precision quantizes."""
    if precision.quantize is None:
        return frozenset()
    names = frozenset(node.name for node in model.graph.node if node.op_type == CONVOLUTION)
    excluded = matching(names, precision.quantize.excluded) | kept_nodes(model, precision)
    return matching(names, precision.quantize.nodes) - excluded


def kept_nodes(model: onnx.ModelProto, precision: Precision) -> frozenset[str]:
    """Names of the nodes that a precision keeps in fp32."""
    names = frozenset(node.name for node in model.graph.node)
    kept = matching(names, precision.keep_nodes)
    coordinates = coordinate_slice(model)
    if precision.only_nodes is not None:
        low = matching(names, precision.only_nodes)
        kept |= names - low - (coordinates if precision.rounds_grids else frozenset())
    if precision.keep_picture:
        kept |= picture_slice(model)
    return kept | coordinates if precision.keep_coordinates else kept


def matching(names: frozenset[str], patterns: Iterable[str]) -> frozenset[str]:
    """The names that a shell-style pattern matches, case and all; a star also spans slashes."""
    found: set[str] = set()
    for pattern in patterns:
        if any(mark in pattern for mark in "*?["):
            found.update(name for name in names if fnmatchcase(name, pattern))
        elif pattern in names:
            found.add(pattern)
    return frozenset(found)


def unmatched_patterns(models: Iterable[onnx.ModelProto], precision: Precision) -> tuple[str, ...]:
    """The precision's patterns that name no node of any of the graphs, in the order they were given."""
    quantized = precision.quantize.nodes if precision.quantize is not None else ()
    pending = [p for p in (*precision.keep_nodes, *(precision.only_nodes or ()), *quantized) if p != COORDINATES]
    for model in models:
        if not pending:
            break
        names = frozenset(node.name for node in model.graph.node)
        pending = [pattern for pattern in pending if not matching(names, [pattern])]
    return tuple(dict.fromkeys(pending))


def coordinate_slice(model: onnx.ModelProto) -> frozenset[str]:
    """Names of every node between a sampler's grid and the nearest convolutions before it, the samplers excluded.

    For dense motion that is the identity grid, the keypoint differences, softmax, floor and mask-weighted sum.
    Keypoints and a deformation that leave the graph count as grids: they are that for the stage that comes next. So do
    keypoints that the plugin's nodes read.
    """
    grids = [node.input[i] for node in model.graph.node for i in COORDINATE_INPUTS.get(node.op_type, ())]
    return _slice_before(model, grids + [v.name for v in model.graph.output if v.name in _COORDINATE_OUTPUTS])


def picture_slice(model: onnx.ModelProto) -> frozenset[str]:
    """Names of every node from the last convolution to the rendered picture, both included: conv_img and a sigmoid."""
    last = _slice_before(model, [v.name for v in model.graph.output if v.name in _PICTURE_OUTPUTS])
    read = {name for node in model.graph.node if node.name in last for name in node.input}
    return last | {node.name for node in model.graph.node if node.op_type == CONVOLUTION and node.output[0] in read}


def _slice_before(model: onnx.ModelProto, pending: list[str]) -> frozenset[str]:
    """Names of the nodes that these tensors are made by, back to the nearest convolutions and samplers."""
    producer = {name: node for node in model.graph.node for name in node.output}
    found: set[str] = set()
    while pending:
        node = producer.get(pending.pop())
        if node is None or node.name in found or node.op_type in _CONVOLUTIONS or node.op_type in COORDINATE_INPUTS:
            continue
        found.add(node.name)
        pending.extend(node.input)
    return frozenset(found)


def _retype(model: onnx.ModelProto, low: int, kept: frozenset[str], grid_type: int) -> None:
    """Give every float node `low` or, where kept, float32; insert the casts; in place."""
    types = element_types(model)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    outputs = {value.name for value in model.graph.output}
    builder = GraphBuilder("/precision")
    actual: dict[str, int] = {value.name: TensorProto.FLOAT for value in model.graph.input}
    converted: dict[tuple[str, int], str] = {}

    def as_type(name: str, wanted: int) -> str:
        """The name of `name`'s value in type `wanted`, casting or converting it once."""
        if types.get(name) not in FLOAT_TYPES or (name not in weights and actual[name] == wanted):
            return name
        if (name, wanted) not in converted:
            if name in weights:
                with np.errstate(over="ignore"):  # A weight beyond 65504 becomes infinite, as it would on the device.
                    converted[name, wanted] = builder.constant(numpy_helper.to_array(weights[name]), wanted)
            else:
                converted[name, wanted] = builder.op("Cast", name, to=wanted)
        return converted[name, wanted]

    for node in model.graph.node:
        own = TensorProto.FLOAT if node.name in kept else low
        made = TensorProto.FLOAT if node.op_type in FLOAT32_OUTPUTS else own
        always = _ALWAYS_FLOAT32.get(node.op_type, frozenset())
        copy = deepcopy(node)
        for position, name in enumerate(node.input):
            wanted = grid_type if node.op_type == NODE_TYPE and position == 1 else own
            copy.input[position] = as_type(name, TensorProto.FLOAT if position in always else wanted)
        if node.op_type == "Cast" and types[node.output[0]] in FLOAT_TYPES:
            next(item for item in copy.attribute if item.name == "to").i = own
        elif node.op_type == "ConstantOfShape" and types[node.output[0]] in FLOAT_TYPES:
            raise ValueError(f"node {node.name}: a filled tensor of unknown shape cannot be retyped; use a constant")
        builder.nodes.append(copy)
        for position, name in enumerate(node.output):
            if types[name] not in FLOAT_TYPES:
                continue
            if name in outputs and made != TensorProto.FLOAT:
                inner = f"{name}_inner"
                copy.output[position] = inner
                types[inner], actual[inner] = types[name], made
                converted[name, made] = inner
                back = helper.make_node("Cast", [inner], [name], name=f"/precision/{name}", to=TensorProto.FLOAT)
                builder.nodes.append(back)
                actual[name] = TensorProto.FLOAT
            else:
                actual[name] = made
    replace_nodes(model, builder.nodes)
    model.graph.initializer.extend(builder.initializers)
