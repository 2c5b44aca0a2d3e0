"""Dense motion's elementwise work as two nodes of the plugin library, with no grid of coordinates in memory.

- `MotionInput`: compressed volume and keypoints to the hourglass's input, heat maps and samples of every motion.
- `MotionSum`: mask logits and keypoints to the deformation: softmax, floor, and the sum of the motions by the masks.

Between them volumes are maps of the plane, so that the hourglass and the mask convolve these (graph/depth_maps.py).
What is looked for is what renderer/motion.py exports, found from the sampler of which many grids read one volume.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from sadtrt_core.graph.depth_maps import OtherForm, require, volumes_as_maps
from sadtrt_core.graph.edit import GraphIndex, attribute, drop_unused, integers, needed_nodes, replace_nodes
from sadtrt_core.graph.plugin_nodes import MOTION_INPUT, MOTION_SUM, PLUGIN_VERSION
from sadtrt_core.renderer.layers import coordinate_grid
from sadtrt_core.renderer.sampling import NODE_TYPE

_FOR_EVERY_VOXEL = ("Unsqueeze", "Unsqueeze", "Unsqueeze")


def fuse_dense_motion(model: onnx.ModelProto) -> bool:
    """Replace the elementwise work of an fp32 graph's dense motion by MotionInput and MotionSum, in place.

    The graph's constants are initializers, the reshapes of its volumes FoldDepth. What lies between the two nodes
    computes maps (N * D, C, H, W). Returns whether there was one; one with Jacobians, or of any other form, stays as it
    is.
    """
    for node in model.graph.node:
        if node.op_type == NODE_TYPE and attribute(node, "repeats") > 1:
            try:
                found = _find(_Graph(model), node)
                _replace(model, found, node.name.rpartition("/")[0], integers(node, "grid_shape")[0])
            except OtherForm:
                return False
            return True
    return False


@dataclass(frozen=True)
class _Found:
    """Names of the tensors around dense motion's elementwise work, and its two constants."""

    volume: str
    driving: str
    source: str
    exponent: float
    features: str
    logits: str
    floor: float
    deformation: str


class _Graph(GraphIndex):
    """A graph to walk through; every step raises OtherForm where there is no such node or constant."""

    def constant(self, name: str) -> np.ndarray:
        value = self.value(name)
        if value is None:
            raise OtherForm
        return value

    def number(self, name: str) -> float:
        value = self.constant(name)
        require(value.size == 1)
        return float(value)

    def maker(self, name: str, operator: str) -> onnx.NodeProto:
        """The node that makes a tensor."""
        require(name in self.makers and self.makers[name].op_type == operator)
        return self.makers[name]

    def before(self, name: str, *operators: str) -> str:
        """The tensor that nodes of these operators, the last one first, make this one of by their first inputs."""
        for operator in operators:
            name = self.maker(name, operator).input[0]
        return name

    def reader(self, name: str, operator: str) -> onnx.NodeProto:
        """The only node of an operator that reads a tensor."""
        nodes = [node for node in self.readers.get(name, []) if node.op_type == operator]
        require(len(nodes) == 1)
        return nodes[0]

    def minuend_is(self, node: onnx.NodeProto, value: np.ndarray) -> None:
        """Raises OtherForm unless a node subtracts from this constant."""
        require(np.array_equal(self.constant(node.input[0]), value))

    def sums_over(self, node: onnx.NodeProto, axis: int) -> None:
        """Raises OtherForm unless a node sums over this axis and leaves it out."""
        require(self.constant(node.input[1]).tolist() == [axis] and attribute(node, "keepdims") == 0)


def _find(graph: _Graph, sampler: onnx.NodeProto) -> _Found:
    places = integers(sampler, "grid_shape")
    require(integers(sampler, "volume_shape")[1:] == places)
    require(not any(attribute(sampler, name) for name in ("interpolation", "padding", "align_corners")))
    identity = coordinate_grid(*places).numpy()

    # Motions: identity - driving + source, the background put before both.
    motions = graph.before(sampler.input[1], "Reshape")
    moved = graph.maker(motions, "Add")
    offset = graph.maker(moved.input[0], "Sub")
    graph.minuend_is(offset, identity)
    driving, source = (graph.before(name, *_FOR_EVERY_VOXEL, "Pad") for name in (offset.input[1], moved.input[1]))

    # The hourglass's input: heat maps and samples beside one another.
    joined = graph.reader(graph.reader(sampler.output[0], "Reshape").output[0], "Concat")
    require(attribute(joined, "axis") == 2 and len(joined.input) == 2)
    difference = graph.maker(graph.before(joined.input[0], "Unsqueeze", "Pad"), "Sub")
    exponents = [
        _exponent(graph, heat_map, identity, points)
        for heat_map, points in zip(difference.input, (driving, source), strict=True)
    ]
    require(exponents[0] == exponents[1])
    features = graph.reader(joined.output[0], "Reshape").output[0]

    logits, floor, deformation = _mask_sum(graph, motions)
    return _Found(sampler.input[0], driving, source, exponents[0], features, logits, floor, deformation)


def _exponent(graph: _Graph, heat_map: str, identity: np.ndarray, points: str) -> float:
    """The exponent of exp(exponent * squared distance from the points)."""
    scaled = graph.maker(graph.before(heat_map, "Exp"), "Mul")
    total = graph.maker(scaled.input[0], "ReduceSum")
    graph.sums_over(total, -1)
    square = graph.maker(total.input[0], "Mul")
    require(square.input[0] == square.input[1])
    offset = graph.maker(square.input[0], "Sub")
    graph.minuend_is(offset, identity)
    require(graph.before(offset.input[1], *_FOR_EVERY_VOXEL) == points)
    return graph.number(scaled.input[1])


def _mask_sum(graph: _Graph, motions: str) -> tuple[str, float, str]:
    """Mask logits, floor and deformation of the sum over all motions by their masks."""
    weighted = graph.reader(motions, "Mul")
    below, zero, mask = graph.maker(graph.before(weighted.input[0], "Unsqueeze"), "Where").input
    small = graph.maker(below, "Less")
    softmax = graph.maker(mask, "Softmax")
    require(small.input[0] == mask and graph.number(zero) == 0 and attribute(softmax, "axis") == 1)
    total = graph.reader(weighted.output[0], "ReduceSum")
    graph.sums_over(total, 1)
    return softmax.input[0], graph.number(small.input[1]), total.output[0]


def _replace(model: onnx.ModelProto, found: _Found, prefix: str, depth: int) -> None:
    points = [found.driving, found.source]
    new = {
        found.features: helper.make_node(
            MOTION_INPUT,
            [found.volume, *points],
            [found.features],
            name=f"{prefix}/{MOTION_INPUT}",
            exponent=found.exponent,
            plugin_version=PLUGIN_VERSION,
        ),
        found.deformation: helper.make_node(
            MOTION_SUM,
            [found.logits, *points],
            [found.deformation],
            name=f"{prefix}/{MOTION_SUM}",
            floor=found.floor,
            plugin_version=PLUGIN_VERSION,
        ),
    }
    outputs = {value.name for value in model.graph.output}
    nodes = needed_nodes((new.get(node.output[0], node) for node in model.graph.node), outputs)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    known = frozenset(constants)
    replace_nodes(model, volumes_as_maps(nodes, constants, found.features, depth))
    model.graph.initializer.extend(tensor for name, tensor in constants.items() if name not in known)
    drop_unused(model)
