"""How an exported graph samples a volume: our plugin's node, ordinary operators, or the runtime's own sampler.

- `plugin`: the GridSample3D node stays, its grid in fp32.
- `native`: gathers and arithmetic that any runtime runs; positions, weights and sums in float, as PyTorch has them,
  or, where the node has `half_coordinates`, positions and weights in half.
- `builtin`: ONNX's 5-D GridSample of opset 20, whose features and grid share one type.
"""

from __future__ import annotations

from copy import deepcopy

import onnx
from onnx import TensorProto

from sadtrt_core.case import GridSample
from sadtrt_core.graph.edit import GraphBuilder, attribute, integers, rewrite_nodes
from sadtrt_core.renderer.sampling import NODE_TYPE

_EXPORT_ONLY = frozenset({"volume_shape", "grid_shape", "repeats"})


def resolve_grid_sample(model: onnx.ModelProto, mode: GridSample) -> onnx.ModelProto:
    """A copy of a typed graph with every GridSample3D node resolved.

    Raises ValueError for a mode that no graph can carry, for a sampler other than the renderer's (trilinear, zeros,
    align_corners False), which only the plugin takes, and for `builtin` with half coordinates, which has no such mode.
    """
    resolvers = {"plugin": _plugin, "native": _native, "builtin": _builtin}
    if mode not in resolvers:
        raise ValueError(f"grid sample {mode!r} is not for graphs: expected one of {', '.join(resolvers)}")
    for node in model.graph.node:
        sampler = node.op_type == NODE_TYPE and mode != "plugin"
        if sampler and any(attribute(node, name) for name in ("interpolation", "padding", "align_corners")):
            raise ValueError(f"node {node.name}: only trilinear sampling with zeros outside can be rewritten")
        if sampler and mode == "builtin" and _in_half(node):
            raise ValueError(f"node {node.name}: the runtime's own sampler has an arithmetic of its own")
    resolved = deepcopy(model)
    rewrite_nodes(resolved, NODE_TYPE, resolvers[mode])
    return resolved


def _in_half(node: onnx.NodeProto) -> bool:
    """Whether positions and weights are half: an attribute that only such a node has."""
    return any(item.name == "half_coordinates" and item.i for item in node.attribute)


def _plugin(builder: GraphBuilder, node: onnx.NodeProto, types: dict[str, int]) -> None:
    grid = node.input[1]
    if types[grid] != TensorProto.FLOAT:
        grid = builder.op("Cast", grid, to=TensorProto.FLOAT)
    kept = deepcopy(node)
    kept.input[1] = grid
    del kept.attribute[:]
    kept.attribute.extend(item for item in node.attribute if item.name not in _EXPORT_ONLY)
    builder.nodes.append(kept)


def _builtin(builder: GraphBuilder, node: onnx.NodeProto, types: dict[str, int]) -> None:
    volume, grid = node.input
    repeats = attribute(node, "repeats")
    if repeats > 1:
        axis = builder.constant([1], TensorProto.INT64)
        one = builder.op("Unsqueeze", volume, axis)
        shape = builder.constant([-1, *integers(node, "volume_shape")], TensorProto.INT64)
        volume = builder.op("Reshape", builder.op("Concat", *[one] * repeats, axis=1), shape)
    mixed = types[node.input[0]] != types[grid]
    if mixed:
        volume = builder.op("Cast", volume, to=types[grid])
    output = None if mixed else node.output[0]
    sampled = builder.op(
        "GridSample", volume, grid, output=output, mode="linear", padding_mode="zeros", align_corners=0
    )
    if mixed:
        builder.op("Cast", sampled, output=node.output[0], to=types[node.input[0]])


def _native(builder: GraphBuilder, node: onnx.NodeProto, types: dict[str, int]) -> None:
    """Eight gathers of whole feature vectors, weighted and summed.

    u = ((x + 1) * size - 1) / 2 for each axis, as torch.nn.functional.grid_sample defines it for align_corners False.
    """
    volume, grid = node.input
    feature_type = types[volume]
    coordinate_type = TensorProto.FLOAT16 if _in_half(node) else TensorProto.FLOAT
    channels, depth, height, width = integers(node, "volume_shape")
    places = integers(node, "grid_shape")
    repeats = attribute(node, "repeats")
    points = repeats * places[0] * places[1] * places[2]
    op = builder.op

    def integer(values: list[int]) -> str:
        return builder.constant(values, TensorProto.INT64)

    # Rows of features, one for each voxel of every volume of the batch, so that one gather reads all channels.
    rows = op("Reshape", op("Transpose", volume, perm=[0, 2, 3, 4, 1]), integer([-1, channels]))
    # First row of each volume of the batch, (N, 1).
    batch = op("Gather", op("Shape", volume), builder.constant(0, TensorProto.INT64), axis=0)
    zero, one = builder.constant(0, TensorProto.INT64), builder.constant(1, TensorProto.INT64)
    first = op("Mul", op("Range", zero, batch, one), builder.constant(depth * height * width, TensorProto.INT64))
    first = op("Cast", op("Reshape", first, integer([-1, 1])), to=TensorProto.INT32)

    if types[grid] != coordinate_type:
        grid = op("Cast", grid, to=coordinate_type)
    flat = op("Reshape", grid, integer([-1, points, 3]))

    def axis_terms(axis: int, size: int, stride: int) -> list[tuple[str, str]]:
        """For both neighbours along an axis: the offset (N, points) in rows, int32, and the weight (N, points)."""

        def value(number: float) -> str:
            return builder.constant(number, coordinate_type)

        x = op("Gather", flat, builder.constant(axis, TensorProto.INT64), axis=2)
        u = op("Mul", op("Sub", op("Mul", op("Add", x, value(1)), value(size)), value(1)), value(0.5))
        low = op("Floor", u)
        high = op("Add", low, value(1))
        terms = []
        for neighbour, weight in ((low, op("Sub", high, u)), (high, op("Sub", u, low))):
            inside = op(
                "And",
                op("GreaterOrEqual", neighbour, value(0)),
                op("LessOrEqual", neighbour, value(size - 1)),
            )
            # Outside, and for NaN, the weight is zero and the row is the first: never a read out of bounds.
            index = op("Cast", op("Where", inside, neighbour, value(0)), to=TensorProto.INT32)
            offset = op("Mul", index, builder.constant(stride, TensorProto.INT32)) if stride > 1 else index
            terms.append((offset, op("Where", inside, weight, value(0))))
        return terms

    along_x = axis_terms(0, width, 1)
    along_y = axis_terms(1, height, width)
    along_z = axis_terms(2, depth, height * width)
    last = integer([-1])
    total: str | None = None
    for offset_z, weight_z in along_z:
        plane = op("Add", offset_z, first)
        for offset_y, weight_y in along_y:
            line, weight_line = op("Add", plane, offset_y), op("Mul", weight_z, weight_y)
            for offset_x, weight_x in along_x:
                read = op("Gather", rows, op("Add", line, offset_x), axis=0)
                weight = op("Mul", weight_line, weight_x)
                if feature_type != TensorProto.FLOAT:
                    read = op("Cast", read, to=TensorProto.FLOAT)
                if coordinate_type != TensorProto.FLOAT:
                    weight = op("Cast", weight, to=TensorProto.FLOAT)
                weighted = op("Mul", read, op("Unsqueeze", weight, last))
                total = weighted if total is None else op("Add", total, weighted)
    assert total is not None
    if feature_type != TensorProto.FLOAT:
        total = op("Cast", total, to=feature_type)
    shaped = op("Reshape", total, integer([-1, *places, channels]))
    op("Transpose", shaped, output=node.output[0], perm=[0, 4, 1, 2, 3])
