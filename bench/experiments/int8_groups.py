"""What does each group of convolutions buy and cost in int8?

    python bench/experiments/int8_groups.py --weights fitted --optimization-level 1 --out int8_groups.json

Builds the generator of `fp16-mixed` and, beside it, quantised ones that differ in which convolutions are quantised;
each in a process of its own, several at a time. Then each engine is timed by itself and its pictures are compared with
PyTorch's. A line is printed for whatever is finished.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from suite_options import add_suite_options, make_suite

from sadtrt_core.engine import tensorrt_api as api
from sadtrt_core.engine.build import BuildOptions, EngineBuildError, build_engine
from sadtrt_core.engine.layers import read_layers
from sadtrt_core.engine.plugin import PluginLibrary, find_plugin, load_plugin
from sadtrt_core.engine.session import EngineSession
from sadtrt_core.graph.pipeline import typed_graph
from sadtrt_core.measure.drift import measure_drift
from sadtrt_core.precision import INT8, PRECISIONS, Quantisation
from sadtrt_core.stages import STAGES
from sadtrt_core.suite import Suite

CALLS = 60
HOURGLASS = "/dense_motion_network/hourglass/*"
MASK = "/dense_motion_network/mask/*"


def _group(*nodes: str, spare: tuple[str, ...] = INT8.spare) -> Quantisation:
    return Quantisation("int8", nodes, spare)


#: What is quantised in each engine; None is fp16-mixed itself.
GROUPS: dict[str, Quantisation | None] = {
    "fp16-mixed": None,
    "int8": INT8,
    "decoder, middle blocks": _group("/decoder/G_middle_?/*"),
    "decoder, middle main": _group("/decoder/G_middle_?/conv_?/*"),
    "decoder, modulation": _group("/decoder/*/norm_?/*"),
    "decoder, everything": _group("/decoder/*", spare=()),
    "hourglass": _group(HOURGLASS),
    "hourglass, everything": _group(HOURGLASS, spare=()),
    "mask": _group(MASK),
    "int8 and mask": _group(*INT8.nodes, MASK),
    "everything": _group("*", spare=()),
}


def build_one(task: Path) -> int:
    """What a process of its own does: build the engine that a task file describes, and write what came of it."""
    given = json.loads(task.read_text())
    trt: Any = api.tensorrt_module()
    library = find_plugin()
    if given["plugin"] and isinstance(library, PluginLibrary):
        load_plugin(library, trt)
    try:
        built = build_engine(
            trt,
            Path(given["graph"]).read_bytes(),
            label=given["name"],
            input_shapes={name: tuple(shape) for name, shape in given["shapes"].items()},
            tf32=False,
            options=BuildOptions(optimization_level=given["level"]),
            has_plugin=given["plugin"],
        )
    except EngineBuildError as error:
        print(error, file=sys.stderr)
        return 1
    task.with_suffix(".engine").write_bytes(built.plan)
    task.with_suffix(".notes").write_text(json.dumps(built.notes))
    return 0


class Groups:
    """The experiment on one suite; engines and graphs lie in `folder`."""

    def __init__(self, suite: Suite, folder: Path, level: int, limit: float) -> None:
        self.suite, self.folder, self.level, self.limit = suite, folder, level, limit
        self.started = time.monotonic()
        self.findings: dict[str, dict[str, Any]] = {}

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.started:6.1f} s  {text}", flush=True)

    def build(self, names: Iterable[str], jobs: int) -> list[str]:
        """Build the engines; the names of those that have an engine."""
        with ThreadPoolExecutor(jobs) as pool:
            # The first builds begin while the graphs of the others are still written.
            waiting = {pool.submit(self._build, self._task(index, name)): name for index, name in enumerate(names)}
            for done in as_completed(waiting):
                name, finding = waiting[done], done.result()
                self.findings[name] = finding
                self.say(f"{name}: " + (finding.get("failure") or f"built in {finding['build_s']:.0f} s"))
        return [name for name in waiting.values() if "failure" not in self.findings[name]]

    def _task(self, index: int, name: str) -> Path:
        quantise, suite = GROUPS[name], self.suite
        stage, precision = STAGES["generator"], replace(PRECISIONS["fp16-mixed"], name="group", quantise=quantise)
        calibration = suite.calibration if quantise is not None else None
        cache = suite.options.cache
        graph = typed_graph(suite.renderer, stage, precision, suite.grid_sample, cache, calibration)
        task = self.folder / f"{index}.json"
        task.with_suffix(".onnx").write_bytes(graph)
        shapes = {spec.name: spec.batched(1) for spec in stage.inputs(suite.renderer.config)}
        description = {
            "name": name,
            "graph": str(task.with_suffix(".onnx")),
            "plugin": suite.grid_sample == "plugin",
            "shapes": shapes,
            "level": self.level,
        }
        task.write_text(json.dumps(description))
        return task

    def _build(self, task: Path) -> dict[str, Any]:
        began = time.monotonic()
        try:
            done = subprocess.run(
                [sys.executable, __file__, "--build", str(task)], capture_output=True, text=True, timeout=self.limit
            )
        except subprocess.TimeoutExpired:
            return {"failure": f"not built within {self.limit:.0f} s"}
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["it gave no message"]
            return {"failure": f"exit status {done.returncode}: {lines[-1][:600]}"}
        notes = json.loads(task.with_suffix(".notes").read_text())
        return {"build_s": time.monotonic() - began, "engine": str(task.with_suffix(".engine")), "notes": notes}

    def measure(self, name: str, frames: int) -> None:
        """Time one engine by CUDA events and compare its pictures."""
        suite, finding = self.suite, self.findings[name]
        trt: Any = api.tensorrt_module()
        plan = Path(finding.pop("engine")).read_bytes()
        session = EngineSession(trt, plan, suite.device, cuda_graph=True)
        try:
            pictures = []
            for item in suite.frame_inputs[:frames]:
                session.set_inputs(item)
                session.execute()
                pictures.append(session.views()["prediction"].cpu().clone())
            finding["ms"] = _median_ms(session)
        finally:
            session.close()
        drift = measure_drift(
            suite.reference.frames[:frames], torch.cat(pictures), meaningful=suite.drift_is_meaningful
        )
        finding.update(
            psnr_min=drift.psnr_min, psnr_mean=drift.psnr_mean, max_lsb=max(drift.max_lsb), mb=len(plan) / 1e6
        )
        finding.update(self._layers(trt, plan))
        self.say(
            f"{name}: {finding['ms']:.3f} ms, {drift.psnr_min:.1f} dB, max LSB {finding['max_lsb']}, "
            f"{finding['mb']:.0f} MB, {finding.get('layers', '?')} layers, {finding.get('int8', '?')} read int8, "
            f"{finding.get('copies', '?')} copy; {'; '.join(finding['notes'])}"
        )

    def _layers(self, trt: Any, plan: bytes) -> dict[str, Any]:
        try:
            layers = read_layers(trt, plan)
        except (RuntimeError, ValueError) as error:
            return {"unread": str(error)}
        reads = [layer for layer in layers if any("int8" in tensor.format.lower() for tensor in layer.inputs)]
        listed = [
            {
                "name": layer.name,
                "kind": layer.kind,
                "in": [tensor.format for tensor in layer.inputs],
                "out": [tensor.format for tensor in layer.outputs],
            }
            for layer in layers
        ]
        copies = sum(layer.copies for layer in layers)
        return {"layers": len(layers), "int8": len(reads), "copies": copies, "inspected": listed}


def _median_ms(session: EngineSession) -> float:
    for _ in range(CALLS):
        session.execute()
    pairs = []
    for _ in range(CALLS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record(session.stream)
        session.execute()
        end.record(session.stream)
        pairs.append((begin, end))
    torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) for begin, end in pairs)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_suite_options(parser)
    parser.set_defaults(weights="demo", optimization_level=1)
    parser.add_argument("--only", action="append", choices=GROUPS, help="only these engines")
    parser.add_argument("--jobs", type=int, default=16, help="engines built at the same time")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds that a build may take")
    parser.add_argument("--frames", type=int, default=8, help="frames that pictures are compared on")
    parser.add_argument("--out", type=Path, help="write the findings, the engines' layers among them, as JSON")
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build is not None:
        return build_one(options.build)
    trt: Any = api.tensorrt_module()
    if isinstance(trt, api.Absent) or not torch.cuda.is_available():
        print(trt.reason if isinstance(trt, api.Absent) else "the engines are built and timed on an NVIDIA GPU")
        return 2
    with tempfile.TemporaryDirectory(prefix="sadtrt-int8-") as folder:
        groups = Groups(
            make_suite(options, frames=max(options.frames, 1)), Path(folder), options.optimization_level, options.limit
        )
        if groups.suite.grid_sample == "plugin":
            library = find_plugin()
            assert isinstance(library, PluginLibrary)  # Or the suite would have chosen another way.
            load_plugin(library, trt)
        groups.say(f"TensorRT {api.version_text(trt)}, weights {groups.suite.renderer.weights.name}")
        for name in groups.build(options.only or GROUPS, options.jobs):
            try:
                groups.measure(name, options.frames)
            except RuntimeError as error:
                groups.findings[name]["failure"] = str(error)
                groups.say(f"{name}: {error}")
            if options.out is not None:
                options.out.write_text(json.dumps(groups.findings, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
