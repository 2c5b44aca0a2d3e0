"""Whose numbers a type cannot hold: activations beyond its largest, or mostly below its normal range."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import onnx
import torch
from onnx import TensorProto
from torch import Tensor

from sadtrt_core.accuracy.parts import NO_ARITHMETIC, tensor_shapes
from sadtrt_core.accuracy.simulate import Simulator
from sadtrt_core.accuracy.torch_graph import constant
from sadtrt_core.codec import JsonValue
from sadtrt_core.graph.edit import constants_to_initializers
from sadtrt_core.precision import Precision

#: Below the normal range a half loses a bit for every halving; where most values lie there, the part computes coarsely.
_MOSTLY = 0.5


@dataclass(frozen=True)
class RangeFinding(JsonValue):
    """A node whose values a type cannot hold, measured in fp32 over the workload.

    `largest` is the greatest magnitude, `smallest` the least that is not zero, `below_normal` the share (0 to 1) of
    values not zero that lie under the type's normal range; `what` says whether it is the node's output or its weights.
    """

    node: str
    part: str
    kind: Literal["overflow", "underflow"]
    what: Literal["output", "weights"]
    largest: float
    smallest: float
    below_normal: float

    def sentence(self, limit: float, normal: float) -> str:
        """The finding for people; `limit` and `normal` are the type's largest and smallest normal number."""
        where = f"{self.part}: {self.what} of {self.node}"
        if self.kind == "overflow":
            return f"{where} reaches {self.largest:.3g}, beyond {limit:.5g}"
        share = f"{self.below_normal:.0%} of its values that are not zero lie"
        return f"{where}: {share} under {normal:.2g} (from {self.smallest:.2g} to {self.largest:.2g})"


@dataclass
class _Seen:
    largest: float = 0.0
    smallest: float = math.inf
    nonzero: int = 0
    below: int = 0

    def add(self, values: Tensor, normal: float) -> None:
        size = values[values != 0].abs()
        if size.numel():
            self.largest = max(self.largest, float(size.max()))
            self.smallest = min(self.smallest, float(size.min()))
            self.nonzero += size.numel()
            self.below += int((size < normal).sum())


def find_ranges(
    simulator: Simulator,
    indices: Sequence[int],
    precision: Precision,
    part_of: Callable[[str], str],
) -> tuple[RangeFinding, ...]:
    """Every node of the graph whose outputs over these frames, or whose weights, do not fit the precision's type.

    `part_of` names a node's part. Overflows come first, the largest first.
    """
    limits = torch.finfo(precision.torch_type)
    plain = onnx.ModelProto()
    plain.CopyFrom(simulator.graph)
    constants_to_initializers(plain)
    shapes = tensor_shapes(plain, simulator.shapes)
    # Only what the original nodes put out: a sampler's insides are its own affair.
    maker = {
        node.output[0]: node.name
        for node in plain.graph.node
        if node.op_type not in NO_ARITHMETIC and node.output[0] in shapes
    }
    seen = {name: _Seen() for name in maker}

    def see(name: str, value: Tensor) -> None:
        if name in seen:
            seen[name].add(value, limits.tiny)

    simulator.watch(indices, see)
    found = [f for name, s in seen.items() if (f := _judge(maker[name], part_of, "output", s, limits))]
    floats = (tensor for tensor in plain.graph.initializer if tensor.data_type == TensorProto.FLOAT)
    weights = {tensor.name: constant(tensor) for tensor in floats}
    for node in plain.graph.node:
        for name in node.input:
            if name in weights and node.op_type not in NO_ARITHMETIC:
                s = _Seen()
                s.add(weights[name], limits.tiny)
                finding = _judge(node.name, part_of, "weights", s, limits)
                found += [finding] if finding else []
    return tuple(sorted(found, key=lambda f: (f.kind != "overflow", -f.largest, f.node)))


def _judge(
    node: str, part_of: Callable[[str], str], what: Literal["output", "weights"], seen: _Seen, limits: torch.finfo
) -> RangeFinding | None:
    if not seen.nonzero:
        return None
    share = seen.below / seen.nonzero
    if seen.largest <= limits.max and share <= _MOSTLY:
        return None
    kind: Literal["overflow", "underflow"] = "overflow" if seen.largest > limits.max else "underflow"
    return RangeFinding(node, part_of(node), kind, what, seen.largest, seen.smallest, share)
