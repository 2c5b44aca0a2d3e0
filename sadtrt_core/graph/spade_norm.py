"""SPADE norms as nodes of our own: norm, modulation and leaky ReLU without leaving the layout (plugin/spade_norm).

TensorRT computes what follows an instance norm in linear layout and converts to and from it for every norm; the
operator stays in the layout of the convolutions on either side. All exact in real numbers:

- the convolutions of gamma and beta become one of twice the outputs, which the operator reads without splitting;
- InstanceNormalization, 1 + gamma, Mul, Add and a LeakyRelu behind them become SpadeNorm;
- a residual sum that is normalised becomes part of the operator (SpadeNormAdd), which writes the sum as well, because
  a convolution with a residual in its epilogue is slower than one without;
- an upsampled map that is normalised is read before it is upsampled.

The node of `/decoder/up_0/norm_0/Mul` is called `/decoder/up_0/norm_0/SpadeNorm`, with or without a sum. The merged
convolution keeps the name of gamma's (`.../mlp_gamma/Conv`).
"""

from __future__ import annotations

from collections.abc import Collection
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from sadtrt_core.graph.edit import GraphIndex, drop_unused, replace_nodes
from sadtrt_core.graph.plugin_nodes import PLUGIN_VERSION, SPADE_NORM, SPADE_NORM_ADD
from sadtrt_core.graph.upsampled import nearest_factor


@dataclass(frozen=True)
class _Norm:
    """One norm's nodes: `last` is `shift`, or the LeakyRelu behind it."""

    norm: onnx.NodeProto
    gamma: onnx.NodeProto
    beta: onnx.NodeProto
    one_more: onnx.NodeProto  # 1 + gamma
    scale: onnx.NodeProto  # Mul
    shift: onnx.NodeProto  # Add
    last: onnx.NodeProto

    @property
    def name(self) -> str:
        folder, _, _ = self.scale.name.rpartition("/")
        return f"{folder}/{SPADE_NORM}"

    @property
    def arithmetic(self) -> set[str]:
        """Names of the nodes that the operator stands for."""
        return {node.name for node in (self.norm, self.one_more, self.scale, self.shift, self.last)}


def fuse_spade_norms(
    model: onnx.ModelProto, kept: Collection[str] = (), quantized: Collection[str] = ()
) -> frozenset[str]:
    """Replace the SPADE norms of an fp32 graph by SpadeNorm and SpadeNormAdd nodes, in place.

    The graph's constants are initializers. A norm stays as it is where its parts are not of one kind: some of its
    nodes `kept` in fp32 and others not, or one of its two convolutions `quantized`. Returns the names of the new nodes
    that stand for kept ones.
    """
    graph = GraphIndex(model)
    found = [norm for node in model.graph.node if (norm := _norm_of(node, graph, kept, quantized)) is not None]
    replaced: dict[str, list[onnx.NodeProto]] = {}
    summed: set[str] = set()
    for norm in found:
        normalised, upsample = _upsampled(norm, graph, kept)
        source = graph.makers.get(normalised)
        adds = source is not None and source.output[0] not in summed and _may_add(source, norm, graph, kept)
        if adds and source is not None:
            summed.add(source.output[0])
        inputs = list(source.input) if adds and source is not None else [normalised]
        replaced[norm.last.output[0]] = _fused(norm, inputs, normalised, upsample, model, graph.constants)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.output[0] not in summed:
            nodes += replaced.get(node.output[0], [node])
    replace_nodes(model, _sorted(nodes))
    drop_unused(model)
    return frozenset(norm.name for norm in found if norm.norm.name in kept)


def _depends(graph: GraphIndex, name: str, source: str) -> bool:
    """Whether a tensor is computed from another."""
    pending, seen = [name], set()
    while pending:
        current = pending.pop()
        if current == source:
            return True
        if current not in seen and current in graph.makers:
            pending += graph.makers[current].input
        seen.add(current)
    return False


def _norm_of(
    scale: onnx.NodeProto, graph: GraphIndex, kept: Collection[str], quantized: Collection[str]
) -> _Norm | None:
    """The SPADE norm whose Mul this is; one instance norm may serve several."""
    if scale.op_type != "Mul":
        return None
    norm, one_more = _ordered(scale, graph, "InstanceNormalization")
    shift = graph.only_reader(scale.output[0])
    if norm is None or one_more is None or not _is_plain(norm, graph) or shift is None or shift.op_type != "Add":
        return None
    gamma = _one_less(one_more, graph)
    beta = graph.makers.get(next((name for name in shift.input if name != scale.output[0]), ""))
    if gamma is None or beta is None or not _may_merge(gamma, beta, graph):
        return None
    if graph.only_reader(one_more.output[0]) is not scale or graph.only_reader(beta.output[0]) is not shift:
        return None
    after = graph.only_reader(shift.output[0])
    found = _Norm(norm, gamma, beta, one_more, scale, shift, shift)
    if after is not None and after.op_type == "LeakyRelu" and (after.name in kept) == (shift.name in kept):
        found = _Norm(norm, gamma, beta, one_more, scale, shift, after)
    convolutions = {gamma.name, beta.name}
    alike = ((found.arithmetic, kept), (convolutions, kept), (convolutions, quantized))
    return found if all(len({name in chosen for name in names}) == 1 for names, chosen in alike) else None


def _ordered(
    node: onnx.NodeProto, graph: GraphIndex, first_type: str
) -> tuple[onnx.NodeProto | None, onnx.NodeProto | None]:
    """The makers of both operands, that of the given type first; None for what is not there."""
    makers = [graph.makers.get(name) for name in node.input]
    if makers[0] is None or makers[0].op_type != first_type:
        makers.reverse()
    first, second = makers
    return (first, second) if first is not None and first.op_type == first_type else (None, None)


def _is_plain(norm: onnx.NodeProto, graph: GraphIndex) -> bool:
    scale, bias = (graph.value(name) for name in norm.input[1:3])
    return scale is not None and bias is not None and bool((scale == 1).all()) and not bias.any()


def _one_less(one_more: onnx.NodeProto, graph: GraphIndex) -> onnx.NodeProto | None:
    """The convolution that one is added to."""
    if one_more.op_type != "Add":
        return None
    for name, other in (one_more.input, reversed(one_more.input)):
        value, maker = graph.value(other), graph.makers.get(name)
        if value is not None and value.size == 1 and value.item() == 1 and maker is not None:
            return maker if graph.only_reader(name) is one_more else None
    return None


def _may_merge(gamma: onnx.NodeProto, beta: onnx.NodeProto, graph: GraphIndex) -> bool:
    """Whether two convolutions differ in nothing but their constant weights."""
    if not (gamma.op_type == beta.op_type == "Conv") or gamma.input[0] != beta.input[0] or gamma.name == beta.name:
        return False
    options = [{item.name: helper.get_attribute_value(item) for item in node.attribute} for node in (gamma, beta)]
    pairs = list(zip(gamma.input[1:], beta.input[1:], strict=False))
    constant = all(name in graph.constants for pair in pairs for name in pair)
    if len(gamma.input) != len(beta.input) or options[0] != options[1] or options[0].get("group", 1) != 1:
        return False
    return constant and all(graph.constants[one].dims == graph.constants[other].dims for one, other in pairs)


def _upsampled(norm: _Norm, graph: GraphIndex, kept: Collection[str]) -> tuple[str, int]:
    """The tensor that is normalised, and 1; where that is an upsampled map, the map before, and 2.

    Nearest upsampling repeats every element equally often, so mean and variance are those of the map before.
    """
    name = norm.norm.input[0]
    maker = graph.makers.get(name)
    alike = maker is not None and (maker.name in kept) == (norm.norm.name in kept)
    if maker is not None and alike and nearest_factor(maker, graph.constants) == 2:
        return maker.input[0], 2
    return name, 1


def _may_add(source: onnx.NodeProto, norm: _Norm, graph: GraphIndex, kept: Collection[str]) -> bool:
    """Whether what is normalised is a sum of two maps of as many channels that the operator can make."""
    if source.op_type != "Add" or (source.name in kept) != (norm.norm.name in kept):
        return False
    if _channels(source.output[0], graph) is None:
        return False
    return not _depends(graph, norm.gamma.input[0], source.output[0])


def _channels(name: str, graph: GraphIndex) -> int | None:
    """The channels of a convolution's output, or of a sum of such; None for anything else."""
    maker = graph.makers.get(name)
    if maker is not None and maker.op_type == "Conv" and maker.input[1] in graph.constants:
        return int(graph.constants[maker.input[1]].dims[0])
    if maker is not None and maker.op_type == "Add":
        both = {_channels(part, graph) for part in maker.input}
        return both.pop() if len(both) == 1 else None
    return None


def _fused(
    norm: _Norm,
    inputs: list[str],
    normalised: str,
    upsample: int,
    model: onnx.ModelProto,
    weights: dict[str, onnx.TensorProto],
) -> list[onnx.NodeProto]:
    """The merged convolution and the operator, of one input or of two whose sum is `normalised`; the merged weights are
    added to the model.
    """
    merged = deepcopy(norm.gamma)
    merged.output[0] = f"{norm.gamma.name}/with_beta"
    for position, kind in enumerate(("weight", "bias")[: len(norm.gamma.input) - 1], start=1):
        parts = [numpy_helper.to_array(weights[node.input[position]]) for node in (norm.gamma, norm.beta)]
        merged.input[position] = f"{norm.gamma.name}/with_beta.{kind}"
        model.graph.initializer.append(numpy_helper.from_array(np.concatenate(parts), merged.input[position]))
    options = {item.name: item.f for node in (norm.norm, norm.last) for item in node.attribute}
    attributes = {"epsilon": options.get("epsilon", 1e-5), "slope": 1.0, "plugin_version": PLUGIN_VERSION}
    if norm.last is not norm.shift:
        attributes["slope"] = options.get("alpha", 0.01)  # ONNX's own where the node says nothing.
    if upsample > 1:
        attributes["upsample"] = upsample
    kind, sums = (SPADE_NORM_ADD, [normalised]) if len(inputs) > 1 else (SPADE_NORM, [])
    operator = helper.make_node(
        kind, [*inputs, merged.output[0]], [*sums, norm.last.output[0]], name=norm.name, **attributes
    )
    return [merged, operator]


def _sorted(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Nodes in their order, but none before what it reads: a sum is now made where it is normalised."""
    made_here = {name for node in nodes for name in node.output}
    ready: set[str] = set()
    waiting, placed = nodes, []
    while waiting:
        later = []
        for node in waiting:
            if all(name in ready or name not in made_here for name in node.input):
                placed.append(node)
                ready.update(node.output)
            else:
                later.append(node)
        if len(later) == len(waiting):
            raise ValueError(f"node {later[0].name} reads what is made from it")
        waiting = later
    return placed
