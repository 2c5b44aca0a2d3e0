"""Which convolutions compute in eight bits: those that gain the most for what they lose, as far as a budget goes.

What a piece loses is simulated alone. What it gains is measured where there are engines: those that quantize every
piece of one kind tell which kinds gain at all, and pieces of a kind have the same shapes and gain alike. Elsewhere its
arithmetic stands for time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx

from sadtrt_core.accuracy.confirm import Confirmed
from sadtrt_core.accuracy.findings import Budget, Loss, worst_frames
from sadtrt_core.accuracy.greedy import Trials, squared_errors
from sadtrt_core.graph.typed import quantized_nodes
from sadtrt_core.precision import CANDIDATES, Precision, Quantization, QuantizedType

#: Engines lose some dB that the rounded graph does not: the second set of pieces has so many to spare there.
MARGINS_DB = (0.0, 3.0)
#: Measures precisions as engines, in their order; one that cannot be built is left out.
Measure = Callable[[Sequence[Precision]], list[Confirmed]]


@dataclass(frozen=True)
class Piece:
    """Convolutions that are quantized together: one, or gamma and beta of a norm, which its operator reads as one."""

    name: str
    kind: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Chosen:
    """The pieces of the plan, or None where none holds the budget, and its engine where engines were measured.

    `simulated` is what its types alone lose over all frames; `engines` are all that were measured.
    """

    pieces: tuple[Piece, ...] | None
    simulated: Loss
    engine: Confirmed | None = None
    engines: tuple[Confirmed, ...] = ()


def pieces_of(graph: onnx.ModelProto) -> tuple[Piece, ...]:
    """What may be quantized of the generator's graph, in its order."""
    candidates = quantized_nodes(graph, Precision("candidates", "float16", "to be named", quantize=CANDIDATES))
    found: dict[tuple[str, str], list[str]] = {}
    for node in graph.graph.node:
        if node.name in candidates:
            # /decoder/G_middle_0/norm_0/mlp_gamma/Conv, /decoder/up_0/conv_1/Conv
            folder, block, layer = node.name.split("/")[1:4]
            role = "modulation" if layer.startswith("norm") else "convolution"
            key = (f"/{folder}/{block}/{layer}", f"{block.rstrip('0123456789_')} {role}")
            found.setdefault(key, []).append(node.name)
    return tuple(Piece(name, kind, tuple(nodes)) for (name, kind), nodes in found.items())


def quantizing(base: Precision, pieces: Sequence[Piece], kind: QuantizedType, name: str = "candidate") -> Precision:
    """`base` with the convolutions of these pieces in eight bits; without pieces the base's arithmetic."""
    nodes = tuple(node for piece in pieces for node in piece.nodes)
    return replace(base, name=name, quantize=Quantization(kind, nodes) if nodes else None)


def choose(
    trials: Trials, base: Precision, kind: QuantizedType, budget: Budget, worst: int, measure: Measure | None = None
) -> Chosen:
    """The pieces to quantize on `base`, which quantizes nothing itself.

    By the least latency that `measure` finds among the engines that hold the budget, or without it by the most
    arithmetic whose rounded graph does. Deterministic: with the same journal it asks for the same trials and engines.
    """
    pieces, every = pieces_of(trials.simulator.graph), trials.every_frame

    def drift_of(chosen: Sequence[Piece], frames: Sequence[int]) -> list[float]:
        return squared_errors(trials.of(quantizing(base, chosen, kind), frames))

    def simulated(chosen: Sequence[Piece]) -> Loss:
        return Loss.of(trials.of(quantizing(base, chosen, kind), every))

    frames = worst_frames(trials.of(quantizing(base, pieces, kind), every), worst)
    plain = drift_of((), frames)
    added = {
        piece: [max(0.0, error - before) for error, before in zip(drift_of([piece], frames), plain, strict=True)]
        for piece in pieces
    }

    def enough(gains: Mapping[Piece, float], wanted: Budget) -> tuple[Piece, ...]:
        """Pieces in the order of what they gain for what they lose, until the budget is used up."""
        gaining = [piece for piece in pieces if gains[piece] > 0]
        allowed, spent = 10 ** (-wanted.min_psnr_db / 10), plain
        kept: list[Piece] = []
        for piece in sorted(gaining, key=lambda piece: (sum(added[piece]) / gains[piece], piece.name)):
            total = [before + more for before, more in zip(spent, added[piece], strict=True)]
            if max(total) <= allowed:
                kept, spent = [*kept, piece], total
        while kept and not wanted.met_by(simulated(kept)):
            kept.pop()
        return tuple(kept)

    if measure is None:
        kept = enough({piece: trials.cost(piece.nodes) for piece in pieces}, budget)
        return Chosen(kept if kept and budget.met_by(simulated(kept)) else None, simulated(kept))

    kinds = tuple(dict.fromkeys(piece.kind for piece in pieces))
    of_kind = {name: tuple(piece for piece in pieces if piece.kind == name) for name in kinds}
    sets: dict[str, tuple[Piece, ...]] = {**of_kind, "everything": pieces}

    def measured(names: Sequence[str]) -> dict[str, Confirmed]:
        named = {name: name.replace(" ", "-") if sets[name] else base.name for name in names}
        done = {one.precision.name: one for one in measure([quantizing(base, sets[n], kind, named[n]) for n in names])}
        return {name: done[named[name]] for name in names if named[name] in done}

    # The base first: what the others gain is counted from it.
    sets = {"nothing": (), **sets}
    engines = measured(tuple(sets))
    gains = {piece: _gain(engines, piece.kind) / len(of_kind[piece.kind]) for piece in pieces}
    for margin in MARGINS_DB:
        kept = enough(gains, Budget(budget.min_psnr_db + margin, budget.max_lsb))
        if kept and set(kept) not in map(set, sets.values()):
            sets[f"{margin:g} dB to spare"] = kept
    engines |= measured([name for name in sets if name.endswith("to spare")])
    holding = {name: one for name, one in engines.items() if sets[name] and budget.met_by(one.loss)}
    # What is no faster than the base is no reason to quantize.
    faster = {name: one for name, one in holding.items() if _gain(engines, name) > 0}
    if not faster:
        return Chosen(None, simulated(pieces), None, tuple(engines.values()))
    best = min(faster, key=lambda name: (faster[name].latency_ms, name))
    return Chosen(sets[best], simulated(sets[best]), engines[best], tuple(engines.values()))


def _gain(engines: Mapping[str, Confirmed], name: str) -> float:
    """Milliseconds that an engine gains on that which quantizes nothing; none within noise, or not built."""
    if name not in engines or "nothing" not in engines:
        return 0.0
    base, engine = engines["nothing"], engines[name]
    noise = base.half_width * base.latency_ms + engine.half_width * engine.latency_ms
    gained = base.latency_ms - engine.latency_ms
    return gained if gained > noise else 0.0
