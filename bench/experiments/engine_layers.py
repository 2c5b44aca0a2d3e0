"""What built engines are made of: layers, the types convolutions sum in, and copies before GridSample3D layers.

    python bench/experiments/engine_layers.py                           # the cache's generator engines with the plugin
    python bench/experiments/engine_layers.py CACHE/engines/motion-*    # or any others

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
from sadtrt_core.engine.layers import UNKNOWN, EngineLayer, accumulators, copies_before, kinds, read_layers
from sadtrt_core.engine.plugin import PLUGIN_NAME, PluginLibrary, find_plugin, load_plugin
from sadtrt_core.errors import UserError
from sadtrt_core.files import write_file

INPUTS = ("volume", "grid")
_SHOWN_TACTICS = 6


def described(layer: EngineLayer) -> str:
    """A layer in one line: kind, name, what it reads and writes."""
    doors = [
        " + ".join(f"{'x'.join(map(str, tensor.shape))} {tensor.format}" for tensor in tensors)
        for tensors in (layer.inputs, layer.outputs)
    ]
    return f"{layer.kind} {layer.name!r}: {doors[0] or 'nothing'} -> {doors[1]}{' REPEATS' if layer.repeats else ''}"


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


def show(found: dict[str, Any]) -> None:
    counts = ", ".join(f"{count} {kind}" for kind, count in found["kinds"].items())
    print(f"{found['engine']}: {found['layers']} layers: {counts}")
    sums = ", ".join(f"{count} {kind}" for kind, count in found["accumulators"].items())
    print(f"  convolutions by the type they sum in, as their tactics name it: {sums or 'none'}")
    untold = sorted({one["tactic"] or "no name" for one in found["convolutions"] if one["accumulator"] == UNKNOWN})
    for tactic in untold[:_SHOWN_TACTICS]:
        print(f"    does not tell: {tactic}")
    if len(untold) > _SHOWN_TACTICS:
        print(f"    and {len(untold) - _SHOWN_TACTICS} more that do not, in what --out writes")
    for line in found["samplers"]:
        print(f"  sampler: {line}")
    for name, lines in found["copies_before"].items():
        for line in lines or ["none"]:
            print(f"  copies before its {name}: {line}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", type=Path, nargs="*", help="engine files")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="as the suite's")
    parser.add_argument("--out", type=Path, help="write the findings as JSON")
    options = parser.parse_args()
    engines = options.engines or sorted((options.cache / "engines").glob("generator-*-plugin-*.engine"))
    if not engines:
        print(f"no generator engine with the plugin in {options.cache / 'engines'}: run the suite first")
        return 2
    trt: Any = api.tensorrt_module()
    library = find_plugin()
    try:
        if isinstance(trt, api.Unavailable) or not isinstance(library, PluginLibrary):
            raise RuntimeError(trt.reason if isinstance(trt, api.Unavailable) else str(library))
        load_plugin(library, trt)
        findings = [finding(path.name, read_layers(trt, path.read_bytes())) for path in engines]
    except (OSError, UserError, RuntimeError, ValueError) as error:
        print(f"the engines cannot be read: {error}")
        return 2
    for found in findings:
        show(found)
    if options.out:
        write_file(options.out, json.dumps(findings, indent=1) + "\n")
    return 1 if any(found["repeats"] for found in findings) else 0


if __name__ == "__main__":
    sys.exit(main())
