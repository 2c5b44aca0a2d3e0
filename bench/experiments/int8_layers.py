"""What an int8 engine's layers say: which convolutions read eight bits, and where the time goes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sadtrt_core.engine.layers import UNKNOWN, EngineLayer

#: What TensorRT puts between the names of what it fused (one after the other, side by side, pointwise, by Myelin) and
#: before what its own tools are to read.
_SEPARATORS = re.compile(r"\s\+\s|\s\|\|\s|[,()\[\]{}]|[\x00-\x1f]")
_TYPE = r"(?:bf16|f16|f32|tf32|i8|u8|i32)"
#: Two operand or result types, operand and accumulator, and the epilogue's, as tactics are named.
_SIGNATURE = re.compile(rf"(?<![a-z0-9])({_TYPE}{_TYPE}_{_TYPE}{_TYPE}_{_TYPE})(?![a-z0-9])")
_FORMAT = re.compile(r"int8|fp16|half|fp32|float", re.IGNORECASE)
_FORMAT_NAMES = {"int8": "int8", "fp16": "half", "half": "half", "fp32": "float32", "float": "float32"}
INT8_GROUP, OTHER_GROUP, COPIES, REST = "int8 convolutions", "other convolutions", "copies", "the rest"
GROUPS = (INT8_GROUP, OTHER_GROUP, COPIES, REST)


def node_names(layer: str) -> frozenset[str]:
    """The names of nodes that a layer's name is joined from."""
    return frozenset(part.strip() for part in _SEPARATORS.split(layer) if part.strip())


def element_type(text: str) -> str:
    """int8, half or float32 in an inspector's words for a format; UNKNOWN otherwise."""
    match = _FORMAT.search(text)
    return _FORMAT_NAMES[match.group().lower()] if match else UNKNOWN


def reads_int8(layer: EngineLayer) -> bool:
    """Whether its first input, a convolution's activation, is of eight bits."""
    return bool(layer.inputs) and element_type(layer.inputs[0].format) == "int8"


def signature(layer: EngineLayer) -> str:
    """The types in its tactic's name (two operands or operand and result, operand and sum, epilogue), else UNKNOWN."""
    match = _SIGNATURE.search(layer.tactic)
    return match.group(1) if match else UNKNOWN


@dataclass(frozen=True)
class Convolutions:
    """An engine's convolutions beside those that its graph quantises, by the names of their nodes.

    `merged` counts the convolutions of each layer that holds several in eight bits; `tactics` and `results` count the
    eight-bit layers by their tactic's types and by the type of what they put out.
    """

    quantized: int
    in_int8: int
    int8_though_spared: tuple[str, ...]
    not_int8_though_quantised: tuple[str, ...]
    shown_nowhere: tuple[str, ...]
    merged: tuple[int, ...]
    tactics: dict[str, int]
    results: dict[str, int]

    def lines(self) -> list[str]:
        """In words, for people."""
        counts = f"{self.in_int8} of {self.quantized} quantised convolutions read int8"
        if self.merged:
            counts += f", merged: {', '.join(map(str, self.merged))} in one layer"
        found = [counts]
        if self.tactics:
            found.append(f"their tactics: {_counted(self.tactics)}; what they put out: {_counted(self.results)}")
        for what, names in (
            ("int8 though spared", self.int8_though_spared),
            ("not int8 though quantised", self.not_int8_though_quantised),
            ("quantised, in no layer's name", self.shown_nowhere),
        ):
            if names:
                found.append(f"{what}: {len(names)} ({', '.join(names[:6])}{', ...' if len(names) > 6 else ''})")
        return found


def compare_convolutions(
    layers: Sequence[EngineLayer], every: Collection[str], quantized: Collection[str]
) -> Convolutions:
    """Which convolutions the engine computes in eight bits, against what the graph says."""
    int8: set[str] = set()
    other: set[str] = set()
    merged: list[int] = []
    tactics: Counter[str] = Counter()
    results: Counter[str] = Counter()
    for layer in layers:
        held = node_names(layer.name) & frozenset(every)
        if not held:
            continue
        if not reads_int8(layer):
            other |= held
            continue
        int8 |= held
        tactics[signature(layer)] += 1
        results[element_type(layer.outputs[0].format) if layer.outputs else UNKNOWN] += 1
        if len(held) > 1:
            merged.append(len(held))
    wanted = frozenset(quantized)
    return Convolutions(
        quantized=len(wanted),
        in_int8=len(wanted & int8),
        int8_though_spared=tuple(sorted(int8 - wanted)),
        not_int8_though_quantised=tuple(sorted((wanted & other) - int8)),
        shown_nowhere=tuple(sorted(wanted - int8 - other)),
        merged=tuple(sorted(merged, reverse=True)),
        tactics=dict(tactics.most_common()),
        results=dict(results.most_common()),
    )


def group_of(layer: EngineLayer, every: Collection[str]) -> str:
    """Which of GROUPS a layer's time belongs to."""
    if node_names(layer.name) & frozenset(every) or layer.convolves:
        return INT8_GROUP if reads_int8(layer) else OTHER_GROUP
    return COPIES if layer.copies else REST


@dataclass(frozen=True)
class Times:
    """Milliseconds of a call by group; `untold` is that of timed layers whose name no layer of the inspector has.

    `quantised_ms` is the time of every layer that holds a convolution which the form quantises, whatever type it has.
    """

    groups: dict[str, float]
    counts: dict[str, int]
    untold: float
    quantised_ms: float

    @property
    def total(self) -> float:
        return sum(self.groups.values()) + self.untold

    def line(self) -> str:
        parts = [f"{self.groups[name]:.3f} {name} ({self.counts[name]})" for name in GROUPS]
        untold = f" + {self.untold:.3f} of unknown layers" if self.untold else ""
        return f"layers: {' + '.join(parts)}{untold} = {self.total:.3f} ms"

    def against(self, reference: Times, same_convolutions_ms: float) -> str:
        """What is gained and lost against the engine without int8, whose layers of the same convolutions take that."""
        changes = {name: self.groups[name] - reference.groups[name] for name in GROUPS}
        convolutions = changes[INT8_GROUP] + changes[OTHER_GROUP]
        untold = self.untold - reference.untold
        return (
            f"against half: convolutions {convolutions:+.3f}, copies {changes[COPIES]:+.3f}, "
            f"the rest {changes[REST] + untold:+.3f} ms; layers of the quantised convolutions "
            f"{self.quantised_ms:.3f} ms, in half {same_convolutions_ms:.3f}"
        )


def group_times(
    layers: Sequence[EngineLayer],
    times: Mapping[str, float],
    every: Collection[str],
    quantized: Collection[str],
) -> Times:
    """A profiler's milliseconds of each layer, by its name, put into groups."""
    known = {plain_name(layer.name): group_of(layer, every) for layer in layers}
    groups, counts, untold = dict.fromkeys(GROUPS, 0.0), dict.fromkeys(GROUPS, 0), 0.0
    for name, ms in times.items():
        group = known.get(plain_name(name))
        if group is None:
            untold += ms
        else:
            groups[group] += ms
            counts[group] += 1
    return Times(groups, counts, untold, convolutions_ms(times, quantized))


def convolutions_ms(times: Mapping[str, float], names: Collection[str]) -> float:
    """Milliseconds of the layers that hold any of these convolutions."""
    wanted = frozenset(names)
    return sum(ms for layer, ms in times.items() if node_names(layer) & wanted)


def plain_name(name: str) -> str:
    """A layer's name without what follows a control character."""
    return re.split(r"[\x00-\x1f]", name, maxsplit=1)[0].strip()


def listed(layers: Sequence[EngineLayer]) -> list[dict[str, Any]]:
    """The layers as plain data."""
    return [
        {
            "name": layer.name,
            "kind": layer.kind,
            "in": [tensor.format for tensor in layer.inputs],
            "out": [tensor.format for tensor in layer.outputs],
            "tactic": layer.tactic,
        }
        for layer in layers
    ]


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
