"""Builds and profiles one engine in a process of its own, whose death the experiment outlives.

    python int8_processes.py build TASK.json
    python int8_processes.py profile TASK.json

A task names its graph; the engine, notes and times are written beside it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from sadtrt_core.engine import tensorrt_api as api
from sadtrt_core.engine.build import BuildOptions, build_engine
from sadtrt_core.engine.plugin import PluginLibrary, find_plugin, load_plugin
from sadtrt_core.engine.session import EngineSession
from sadtrt_core.errors import BuildError

WARM_UP, CALLS = 10, 30


class ProcessFailed(RuntimeError):
    """What a process of its own did not do, and its last words."""


@dataclass(frozen=True)
class Task:
    """An engine to build from the graph beside the task, for exactly these input shapes, at an optimization level."""

    name: str
    shapes: dict[str, tuple[int, ...]]
    level: int
    plugin: bool


def write_task(path: Path, task: Task, graph: bytes) -> None:
    """Write a task, and the graph beside it."""
    path.with_suffix(".onnx").write_bytes(graph)
    path.write_text(json.dumps(asdict(task)))


def build(task: Path, limit_s: float) -> dict[str, Any]:
    """Build it; the seconds that took, and notes. The engine is TASK.engine. Raises ProcessFailed."""
    began = time.monotonic()
    _run("build", task, limit_s)
    notes = json.loads(task.with_suffix(".notes").read_text())
    return {"build_s": time.monotonic() - began, "notes": notes}


def profile(task: Path, limit_s: float) -> dict[str, float]:
    """Median milliseconds of each layer by its name. Raises ProcessFailed."""
    _run("profile", task, limit_s)
    return dict(json.loads(task.with_suffix(".times").read_text()))


def _run(what: str, task: Path, limit_s: float) -> None:
    command = [sys.executable, str(Path(__file__).resolve()), what, str(task)]
    # Builders beside each other must not each take every core.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, env=environment)
    except subprocess.TimeoutExpired:
        raise ProcessFailed(f"not finished within {limit_s:.0f} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it gave no message"]
        raise ProcessFailed(f"exit status {done.returncode}: {lines[-1][:600]}")


def load_module(plugin: bool) -> Any:
    """TensorRT, with the plugin where graphs need it. Raises RuntimeError where either is missing."""
    trt = api.tensorrt_module()
    if isinstance(trt, api.Unavailable):
        raise RuntimeError(trt.reason)
    if plugin:
        library = find_plugin()
        if not isinstance(library, PluginLibrary):
            raise RuntimeError(str(library))
        load_plugin(library, trt)
    return trt


def _build_here(path: Path) -> None:
    task = Task(**json.loads(path.read_text()))
    built = build_engine(
        load_module(task.plugin),
        path.with_suffix(".onnx").read_bytes(),
        label=task.name,
        input_shapes={name: tuple(shape) for name, shape in task.shapes.items()},
        tf32=False,
        options=BuildOptions(optimization_level=task.level),
        has_plugin=task.plugin,
    )
    path.with_suffix(".engine").write_bytes(built.plan)
    path.with_suffix(".notes").write_text(json.dumps(built.notes))


def _profile_here(path: Path) -> None:
    trt = load_module(json.loads(path.read_text())["plugin"])
    plan = path.with_suffix(".engine").read_bytes()
    session = EngineSession(trt, plan, torch.device("cuda"), cuda_graph=False)
    try:
        times = layer_times(trt, session)
    finally:
        session.close()
    path.with_suffix(".times").write_text(json.dumps(times))


def layer_times(trt: Any, session: Any) -> dict[str, float]:
    """Median milliseconds of each layer over CALLS calls, after WARM_UP of them; zeros are rendered.

    Layers of one name count as one. Raises RuntimeError where the profiler was told nothing.
    """
    told: dict[str, float] = {}

    class Profiler(trt.IProfiler):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            told[layer_name] = told.get(layer_name, 0.0) + ms

    for _ in range(WARM_UP):
        session.execute()
    session.stream.synchronize()
    profiler = Profiler()
    session.profile(profiler)
    calls: dict[str, list[float]] = {}
    for _ in range(CALLS):
        told.clear()
        session.execute()
        session.stream.synchronize()
        for name, ms in told.items():
            calls.setdefault(name, []).append(ms)
    if not calls:
        raise RuntimeError("TensorRT told its profiler of no layer")
    return {name: statistics.median(found) for name, found in calls.items()}


def main() -> int:
    what, task = sys.argv[1], Path(sys.argv[2])
    try:
        _build_here(task) if what == "build" else _profile_here(task)
    except (BuildError, RuntimeError, OSError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
