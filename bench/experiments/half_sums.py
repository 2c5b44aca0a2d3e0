"""Which convolutions lose the picture to sums in half?

    python bench/experiments/half_sums.py --weights fitted --precision fp16-mixed --out half-sums.json

TensorRT 8.6's half convolutions on Hopper sum in half (engine_layers.py names their accumulators); PyTorch's sum in
float. This computes the generator's typed graph with PyTorch, every rounding explicit, and lets convolutions sum in
half as tensor cores do (sadtrt_core/localise/half_sums.py): all of them, all with sums no longer than so many products,
each alone, and all but those that lose most alone. PSNR and LSB are of the worst of a few frames against PyTorch fp32.
`--whole` leaves very long sums whole that the precision parts (sadtrt_core/graph/short_sums.py).
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import torch
from suite_options import add_suite_options, make_suite
from torch import Tensor

from sadtrt_core.engine.fixed_shapes import fix_shapes
from sadtrt_core.environment import read_environment
from sadtrt_core.graph.edit import element_types
from sadtrt_core.graph.pipeline import typed_graph
from sadtrt_core.graph.rounding import explicit_rounding
from sadtrt_core.localise.half_sums import convolve_in_half, summed_products
from sadtrt_core.localise.torch_graph import run_graph, take_weights
from sadtrt_core.measure.drift import measure_drift
from sadtrt_core.plan import precision_named
from sadtrt_core.precision import Precision
from sadtrt_core.records.files import write_atomically
from sadtrt_core.stages import STAGES
from sadtrt_core.suite import Suite

LENGTHS = (16384, 8192, 4096, 2048, 1024, 256)
SPARED = (1, 2, 4, 8, 16, 32)


class Sums:
    """The generator's typed graph on some frames of a suite, its convolutions summing in half as told."""

    def __init__(self, suite: Suite, precision: Precision, frames: list[int]) -> None:
        stage = STAGES["generator"]
        typed = typed_graph(suite.renderer, stage, precision, "native", suite.options.cache)
        model = onnx.load_from_string(typed)
        types = element_types(model)
        convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
        #: Names of the convolutions of half operands: the others sum in float whatever the kernel.
        self.halves = [node.name for node in convolutions if types[node.input[0]] == onnx.TensorProto.FLOAT16]
        fix_shapes(model, {spec.name: spec.batched(1) for spec in stage.inputs(suite.renderer.config)})
        self._model = explicit_rounding(model)
        self._weights = take_weights(self._model, suite.device)
        self._frames = [{name: value.to(suite.device) for name, value in suite.frame_inputs[i].items()} for i in frames]
        self.reference = suite.reference.frames[frames]
        self.products = {
            node.name: summed_products(self._weights[node.input[1]])
            for node in self._model.graph.node
            if node.op_type == "Conv"
        }

    def pictures(self, longest: Mapping[str, int | None]) -> Tensor:
        """Frames (N, 3, H, W) with the convolutions of these names summing in half, in sums of at most so many."""
        halves = {name: functools.partial(convolve_in_half, longest=most) for name, most in longest.items()}
        return torch.cat(
            [run_graph(self._model, inputs | self._weights, instead=halves).cpu() for inputs in self._frames]
        )

    def loss(self, longest: Mapping[str, int | None]) -> dict[str, Any]:
        """The drift of those pictures."""
        drift = measure_drift(self.reference, self.pictures(longest), meaningful=True)
        return {"psnr_min": drift.psnr_min, "psnr_mean": drift.psnr_mean, "max_lsb": drift.max_lsb_worst}


def line(what: str, loss: Mapping[str, Any]) -> str:
    return f"{what:58} {loss['psnr_min']:6.1f} dB worst, {loss['psnr_mean']:6.1f} mean, {loss['max_lsb']} LSB"


def measure(sums: Sums, say: Any) -> Any:
    """Yield findings so far, after each step; `say` prints a line."""
    every: dict[str, int | None] = dict.fromkeys(sums.halves)
    found: dict[str, Any] = {"products": sums.products, "float sums": sums.loss({})}
    say(line("sums in float", found["float sums"]))
    found["half sums"] = sums.loss(every)
    say(line("sums in half", found["half sums"]))
    yield found
    exact = sums.pictures({})
    alone = {name: float((sums.pictures({name: None}) - exact).square().mean()) for name in every}
    order = sorted(alone, key=lambda name: -alone[name])
    found["alone"] = {name: alone[name] for name in order}
    total = sum(alone.values())
    for name in order[:24]:
        say(f"{name:58} {100 * alone[name] / total:5.1f}% of the squared errors of all; {sums.products[name]} products")
    yield found
    found["all but the worst"] = {}
    for count in SPARED:
        loss = found["all but the worst"][count] = sums.loss(dict.fromkeys(order[count:]))
        say(line(f"in half, but the worst {count}", loss))
        yield found
    found["longest"] = {}
    for most in LENGTHS:
        loss = found["longest"][most] = sums.loss(dict.fromkeys(every, most))
        longer = sum(products > most for products in sums.products.values())
        say(line(f"in half, sums of at most {most} products ({longer} split)", loss))
        yield found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_suite_options(parser)
    parser.add_argument("--precision", default="fp16-mixed", help="as the suite's; float16 must be its type")
    parser.add_argument("--whole", action="store_true", help="part no sums")
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--frames", type=int, nargs="+", default=[13, 23], help="frames of the driving sequence")
    parser.add_argument("--out", type=Path, help="write the findings as JSON, after each step")
    options = parser.parse_args()
    suite = make_suite(options, device=options.device, frames=max(32, *(frame + 1 for frame in options.frames)))
    began = time.monotonic()
    precision = precision_named(options.precision)
    if options.whole:
        precision = replace(precision, short_sums=False)
    sums = Sums(suite, precision, options.frames)
    about = {
        "environment": read_environment(suite.device).to_json(),
        "weights": suite.renderer.weights.name,
        "precision": options.precision,
        "whole": options.whole,
        "frames": options.frames,
    }
    for found in measure(sums, lambda text: print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)):
        if options.out is not None:
            write_atomically(options.out, json.dumps(about | found, indent=1) + "\n")


if __name__ == "__main__":
    main()
