"""Runs an fp32 graph of the renderer operator by operator in PyTorch, on a GPU where there is one.

It takes graphs whose samplers are ordinary operators and whose roundings are explicit (graph/rounding.py), so that a
GPU answers in a tenth of a second what ONNX Runtime on a CPU answers in half a minute at full size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from sadtrt_core.graph.fixed_shapes import fix_shapes
from sadtrt_core.graph.rounding import explicit_rounding
from sadtrt_core.renderer.stages import matrix_arithmetic

_TYPES = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.BOOL: torch.bool,
    TensorProto.INT8: torch.int8,
}
Attributes = Mapping[str, Any]
Operator = Callable[[list[Tensor], Attributes], Tensor]
See = Callable[[str, Tensor], None]


def run_graph(
    model: onnx.ModelProto,
    inputs: Mapping[str, Tensor],
    see: See = lambda *_: None,
    instead: Mapping[str, Operator] | None = None,
) -> dict[str, Tensor]:
    """The graph's outputs, on the inputs' device; TF32 is off and algorithms are deterministic.

    `see` is shown every tensor a node makes; `instead` has other operators for some nodes, by their names. Raises
    ValueError for an operator that the renderer's graphs do not have.
    """
    device = next(iter(inputs.values())).device
    values: dict[str, Tensor] = dict(inputs)
    for tensor in model.graph.initializer:
        values[tensor.name] = constant(tensor).to(device)
    last = {name: index for index, node in enumerate(model.graph.node) for name in node.input}
    outputs = [output.name for output in model.graph.output]
    with torch.inference_mode(), matrix_arithmetic(tf32=False, benchmark=False):
        for index, node in enumerate(model.graph.node):
            operator = (instead or {}).get(node.name) or _OPERATORS.get(node.op_type)
            if operator is None:
                raise ValueError(f"node {node.name}: operator {node.op_type} is not one PyTorch is taught here")
            attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
            values[node.output[0]] = operator([values[name] for name in node.input if name], attributes)
            see(node.output[0], values[node.output[0]])
            for name in node.input:
                # What nobody reads any more is freed, or the whole graph's activations would pile up.
                if name and last[name] == index and name not in outputs:
                    values.pop(name, None)
    return {name: values[name] for name in outputs}


def rounded_graph(
    typed: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]], device: torch.device
) -> tuple[onnx.ModelProto, dict[str, Tensor]]:
    """A typed graph with every rounding explicit, for `run_graph`, and its constants on a device, as inputs of it.

    `shapes` has the shape of every input, batch included; samplers are ordinary operators. The given graph is changed.
    """
    fix_shapes(typed, shapes)
    model = explicit_rounding(typed)
    constants = {tensor.name: constant(tensor).to(device) for tensor in model.graph.initializer}
    del model.graph.initializer[:]
    return model, constants


def constant(tensor: TensorProto) -> Tensor:
    """A constant of a graph on the host."""
    if tensor.data_type == TensorProto.FLOAT8E4M3FN:  # Numpy has no such type.
        return torch.from_numpy(numpy_helper.to_array(tensor).astype("float32")).to(torch.float8_e4m3fn)
    # A copy, because the bytes belong to the model and are read-only.
    return torch.from_numpy(numpy_helper.to_array(tensor).copy())


def _integers(tensor: Tensor) -> list[int]:
    return [int(value) for value in tensor.reshape(-1).tolist()]


def _convolution(given: list[Tensor], attributes: Attributes) -> Tensor:
    convolve: Any = F.conv2d if given[0].dim() == 4 else F.conv3d
    bias = given[2] if len(given) > 2 else None
    spatial = given[0].dim() - 2
    options = {"stride": attributes["strides"], "dilation": attributes["dilations"], "groups": attributes["group"]}
    # ONNX has a padding for each end; the renderer's are the same at both.
    return convolve(given[0], given[1], bias, padding=list(attributes["pads"])[:spatial], **options)


def _average_pool(given: list[Tensor], attributes: Attributes) -> Tensor:
    pool: Any = F.avg_pool2d if given[0].dim() == 4 else F.avg_pool3d
    return pool(given[0], list(attributes["kernel_shape"]), list(attributes["strides"]))


def _reshape(given: list[Tensor], attributes: Attributes) -> Tensor:
    shape = _integers(given[1])
    return given[0].reshape([given[0].shape[i] if size == 0 else size for i, size in enumerate(shape)])


def _slice(given: list[Tensor], attributes: Attributes) -> Tensor:
    value = given[0]
    starts, ends = _integers(given[1]), _integers(given[2])
    axes = _integers(given[3]) if len(given) > 3 else list(range(len(starts)))
    steps = _integers(given[4]) if len(given) > 4 else [1] * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        places = list(range(value.shape[axis])[start:end:step])
        value = value.index_select(axis, torch.tensor(places, dtype=torch.long, device=value.device))
    return value


def _pad(given: list[Tensor], attributes: Attributes) -> Tensor:
    sizes = _integers(given[1])
    half = len(sizes) // 2
    sides = [size for axis in reversed(range(half)) for size in (sizes[axis], sizes[half + axis])]
    return F.pad(given[0], sides, value=float(given[2]) if len(given) > 2 else 0.0)


def _gather(given: list[Tensor], attributes: Attributes) -> Tensor:
    axis, data, index = attributes.get("axis", 0), given[0], given[1]
    picked = data.index_select(axis, index.reshape(-1))
    return picked.reshape(*data.shape[:axis], *index.shape, *data.shape[axis + 1 :])


def _unsqueeze(given: list[Tensor], attributes: Attributes) -> Tensor:
    rank = given[0].dim() + given[1].numel()
    value = given[0]
    for axis in sorted(axis % rank for axis in _integers(given[1])):
        value = value.unsqueeze(axis)
    return value


def _resize(given: list[Tensor], attributes: Attributes) -> Tensor:
    value = given[0]
    # The last input is sizes (integers) or scales; the renderer only repeats whole elements.
    last = given[-1]
    factors = last.tolist() if last.is_floating_point() else [n / o for n, o in zip(last, value.shape, strict=True)]
    for axis, factor in enumerate(factors):
        if int(factor) != factor:
            raise ValueError(f"a resize by {factor} is not one PyTorch is taught here")
        value = value if factor == 1 else value.repeat_interleave(int(factor), dim=axis)
    return value


def _batch_norm(given: list[Tensor], attributes: Attributes) -> Tensor:
    value, weight, bias, mean, variance = given
    return F.batch_norm(value, mean, variance, weight, bias, eps=attributes.get("epsilon", 1e-5))


def _instance_norm(given: list[Tensor], attributes: Attributes) -> Tensor:
    return F.instance_norm(given[0], weight=given[1], bias=given[2], eps=attributes.get("epsilon", 1e-5))


def _per_channel(values: Tensor, like: Tensor, attributes: Attributes) -> Tensor:
    """A scale or zero point of one value, or of one for each place along the axis, to be broadcast."""
    if values.numel() == 1:
        return values.reshape(())
    shape = [1] * like.dim()
    shape[attributes.get("axis", 1)] = -1
    return values.reshape(shape)


def _quantize(given: list[Tensor], attributes: Attributes) -> Tensor:
    value, scale, zero = given
    scaled = value / _per_channel(scale, value, attributes)
    if zero.is_floating_point():  # Eight-bit floats, whose zero point is zero.
        largest = torch.finfo(zero.dtype).max
        return scaled.clamp(-largest, largest).to(zero.dtype)
    limits = torch.iinfo(zero.dtype)
    shifted = scaled.round() + _per_channel(zero, value, attributes)  # Ties to even, as ONNX has it.
    return shifted.clamp(limits.min, limits.max).to(zero.dtype)


def _dequantize(given: list[Tensor], attributes: Attributes) -> Tensor:
    value, scale, zero = (tensor.float() for tensor in given)
    centred = value - _per_channel(zero, value, attributes)
    return centred * _per_channel(scale, value, attributes)


_OPERATORS: dict[str, Operator] = {
    "Add": lambda given, _: given[0] + given[1],
    "Sub": lambda given, _: given[0] - given[1],
    "Mul": lambda given, _: given[0] * given[1],
    "Div": lambda given, _: given[0] / given[1],
    "And": lambda given, _: given[0] & given[1],
    "Less": lambda given, _: given[0] < given[1],
    "LessOrEqual": lambda given, _: given[0] <= given[1],
    "GreaterOrEqual": lambda given, _: given[0] >= given[1],
    "Where": lambda given, _: torch.where(given[0], given[1], given[2]),
    "Exp": lambda given, _: given[0].exp(),
    "Floor": lambda given, _: given[0].floor(),
    "Relu": lambda given, _: F.relu(given[0]),
    "Sigmoid": lambda given, _: given[0].sigmoid(),
    "Identity": lambda given, _: given[0],
    "LeakyRelu": lambda given, attributes: F.leaky_relu(given[0], attributes.get("alpha", 0.01)),
    "Softmax": lambda given, attributes: given[0].softmax(attributes.get("axis", -1)),
    "ReduceSum": lambda given, attributes: given[0].sum(_integers(given[1]), bool(attributes.get("keepdims", 1))),
    "Cast": lambda given, attributes: given[0].to(_TYPES[attributes["to"]]),
    "Concat": lambda given, attributes: torch.cat(given, dim=attributes["axis"]),
    "Transpose": lambda given, attributes: given[0].permute(list(attributes["perm"])),
    "Shape": lambda given, _: torch.tensor(given[0].shape, device=given[0].device),
    "Range": lambda given, _: torch.arange(*(int(value) for value in given), device=given[0].device),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Conv": _convolution,
    "DequantizeLinear": _dequantize,
    "Gather": _gather,
    "InstanceNormalization": _instance_norm,
    "Pad": _pad,
    "QuantizeLinear": _quantize,
    "Reshape": _reshape,
    "Resize": _resize,
    "Slice": _slice,
    "Unsqueeze": _unsqueeze,
}
