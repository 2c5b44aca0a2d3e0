"""How short would sums in half have to be?

    python bench/experiments/half_sums.py --weights fitted --precision fp16-mixed --out half-sums.json

`sadtrt drift --half-sums` tells which convolutions lose the picture where kernels sum in half. This lets all of them
sum at most so many products in half and add such partial sums in float, for several such lengths; and `--whole` leaves
very long sums whole that the precision parts (sadtrt_core/graph/split_k.py), to see what that buys. PSNR and LSB are
of the worst of a few frames against PyTorch fp32.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from suite_options import add_suite_options, make_session

from sadtrt_core.accuracy.accumulation_losses import SummedGraph
from sadtrt_core.environment import read_environment
from sadtrt_core.files import write_file
from sadtrt_core.measure.drift import measure_drift
from sadtrt_core.plan import precision_named
from sadtrt_core.session import Session

LENGTHS = (16384, 8192, 4096, 2048, 1024, 256)


def measure(
    graph: SummedGraph, suite: Session, frames: list[int], say: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """Findings so far, after each step; `say` prints a line."""
    found: dict[str, Any] = {"products": graph.halves, "longest": {}}

    def loss(what: str, longest: Mapping[str, int | None]) -> dict[str, Any]:
        drift = measure_drift(suite.reference.frames[frames], graph.pictures(longest, frames))
        say(f"{what:48} {drift.psnr_min:6.1f} dB worst, {drift.psnr_mean:6.1f} mean, {drift.max_lsb_worst} LSB")
        return {"psnr_min": drift.psnr_min, "psnr_mean": drift.psnr_mean, "max_lsb": drift.max_lsb_worst}

    found["float sums"] = loss("sums in float", {})
    found["half sums"] = loss("sums in half", dict.fromkeys(graph.halves))
    yield found
    for most in LENGTHS:
        longer = sum(products > most for products in graph.halves.values())
        what = f"in half, of at most {most} products ({longer} split)"
        found["longest"][most] = loss(what, dict.fromkeys(graph.halves, most))
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
    suite = make_session(options, device=options.device, frames=max(32, *(frame + 1 for frame in options.frames)))
    began = time.monotonic()
    precision = precision_named(options.precision)
    if options.whole:
        precision = replace(precision, split_k=False)
    about = {
        "environment": read_environment(suite.device).to_json(),
        "weights": suite.renderer.weights.name,
        "precision": options.precision,
        "whole": options.whole,
        "frames": options.frames,
    }
    graph = SummedGraph(suite, precision)
    for found in measure(
        graph, suite, options.frames, lambda text: print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)
    ):
        if options.out is not None:
            write_file(options.out, json.dumps(about | found, indent=1) + "\n")


if __name__ == "__main__":
    main()
