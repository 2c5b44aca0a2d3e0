"""What an engine is made of, as its inspector tells it: layers, what they read and write, and which only copy."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sadtrt_core.engine.tensorrt_api import create_runtime

#: Kinds of layers that compute nothing, in the words of the inspectors of TensorRT 8.6 to 11.
_COPYING_KINDS = re.compile(r"reformat|shuffle|slice|copy|concat|tile|expand|noop|identity|gather|cast", re.IGNORECASE)
#: The same in names, which come from the graph's nodes: whole words, since fused layers join the names of several.
_COPYING_NAMES = re.compile(r"(?<![a-z])(tile|expand|repeat|reformat|copy)", re.IGNORECASE)


@dataclass(frozen=True)
class LayerTensor:
    """One tensor at a layer's door. `format` is the inspector's text for type and layout."""

    name: str
    shape: tuple[int, ...]
    format: str

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class EngineLayer:
    """One layer; `plugin` is the plugin's name, empty for TensorRT's own layers."""

    name: str
    kind: str
    plugin: str
    inputs: tuple[LayerTensor, ...]
    outputs: tuple[LayerTensor, ...]

    @property
    def copies(self) -> bool:
        """Whether it only moves its inputs about, as far as its kind and name tell."""
        if self.plugin:
            return False
        return bool(_COPYING_KINDS.search(self.kind) or _COPYING_NAMES.search(self.name))

    @property
    def repeats(self) -> bool:
        """Whether it copies and writes more than all it reads: something is written more than once."""
        written, read = (sum(tensor.elements for tensor in tensors) for tensors in (self.outputs, self.inputs))
        return self.copies and written > read


def read_layers(trt: Any, plan: bytes) -> tuple[EngineLayer, ...]:
    """The layers of a serialised engine that was built with detailed verbosity, in the order they run.

    Needs the GPU the engine was built on and the plugins it uses. Raises RuntimeError where the engine cannot be
    loaded or its layers bear names alone, ValueError where the inspector's answer is not JSON.
    """
    engine = create_runtime(trt).deserialize_cuda_engine(plan)
    if engine is None:
        raise RuntimeError("the engine cannot be loaded by this TensorRT on this GPU: build it again")
    return parse_layers(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))


def parse_layers(text: str) -> tuple[EngineLayer, ...]:
    """The layers in an inspector's JSON. Raises as `read_layers` does."""
    # 8.6 leaves control characters in names: strict JSON has none.
    layers = json.loads(text, strict=False).get("Layers", [])
    if any(not isinstance(layer, dict) for layer in layers):
        raise RuntimeError("the engine names its layers only: it was built without detailed profiling verbosity")
    return tuple(
        EngineLayer(
            name=str(layer.get("Name", "")),
            kind=str(layer.get("LayerType", "")),
            plugin=str(layer.get("PluginType", "")),
            inputs=_tensors(layer.get("Inputs", [])),
            outputs=_tensors(layer.get("Outputs", [])),
        )
        for layer in layers
    )


def _tensors(entries: Sequence[Any]) -> tuple[LayerTensor, ...]:
    return tuple(
        LayerTensor(
            name=str(entry.get("Name", "")),
            shape=tuple(int(size) for size in entry.get("Dimensions", ())),
            format=next((str(value) for key, value in entry.items() if key.startswith("Format")), ""),
        )
        for entry in entries
        if isinstance(entry, dict)
    )


def kinds(layers: Sequence[EngineLayer]) -> Counter[str]:
    """How many layers there are of each kind; plugins by their own name."""
    return Counter(layer.plugin or layer.kind for layer in layers)


def copies_before(layers: Sequence[EngineLayer], plugin: str, position: int) -> tuple[EngineLayer, ...]:
    """The copying layers between a plugin's input number `position` and the first layers that compute it."""
    makers = {tensor.name: layer for layer in layers for tensor in layer.outputs}
    found: dict[str, EngineLayer] = {}
    waiting = [
        layer.inputs[position].name for layer in layers if layer.plugin == plugin and len(layer.inputs) > position
    ]
    while waiting:
        maker = makers.get(waiting.pop())
        if maker is not None and maker.copies and maker.name not in found:
            found[maker.name] = maker
            waiting.extend(tensor.name for tensor in maker.inputs)
    return tuple(found.values())
