"""Plans: precisions found by search, as TOML files that people read and `--precision` takes.

    format = "sadtrt plan 1"
    base = "float16"
    why = "the least arithmetic in fp32 that holds 60 dB and 2 levels"

    [[keep]]
    nodes = ["coordinates"]
    why = "+14.2 dB for 0.1 % of the arithmetic"

    [quantize]
    type = "int8"
    nodes = ["/decoder/G_middle_0/conv_?/*"]
    why = "the fastest engine found that holds 60 dB and 2 levels"

    [measured]
    psnr_min_db = 74.1

    [versions]
    sadtrt = "0.1.0"

`nodes` are shell-style patterns over the generator's ONNX node names; the word "coordinates" stands for everything
between a sampling grid and the nearest convolution, "picture" for everything from the last convolution, that one
included, to the rendered picture. `quantize` may be absent; its convolutions compute in int8 or fp8. Every plan splits
very long sums of few outputs (split-K, graph/split_k.py) and, with the plugin, has its operators. A plan's name is its
file's, without the ending.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sadtrt_core.codec import from_json, json_digest
from sadtrt_core.errors import UserError, printable
from sadtrt_core.files import keep_file, read_toml
from sadtrt_core.precision import (
    COORDINATES,
    PICTURE,
    PLAN_SUFFIX,
    PRECISIONS,
    TORCH_TYPES,
    ComputeType,
    Precision,
    Quantization,
    QuantizedType,
)

FORMAT = "sadtrt plan 1"
Fact = str | int | float | bool
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEY = re.compile(r"[a-z0-9_]{1,40}")
_SLICES = frozenset({COORDINATES, PICTURE})


@dataclass(frozen=True)
class Keep:
    """Nodes that stay fp32, and why: shell-style patterns over node names, or one of the words for a slice."""

    nodes: tuple[str, ...]
    why: str

    def __post_init__(self) -> None:
        _require_reason(self.why)
        if not self.nodes:
            raise UserError("a part that a plan keeps names no node: give at least one pattern in `nodes`")
        for pattern in self.nodes:
            if pattern not in _SLICES and not (pattern.startswith("/") and pattern.isprintable()):
                raise UserError(
                    f"{pattern[:80]!r} cannot name a node to keep: expected {COORDINATES!r}, {PICTURE!r} or a pattern "
                    "that starts with a slash, such as '/decoder/up_1/*'"
                )


@dataclass(frozen=True)
class Quantize:
    """Convolutions on operands of eight bits, and why: shell-style patterns over node names."""

    type: QuantizedType
    nodes: tuple[str, ...]
    why: str

    def __post_init__(self) -> None:
        _require_reason(self.why)
        if not self.nodes or not all(pattern.startswith("/") and pattern.isprintable() for pattern in self.nodes):
            raise UserError("`nodes` of quantize: expected patterns that start with a slash, one at least")


@dataclass(frozen=True)
class Plan:
    """A base type, what is kept from it, and what is quantized.

    `measured` and `versions` are facts for people; nothing computes by them. Raises UserError for a name that is a
    built-in precision's or no plain file name, and for a base that is not low.
    """

    name: str
    base: ComputeType
    why: str
    keep: tuple[Keep, ...] = ()
    measured: dict[str, Fact] = field(default_factory=dict)
    versions: dict[str, Fact] = field(default_factory=dict)
    quantize: Quantize | None = None

    def __post_init__(self) -> None:
        _require_reason(self.why)
        if self.name in PRECISIONS:
            raise UserError(f"a plan cannot be called {self.name!r}: that is a built-in precision; rename the file")
        if not _NAME.fullmatch(self.name):
            raise UserError(
                f"a plan cannot be called {self.name[:80]!r}: expected at most 64 letters, digits, dots, dashes and "
                "underscores; rename the file"
            )
        low = [kind for kind in TORCH_TYPES if kind != "float32"]
        if self.base not in low:
            raise UserError(f"base type {self.base!r} is not one a plan can have: expected {' or '.join(low)}")

    @property
    def precision(self) -> Precision:
        """The plan as a precision, to be used wherever a built-in one is; every plan has split-K and the operators."""
        nodes = tuple(dict.fromkeys(pattern for part in self.keep for pattern in part.nodes))
        quantize = self.quantize
        return Precision(
            self.name,
            self.base,
            self.why,
            keep_coordinates=COORDINATES in nodes,
            keep_picture=PICTURE in nodes,
            keep_nodes=tuple(pattern for pattern in nodes if pattern not in _SLICES),
            quantize=None if quantize is None else Quantization(quantize.type, quantize.nodes),
            split_k=True,
            operators=True,
        )


def _require_reason(why: str) -> None:
    if not why.strip():
        raise UserError("why is empty: expected text in quotes")


def read_plan(path: Path) -> Plan:
    """The plan in a file, of which nothing is ever run.

    Raises UserError, one sentence that names the file, for what is missing, over 1 MiB, not TOML, of another format,
    or has an entry that is unknown, absent or of a wrong type.
    """
    data = read_toml(path)
    try:
        return _plan(path.name.removesuffix(PLAN_SUFFIX), data)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _plan(name: str, data: dict[str, Any]) -> Plan:
    if data.pop("format", None) != FORMAT:
        raise UserError(f"it is of another format: expected format = {FORMAT!r}")
    if "name" in data:
        raise UserError("the plan has the unknown field 'name': it is called as its file is")
    return from_json(Plan, {"name": name, **data}, "the plan")


def plan_text(plan: Plan) -> str:
    """The plan as TOML that `read_plan` reads back to an equal plan of the file's name. Raises UserError."""
    lines = [
        "# What each part of the renderer computes in, found by `sadtrt search`. Use it: --precision path/to/this.toml",
        f"format = {_quoted(FORMAT)}",
        f"base = {_quoted(plan.base)}",
        f"why = {_quoted(plan.why)}",
    ]
    for part in plan.keep:
        lines += ["", "[[keep]]", f"nodes = {_listed(part.nodes)}", f"why = {_quoted(part.why)}"]
    if plan.quantize is not None:
        lines += ["", "[quantize]", f"type = {_quoted(plan.quantize.type)}"]
        lines += [f"nodes = {_listed(plan.quantize.nodes)}", f"why = {_quoted(plan.quantize.why)}"]
    for title, facts in (("measured", plan.measured), ("versions", plan.versions)):
        if facts:
            lines += ["", f"[{title}]", *(f"{_key(name)} = {_value(name, value)}" for name, value in facts.items())]
    return "\n".join(lines) + "\n"


def write_plan(plan: Plan, path: Path) -> None:
    """Write the plan, whole or not at all. Raises UserError for a path whose name is not the plan's."""
    if path.name != plan.name + PLAN_SUFFIX:
        raise UserError(f"plan {plan.name!r} cannot be written as {path.name}: expected {plan.name}{PLAN_SUFFIX}")
    keep_file(path, plan_text(plan))


def require_plan_place(path: Path) -> None:
    """UserError unless nothing, or an earlier plan, is at `path`: what else stands there is somebody's."""
    try:
        if os.path.lexists(path):
            read_plan(path)
    except UserError as error:
        raise UserError(f"{path} is there already and is no plan: choose another name, or move it away") from error


def _listed(patterns: tuple[str, ...]) -> str:
    nodes = [_quoted(pattern) for pattern in patterns]
    return f"[{nodes[0]}]" if len(nodes) == 1 else "[\n" + "".join(f"    {node},\n" for node in nodes) + "]"


def _quoted(text: str) -> str:
    # JSON's escapes are TOML's.
    return json.dumps(printable(text), ensure_ascii=False)


def _key(name: str) -> str:
    if not _KEY.fullmatch(name):
        raise UserError(f"{name!r} cannot be the name of a fact: expected small letters, digits and underscores")
    return name


def _value(name: str, value: Fact) -> str:
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name} is {value}: leave out what has no number")
    return json.dumps(value)


def precision_digest(precision: Precision) -> str:
    """SHA-256 in hexadecimal of what a precision computes, whatever it is called and for whatever reason."""
    content = dataclasses.asdict(precision)
    return json_digest({name: value for name, value in content.items() if name not in ("name", "why")})


def precision_named(name: str) -> Precision:
    """The precision of that name, or of the plan in a file whose name ends in .toml.

    Raises UserError for a name that is not known, with those there are, and for a file that is no plan.
    """
    if name.endswith(PLAN_SUFFIX):
        return read_plan(Path(name)).precision
    if name not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise UserError(f"precision {name!r} is not known: expected one of {known}, or a plan's file such as plan.toml")
    return PRECISIONS[name]
