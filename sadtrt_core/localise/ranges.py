"""Whose numbers a type cannot hold: activations beyond its largest, or mostly below its normal range."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper

from sadtrt_core.graph.edit import constants_to_initializers
from sadtrt_core.graph.gridsample import resolve_grid_sample
from sadtrt_core.localise.candidates import Candidates, make_session
from sadtrt_core.localise.shapes import NO_ARITHMETIC, tensor_shapes
from sadtrt_core.precision import Precision
from sadtrt_core.records.codec import JsonValue

#: Bytes of activations that one session hands out, so that the whole graph's never lie in memory together.
_BYTES_AT_ONCE = 256 << 20
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

    def add(self, values: np.ndarray, normal: float) -> None:
        size = np.abs(values[values != 0])
        if size.size:
            self.largest = max(self.largest, float(size.max()))
            self.smallest = min(self.smallest, float(size.min()))
            self.nonzero += size.size
            self.below += int((size < normal).sum())


def find_ranges(
    candidates: Candidates,
    indices: Sequence[int],
    precision: Precision,
    part_of: Callable[[str], str],
    step: Callable[[float], None] = lambda done: None,
) -> tuple[RangeFinding, ...]:
    """Every node of the graph whose outputs over these frames, or whose weights, do not fit the precision's type.

    `part_of` names a node's part; `step` is told how much is done, 0 to 1. Overflows come first, the largest first.
    """
    limits = torch.finfo(precision.torch_type)
    plain = onnx.ModelProto()
    plain.CopyFrom(candidates.graph)
    constants_to_initializers(plain)
    shapes = tensor_shapes(plain, {name: array.shape for name, array in candidates.arrays[0].items()})
    # Only what the original nodes put out: a sampler's insides are its own affair.
    maker = {
        node.output[0]: node.name
        for node in plain.graph.node
        if node.op_type not in NO_ARITHMETIC and node.output[0] in shapes
    }
    resolved = resolve_grid_sample(plain, "native")
    found: list[RangeFinding] = []
    batches = list(_batches(list(maker), shapes))
    for count, batch in enumerate(batches):
        seen = {name: _Seen() for name in batch}
        session = make_session(_with_outputs(resolved, batch))
        for index in indices:
            for name, values in zip(batch, session.run(batch, candidates.arrays[index]), strict=True):
                seen[name].add(values, limits.tiny)
        found += [f for name, s in seen.items() if (f := _judge(maker[name], part_of, "output", s, limits))]
        step((count + 1) / len(batches))
    weights = {tensor.name: tensor for tensor in plain.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    for node in plain.graph.node:
        for name in node.input:
            if name in weights and node.op_type not in NO_ARITHMETIC:
                s = _Seen()
                s.add(numpy_helper.to_array(weights[name]), limits.tiny)
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


def _batches(names: list[str], shapes: dict[str, tuple[int, ...]]) -> Iterator[list[str]]:
    batch: list[str] = []
    held = 0
    for name in names:
        size = 4 * math.prod(shapes[name])
        if batch and held + size > _BYTES_AT_ONCE:
            yield batch
            batch, held = [], 0
        batch.append(name)
        held += size
    if batch:
        yield batch


def _with_outputs(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    already = {value.name for value in watched.graph.output}
    for name in names:
        if name not in already:
            watched.graph.output.append(onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return watched
