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
import sys
from pathlib import Path
from typing import Any

from sadtrt_core.config import default_cache
from sadtrt_core.engine import tensorrt_api as api
from sadtrt_core.engine.layers import EngineLayer, accumulators, copies_before, kinds, read_layers
from sadtrt_core.engine.plugin import PLUGIN_NAME, PluginLibrary, find_plugin, load_plugin
from sadtrt_core.errors import Unavailable
from sadtrt_core.files import write_file

INPUTS = ("volume", "grid")


def described(layer: EngineLayer) -> str:
    """A layer in one line: kind, name, what it reads and writes."""
    read, written = (
        " + ".join(f"{'x'.join(map(str, tensor.shape))} {tensor.format}" for tensor in tensors)
        for tensors in (layer.inputs, layer.outputs)
    )
    return f"{layer.kind} {layer.name!r}: {read or 'nothing'} -> {written}{' REPEATS' if layer.repeats else ''}"


def finding(name: str, layers: tuple[EngineLayer, ...]) -> dict[str, Any]:
    """What is said of one engine."""
    before = {name: copies_before(layers, PLUGIN_NAME, position) for position, name in enumerate(INPUTS)}
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
        "samplers": [described(layer) for layer in layers if layer.plugin == PLUGIN_NAME],
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
