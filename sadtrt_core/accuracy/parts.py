"""The generator's graph in parts: stages, their blocks, groups of nodes, and the coordinates as a part of their own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Literal

import onnx

from sadtrt_core.graph.edit import constants_to_initializers
from sadtrt_core.graph.fixed_shapes import fix_shapes
from sadtrt_core.graph.grid_sample import resolve_grid_sample
from sadtrt_core.graph.rounding import EXACT
from sadtrt_core.graph.typed import coordinate_slice, matching
from sadtrt_core.precision import COORDINATES, ComputeType, Precision
from sadtrt_core.renderer.stages import GENERATOR_PARTS

#: Operators that compute no value: they move, choose, compare or count.
NO_ARITHMETIC = EXACT | {"Shape", "Size", "Cast", "Constant", "ConstantOfShape", "Range", "Less"}

Level = Literal["stage", "block", "nodes"]
_SCOPES = {
    "appearance": ("/first/*", "/down_blocks.*", "/second/*", "/resblocks_3d/*"),
    "motion": ("/dense_motion_network/*",),
    "decode": ("/decoder/*",),
}
#: A split into fewer pieces than this says too little: the pieces are split again.
_FEWEST = 3
_NAMED_OPERATORS = 4


@dataclass(frozen=True)
class Part:
    """Some nodes of a graph that are put into a type together.

    `within` names the part it was split from. `patterns` match exactly `nodes`, for a plan to name them by.
    `coordinates` says that the part is the coordinate slice, the sampling grids' own type included.
    """

    name: str
    level: Level
    within: str | None
    nodes: frozenset[str]
    patterns: tuple[str, ...]
    coordinates: bool = False

    def lowered(self, base: Precision) -> Precision:
        """This part as the base computes it, what the base keeps in fp32 kept; everything else fp32."""
        only = (*sorted(self.nodes), *([COORDINATES] if self.coordinates else ()))
        return replace(base, name=f"{self.name} lowered", why="to see what it costs", only_nodes=only)

    def excluded(self, base: Precision) -> Precision:
        """Everything as the base computes it but this part, which is fp32."""
        return replace(
            base,
            name=f"all but {self.name}",
            why="to see what keeping it buys",
            keep_coordinates=base.keep_coordinates or self.coordinates,
            keep_nodes=(*base.keep_nodes, *sorted(self.nodes)),
        )


def keeping(base: ComputeType, kept: Iterable[Part]) -> Precision:
    """The precision that computes in `base` but for these parts, as a plan would say it."""
    # In one order, whatever the parts' own: the same parts are the same precision.
    patterns = {pattern for part in kept for pattern in part.patterns}
    return Precision(
        "candidate",
        base,
        "to be measured",
        keep_coordinates=COORDINATES in patterns,
        keep_nodes=tuple(sorted(patterns - {COORDINATES})),
        split_k=True,
    )


def stage_parts(graph: onnx.ModelProto) -> tuple[Part, ...]:
    """The generator's four stages without their coordinates, and the coordinates; every node is in exactly one."""
    names = frozenset(_kinds(graph))
    coordinates = coordinate_slice(graph) & names
    left = names - coordinates
    found = {}
    for stage in GENERATOR_PARTS:
        found[stage] = matching(left, _SCOPES[stage]) if stage in _SCOPES else frozenset()
    # The warp has no scope of its own: it is what the others leave.
    found["warp"] = left - frozenset().union(*found.values())
    parts = [Part(stage, "stage", None, nodes, patterns_of(nodes, names)) for stage, nodes in found.items() if nodes]
    if coordinates:
        parts.append(Part(COORDINATES, "stage", None, coordinates, (COORDINATES,), coordinates=True))
    return tuple(parts)


def split(graph: onnx.ModelProto, part: Part, level: Level) -> tuple[Part, ...]:
    """The part in pieces by the next word of their scopes; single nodes where there are no scopes left.

    Nodes that only move values go with the others of their scope and make no piece of their own.
    """
    kinds = _kinds(graph)
    names = frozenset(kinds)
    pieces = _by_scope(part.nodes)
    if 1 < len(pieces) < _FEWEST:
        pieces = {key: nodes for piece in pieces.values() for key, nodes in _by_scope(piece).items()}
    if len(pieces) == 1:
        pieces = {name: frozenset({name}) for name in part.nodes}
    order = {name: index for index, name in enumerate(kinds)}
    made = []
    for key, nodes in sorted(pieces.items(), key=lambda piece: min(order[name] for name in piece[1])):
        operators = [kinds[name] for name in sorted(nodes, key=order.__getitem__)]
        computing = list(dict.fromkeys(operator for operator in operators if operator not in NO_ARITHMETIC))
        if not computing:
            continue
        patterns = patterns_of(nodes, names)
        # Nodes that lie beside scopes of their own have no scope that is theirs alone: their operators name them.
        alone = key in names or patterns == (f"{key}/*",)
        name = key if alone else f"{key or '/'}: {', '.join(computing[:_NAMED_OPERATORS])}"
        made.append(Part(name, level, part.name, nodes, patterns))
    return tuple(made)


def block_parts(graph: onnx.ModelProto) -> tuple[Part, ...]:
    """Every block of every stage, and the coordinates: what a search chooses from."""
    found: list[Part] = []
    for stage in stage_parts(graph):
        found.extend([replace(stage, level="block")] if stage.coordinates else split(graph, stage, "block"))
    return tuple(found)


def patterns_of(nodes: frozenset[str], names: frozenset[str]) -> tuple[str, ...]:
    """The shortest patterns that match exactly `nodes` among `names`: their scope where it is theirs alone."""
    scope = "/".join(_common(nodes))
    whole = f"{scope}/*"
    if scope and matching(names, [whole]) == nodes:
        return (whole,)
    return tuple(sorted(nodes))


def _kinds(graph: onnx.ModelProto) -> dict[str, str]:
    return {node.name: node.op_type for node in graph.graph.node if node.op_type != "Constant"}


def _common(nodes: frozenset[str]) -> list[str]:
    # The first and last in order differ earliest: what they share, all share.
    scopes = [name.split("/")[:-1] for name in nodes]
    pairs = zip(min(scopes), max(scopes), strict=False)
    return [word for word, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)]


def _by_scope(nodes: frozenset[str]) -> dict[str, frozenset[str]]:
    depth = len(_common(nodes)) + 1
    found: dict[str, set[str]] = {}
    for name in nodes:
        scope = name.split("/")[:-1]
        found.setdefault("/".join(scope[:depth]), set()).add(name)
    return {key: frozenset(group) for key, group in found.items()}


def node_flops(graph: onnx.ModelProto, inputs: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Floating-point operations of every node of an fp32 graph that computes, for inputs of these shapes.

    A convolution has two for each weight and output place; any other operator one for each element it makes, a volume
    sampler the sum of the ordinary operators it stands for.
    """
    plain = deepcopy(graph)
    constants_to_initializers(plain)
    plain = resolve_grid_sample(plain, "native")
    fix_shapes(plain, inputs)
    shapes = _shapes(plain)
    found = dict.fromkeys(_kinds(graph), 0)
    for node in plain.graph.node:
        if node.op_type in NO_ARITHMETIC or node.output[0] not in shapes:
            continue
        made = shapes[node.output[0]]
        if node.op_type == "Conv":
            count = 2 * made[0] * math.prod(made[2:]) * math.prod(shapes[node.input[1]])
        else:
            count = math.prod(made)
        # A resolved sampler's operators carry its name in front of their own.
        owner = node.name if node.name in found else node.name.rpartition("/")[0]
        if owner in found:
            found[owner] += count
    return found


def _shapes(plain: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    inferred = onnx.shape_inference.infer_shapes(plain, data_prop=True).graph
    found = {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            found[value.name] = tuple(dim.dim_value for dim in dims)
    return found
