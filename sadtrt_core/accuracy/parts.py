"""The generator's graph in parts: stages, their blocks, groups of nodes, and the coordinates as a part of their own."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Literal

import onnx

from sadtrt_core.accuracy.shapes import NO_ARITHMETIC
from sadtrt_core.graph.typed import coordinate_slice, matching
from sadtrt_core.precision import COORDINATES, Precision
from sadtrt_core.renderer.stages import GENERATOR_PARTS

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
    for key, nodes in pieces.items():
        computing = [kinds[name] for name in sorted(nodes, key=order.__getitem__) if kinds[name] not in NO_ARITHMETIC]
        if not computing:
            continue
        patterns = patterns_of(nodes, names)
        # Nodes that lie beside scopes of their own have no scope that is theirs alone: their operators name them.
        words = ", ".join(list(dict.fromkeys(computing))[:_NAMED_OPERATORS])
        name = key if key in names or patterns == (f"{key}/*",) else f"{key or '/'}: {words}"
        made.append((min(order[n] for n in nodes), Part(name, level, part.name, nodes, patterns)))
    return tuple(piece for _, piece in sorted(made, key=lambda pair: pair[0]))


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
