"""What are built engines made of: which layers, in which type do convolutions sum, what is copied before a sampler?

    python bench/studies/engine_layers.py                           # the cache's generator engines with the plugin
    python bench/studies/engine_layers.py CACHE/engines/motion-*    # or any others
    python bench/studies/engine_layers.py --out engine-layers.json

For the GPU, the TensorRT and the plugin that built them. Exit status: 0 no layer before a sampler repeats anything, 1
one does, 2 nothing could be read.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sadtrt_core.config import default_cache
from sadtrt_core.engine import tensorrt_api as api
from sadtrt_core.engine.plugin import PluginLibrary, find_plugin, load_plugin
from sadtrt_core.errors import Unavailable
from sadtrt_core.files import write_file
from sadtrt_core.renderer.sampling import NODE_TYPE

INPUTS = ("volume", "grid")
#: Kinds of layers that compute nothing, in the words of the inspectors of TensorRT 8.6 to 11.
_COPYING_KINDS = re.compile(r"reformat|shuffle|slice|copy|concat|tile|expand|noop|identity|gather|cast", re.IGNORECASE)
#: The same in names, which come from the graph's nodes: whole words, since fused layers join the names of several.
_COPYING_NAMES = re.compile(r"(?<![a-z])(tile|expand|repeat|reformat|copy)", re.IGNORECASE)
_REGION = re.compile(r"myelin|foreignnode", re.IGNORECASE)
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
    def is_region(self) -> bool:
        """Whether TensorRT made it of several nodes by its own compiler, Myelin."""
        return not self.plugin and bool(_REGION.search(self.kind) or _REGION.search(self.name))

    @property
    def copies(self) -> bool:
        """Whether it only moves its inputs about, as far as its kind and name tell."""
        return not self.plugin and bool(_COPYING_KINDS.search(self.kind) or _COPYING_NAMES.search(self.name))

    @property
    def repeats(self) -> bool:
        """Whether it copies and writes more than all it reads: something is written more than once."""
        written, read = (sum(math.prod(shape) for _, shape, _ in door) for door in (self.outputs, self.inputs))
        return self.copies and written > read


def read_layers(trt: Any, plan: bytes) -> tuple[EngineLayer, ...]:
    """The layers of a serialized engine that was built with detailed verbosity, in the order they run.

    Needs the GPU the engine was built on and the plugins it uses. Raises RuntimeError where the engine cannot be
    loaded or its layers bear names alone, ValueError where the inspector's answer is not JSON.
    """
    engine = api.create_runtime(trt).deserialize_cuda_engine(plan)
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


def between_convolutions(layers: Sequence[EngineLayer], part: str) -> tuple[EngineLayer, ...]:
    """The layers that only copy, and TensorRT's own regions (Myelin), between two convolutions whose names hold `part`.

    What lies between two of them is read, through layers that are none, from one and by another.
    """
    inside = _beside_convolutions(layers, part, forwards=True) & _beside_convolutions(layers, part, forwards=False)
    return tuple(layer for layer in layers if layer.name in inside and (layer.copies or layer.is_region))


def _beside_convolutions(layers: Sequence[EngineLayer], part: str, forwards: bool) -> set[str]:
    """Names of the layers behind such convolutions, or before them, up to the next convolution of any name."""
    neighbours: dict[str, list[EngineLayer]] = {}
    for layer in layers:
        for name, _, _ in layer.inputs if forwards else layer.outputs:
            neighbours.setdefault(name, []).append(layer)
    found: set[str] = set()
    waiting = [layer for layer in layers if layer.convolves and part in layer.name]
    while waiting:
        layer = waiting.pop()
        for name, _, _ in layer.outputs if forwards else layer.inputs:
            others = [one for one in neighbours.get(name, ()) if not one.convolves and one.name not in found]
            found.update(one.name for one in others)
            waiting += others
    return found


def described(layer: EngineLayer) -> str:
    """A layer in one line: kind, name, what it reads and writes."""
    read, written = (
        " + ".join(f"{'x'.join(map(str, shape))} {layout}" for _, shape, layout in tensors)
        for tensors in (layer.inputs, layer.outputs)
    )
    return f"{layer.kind} {layer.name!r}: {read or 'nothing'} -> {written}{' REPEATS' if layer.repeats else ''}"


def finding(name: str, layers: tuple[EngineLayer, ...]) -> dict[str, Any]:
    """What is said of one engine."""
    before = {name: copies_before(layers, NODE_TYPE, position) for position, name in enumerate(INPUTS)}
    return {
        "engine": name,
        "layers": len(layers),
        "kinds": dict(kinds(layers).most_common()),
        "accumulators": dict(accumulators(layers).most_common()),
        "convolutions": [
            {"layer": layer.name, "accumulator": layer.accumulator, "tactic": layer.tactic}
            for layer in layers
            if layer.convolves
        ],
        "samplers": [described(layer) for layer in layers if layer.plugin == NODE_TYPE],
        "copies_before": {name: [described(layer) for layer in found] for name, found in before.items()},
        "repeats": [layer.name for found in before.values() for layer in found if layer.repeats],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", type=Path, nargs="*", help="engine files")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="as the benchmarks'")
    parser.add_argument("--out", type=Path, help="write the findings as JSON, with every convolution's tactic")
    options = parser.parse_args()
    engines = options.engines or sorted((options.cache / "engines").glob("generator-*-plugin-*.engine"))
    trt, library = api.tensorrt_module(), find_plugin()
    if not engines:
        print(f"no generator engine with the plugin in {options.cache / 'engines'}: run `sadtrt build` first")
        return 2
    if isinstance(trt, Unavailable) or not isinstance(library, PluginLibrary):
        print(f"the engines cannot be read: {trt if isinstance(trt, Unavailable) else library}")
        return 2
    try:
        load_plugin(library, trt)
        findings = [finding(path.name, read_layers(trt, path.read_bytes())) for path in engines]
    except (OSError, RuntimeError, ValueError) as error:
        print(f"the engines cannot be read: {error}")
        return 2
    told = [{key: value for key, value in found.items() if key != "convolutions"} for found in findings]
    print(json.dumps(told, indent=1))
    if options.out:
        write_file(options.out, json.dumps(findings, indent=1) + "\n")
    return 1 if any(found["repeats"] for found in findings) else 0


if __name__ == "__main__":
    sys.exit(main())
