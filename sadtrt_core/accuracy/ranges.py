"""Whose numbers a type cannot hold: activations beyond its largest, or mostly below its normal range."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import torch
from onnx import TensorProto
from torch import Tensor

from sadtrt_core.accuracy.findings import REPORT_FILE
from sadtrt_core.accuracy.parts import NO_ARITHMETIC
from sadtrt_core.accuracy.simulate import Simulator
from sadtrt_core.accuracy.torch_graph import constant
from sadtrt_core.graph.edit import constants_to_initializers
from sadtrt_core.graph.typed import quantized_nodes
from sadtrt_core.precision import TORCH_TYPES, ComputeType, Precision

#: Below the normal range a half loses a bit for every halving; where most values lie there, the part computes coarsely.
_MOSTLY = 0.5
_SHOWN = 12
#: A calibrated range is exceeded where another motion does not explain it, and wide where this many times what is seen.
_EXCEEDED, _WIDE = 1.25, 4.0
Kind = Literal["overflow", "clipped", "wide", "underflow"]
What = Literal["output", "weights", "input"]
_KINDS: tuple[Kind, ...] = ("overflow", "clipped", "wide", "underflow")


@dataclass(frozen=True)
class RangeFinding:
    """A node whose values a type cannot hold, measured in fp32 over the workload.

    `largest` is the greatest magnitude, `smallest` the least that is not zero, `below_normal` the share (0 to 1) of
    values not zero that lie under the type's normal range; `what` says whether it is the node's output or its weights,
    or what a quantized convolution reads: then `calibrated` is the range that it was given.
    """

    node: str
    part: str
    kind: Kind
    what: What
    largest: float
    smallest: float
    below_normal: float
    calibrated: float | None = None


def find_ranges(
    simulator: Simulator, indices: Sequence[int], precision: Precision, owners: Mapping[str, str]
) -> tuple[RangeFinding, ...]:
    """Every node of the graph whose outputs over these frames, or whose weights, do not fit the precision's type.

    And every convolution that it quantizes whose calibrated range these frames exceed or leave mostly unused. `owners`
    names the parts of nodes. Overflows come first, the largest first.
    """
    limits = torch.finfo(precision.torch_type)
    plain = deepcopy(simulator.graph)
    constants_to_initializers(plain)
    weights = {t.name: constant(t) for t in plain.graph.initializer if t.data_type == TensorProto.FLOAT}
    # Only what the graph's own nodes read and put out: a sampler's insides are its own affair.
    tensors: list[tuple[str, str, What]] = []
    for node in plain.graph.node:
        if node.op_type not in NO_ARITHMETIC:
            tensors.append((node.output[0], node.name, "output"))
            tensors += [(name, node.name, "weights") for name in node.input if name in weights]
    quantized = quantized_nodes(plain, precision)
    read = {node.name: node.input[0] for node in plain.graph.node if node.name in quantized}
    wanted = {tensor for tensor, _, _ in tensors} | set(read.values())
    # Largest and least magnitude but zero, how many values are not zero, how many of these below the normal range.
    nothing = (0.0, math.inf, 0, 0)
    seen: dict[str, tuple[float, float, int, int]] = {}

    def see(name: str, values: Tensor) -> None:
        if name in wanted:
            sizes = values[values != 0].abs()
            if sizes.numel():
                largest, least, nonzero, below = seen.get(name, nothing)
                largest, least = max(largest, float(sizes.max())), min(least, float(sizes.min()))
                seen[name] = largest, least, nonzero + sizes.numel(), below + int((sizes < limits.tiny).sum())

    simulator.watch(indices, see)
    for name, values in weights.items():
        see(name, values)
    found = []
    for tensor, node_name, what in tensors:
        largest, least, nonzero, below = seen.get(tensor, nothing)
        share = below / max(1, nonzero)
        if largest > limits.max or share > _MOSTLY:
            kind: Kind = "overflow" if largest > limits.max else "underflow"
            part = owners.get(node_name, node_name)
            found.append(RangeFinding(node_name, part, kind, what, largest, least, share))
    ranges = simulator.calibration.ranges if simulator.calibration is not None else {}
    for name, tensor in read.items():
        if tensor not in seen or name not in ranges:
            continue
        largest, least, *_ = seen[tensor]
        excess = largest / ranges[name]
        if not 1 / _WIDE <= excess <= _EXCEEDED:
            kind, part = "clipped" if excess > 1 else "wide", owners.get(name, name)
            found.append(RangeFinding(name, part, kind, "input", largest, least, 0.0, ranges[name]))
    return tuple(sorted(found, key=_badness))


def _badness(finding: RangeFinding) -> tuple[int, float, str]:
    worst = finding.largest / (finding.calibrated or 1.0)
    return _KINDS.index(finding.kind), worst if finding.kind == "wide" else -worst, finding.node


def range_lines(ranges: Sequence[RangeFinding], compute: ComputeType) -> list[str]:
    """The findings for people, the first of each kind."""
    limits = torch.finfo(TORCH_TYPES[compute])
    if not ranges:
        return [f"Every activation and weight fits {compute} over these frames."]
    lines = []
    titles = {
        "overflow": f"Beyond {compute}:",
        "clipped": "Clipped by a calibrated range:",
        "wide": f"Calibrated {_WIDE:g} times as wide as what is seen, or more:",
        "underflow": f"Mostly below {compute}'s normal range:",
    }
    for kind, title in titles.items():
        findings = [finding for finding in ranges if finding.kind == kind]
        if findings:
            lines += [title, *(f"  {_sentence(finding, limits)}" for finding in findings[:_SHOWN])]
        if len(findings) > _SHOWN:
            lines.append(f"  and {len(findings) - _SHOWN} more, in {REPORT_FILE}")
    return lines


def _sentence(finding: RangeFinding, limits: torch.finfo) -> str:
    where = f"{finding.part}: {finding.what} of {finding.node}"
    if finding.kind == "overflow":
        return f"{where} reaches {finding.largest:.3g}, beyond {limits.max:.5g}"
    if finding.calibrated is not None:
        return f"{where} reaches {finding.largest:.3g}, calibrated to {finding.calibrated:.3g}"
    share = f"{finding.below_normal:.0%} of its values that are not zero lie"
    return f"{where}: {share} under {limits.tiny:.2g} (from {finding.smallest:.2g} to {finding.largest:.2g})"
