"""What an engine is made of, as its inspector tells it: layers, what they read and write, and which only copy."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sadtrt_core.engine.tensorrt_api import create_runtime

#: Kinds of layers that compute nothing, in the words of the inspectors of TensorRT 8.6 to 11.
_COPYING_KINDS = re.compile(r"reformat|shuffle|slice|copy|concat|tile|expand|noop|identity|gather|cast", re.IGNORECASE)
#: The same in names, which come from the graph's nodes: whole words, since fused layers join the names of several.
_COPYING_NAMES = re.compile(r"(?<![a-z])(tile|expand|repeat|reformat|copy)", re.IGNORECASE)
_CONVOLUTION = re.compile(r"conv|fprop", re.IGNORECASE)
_TYPE = r"(?:tf32|bf16|f16|f32|f64|i8|u8|i32|e4m3|e5m2)"
#: How tactics name their accumulator, the first that fits: xmma kernels give two operands, result and accumulator, and
#: the epilogue (f16f16_f16f32_f32); those for CUDA cores say Accfloat; older ones begin the matrix instruction's size,
#: or the library's name, with h, s or i (h16816cudnn, scudnn).
_ACCUMULATORS = (
    re.compile(rf"(?<![a-z0-9]){_TYPE}{_TYPE}_{_TYPE}({_TYPE})_{_TYPE}(?![a-z0-9])", re.IGNORECASE),
    re.compile(r"_acc(float|half|int32)", re.IGNORECASE),
    re.compile(r"(?<![a-z])([hsi])(?=884|1688|8816|16816|16832|cudnn|gemm)", re.IGNORECASE),
)
_ACCUMULATOR_TYPES = {
    "float16": ("f16", "half", "h"),
    "float32": ("f32", "float", "s"),
    "float64": ("f64",),
    "int32": ("i32", "int32", "i"),
}
#: A tensor at a layer's door: its name, its shape, and the inspector's text for its type and layout.
LayerTensor = tuple[str, tuple[int, ...], str]


@dataclass(frozen=True)
class EngineLayer:
    """One layer; `plugin` is the plugin's name, empty for TensorRT's own layers.

    `tactic` names the kernel, or is its number where the inspector gives no name; empty where it gives neither.
    """

    name: str
    kind: str
    plugin: str
    inputs: tuple[LayerTensor, ...]
    outputs: tuple[LayerTensor, ...]
    tactic: str = ""

    @property
    def convolves(self) -> bool:
        """Whether its kind or its tactic is a convolution's."""
        return not self.plugin and bool(_CONVOLUTION.search(self.kind) or _CONVOLUTION.search(self.tactic))

    @property
    def accumulator(self) -> str:
        """The type its sums are kept in, as far as its tactic's name tells; else `unknown`."""
        matches = (pattern.search(self.tactic) for pattern in _ACCUMULATORS)
        word = next((match.group(1).lower() for match in matches if match), "")
        return next((name for name, words in _ACCUMULATOR_TYPES.items() if word in words), "unknown")

    @property
    def copies(self) -> bool:
        """Whether it only moves its inputs about, as far as its kind and name tell."""
        return not self.plugin and bool(_COPYING_KINDS.search(self.kind) or _COPYING_NAMES.search(self.name))

    @property
    def repeats(self) -> bool:
        """Whether it copies and writes more than all it reads: something is written more than once."""
        written, read = (sum(math.prod(shape) for _, shape, _ in door) for door in (self.outputs, self.inputs))
        return self.copies and written > read


def _inspected(trt: Any, plan: bytes, refused: str) -> str:
    """The inspector's JSON; RuntimeError with the sentence `refused` where TensorRT does not load the engine."""
    engine = create_runtime(trt).deserialize_cuda_engine(plan)
    if engine is None:
        raise RuntimeError(refused)
    return engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)


def read_layers(trt: Any, plan: bytes) -> tuple[EngineLayer, ...]:
    """The layers of a serialized engine that was built with detailed verbosity, in the order they run.

    Needs the GPU the engine was built on and the plugins it uses. Raises RuntimeError where the engine cannot be
    loaded or its layers bear names alone, ValueError where the inspector's answer is not JSON.
    """
    refused = "the engine cannot be loaded by this TensorRT on this GPU: build it again"
    return parse_layers(_inspected(trt, plan, refused))


def _entries(text: str) -> list[Any]:
    # 8.6 leaves control characters in names: strict JSON has none.
    return json.loads(text, strict=False).get("Layers", [])


def parse_layers(text: str) -> tuple[EngineLayer, ...]:
    """The layers in an inspector's JSON. Raises as `read_layers` does."""
    layers = _entries(text)
    if any(not isinstance(layer, dict) for layer in layers):
        raise RuntimeError("the engine names its layers only: it was built without detailed profiling verbosity")
    return tuple(
        EngineLayer(
            name=str(layer.get("Name", "")),
            kind=str(layer.get("LayerType", "")),
            plugin=str(layer.get("PluginType", "")),
            inputs=_tensors(layer.get("Inputs", [])),
            outputs=_tensors(layer.get("Outputs", [])),
            tactic=_tactic(layer),
        )
        for layer in layers
    )


def _tactic(layer: Mapping[str, Any]) -> str:
    # Spelled with a small or a capital letter; some layers have only a number, which may come as one.
    found = {key.lower(): str(value).strip() for key, value in layer.items() if key.lower().startswith("tactic")}
    return found.get("tacticname") or found.get("tacticvalue") or found.get("tactic") or ""


def _tensors(entries: Sequence[Any]) -> tuple[LayerTensor, ...]:
    return tuple(
        (
            str(entry.get("Name", "")),
            tuple(int(size) for size in entry.get("Dimensions", ())),
            next((str(value) for key, value in entry.items() if key.startswith("Format")), ""),
        )
        for entry in entries
        if isinstance(entry, dict)
    )


def kinds(layers: Sequence[EngineLayer]) -> Counter[str]:
    """How many layers there are of each kind; plugins by their own name."""
    return Counter(layer.plugin or layer.kind for layer in layers)


def accumulators(layers: Sequence[EngineLayer]) -> Counter[str]:
    """How many convolutions keep their sums in which type."""
    return Counter(layer.accumulator for layer in layers if layer.convolves)


def copies_before(layers: Sequence[EngineLayer], plugin: str, position: int) -> tuple[EngineLayer, ...]:
    """The copying layers between a plugin's input number `position` and the first layers that compute it."""
    makers = {name: layer for layer in layers for name, _, _ in layer.outputs}
    found: dict[str, EngineLayer] = {}
    waiting = [layer.inputs[position][0] for layer in layers if layer.plugin == plugin and len(layer.inputs) > position]
    while waiting:
        maker = makers.get(waiting.pop())
        if maker is not None and maker.copies and maker.name not in found:
            found[maker.name] = maker
            waiting.extend(name for name, _, _ in maker.inputs)
    return tuple(found.values())


def kept_sentence(trt: Any, plan: bytes, kept: frozenset[str]) -> str:
    """How many of the tensors that a mixed graph keeps in float32 the engine that was just built has in half.

    `kept` comes from `constraints.kept_names`. Those that are no output of any layer any more were fused away. Where
    the engine cannot be inspected the sentence says why.
    """
    try:
        layers = _entries(_inspected(trt, plan, "the engine that was just built cannot be loaded"))
    except (RuntimeError, json.JSONDecodeError) as error:
        return f"the types of the engine's layers could not be read back: {error}"
    shown: dict[str, bool] = {}
    for layer in layers:
        if not isinstance(layer, dict):
            continue  # Names alone: the engine was built without detailed verbosity.
        for output in layer.get("Outputs", []):
            name = output.get("Name")
            if name in kept:
                kind = " ".join(str(value) for key, value in output.items() if key != "Name")
                shown[name] = "FP16" in kind or "Half" in kind
    in_half = sorted(name for name, half in shown.items() if half)
    text = f"of {len(kept)} tensors kept in float32 the engine shows {len(shown)}, {len(in_half)} in half"
    return f"{text} ({', '.join(in_half[:3])})" if in_half else text
