"""Why is the int8 engine neither as good as its types nor faster than half?

    python bench/experiments/int8_groups.py --weights fitted --optimization-level 2 --out int8_groups.json

Builds the generator in the forms of int8_forms.py, each in a process of its own, a few at a time. Of each is written as
soon as it is known: what its types alone cost and what its engine loses, and which convolutions the engine computes in
eight bits against those that its graph quantises. "Blocks shown" tells at which of the decoder's blocks the engine
leaves its types: signal over noise of each, the engine's beside that of the types alone. When nothing builds any more:
the latency of all engines in turn, and the time of their layers in groups beside fp16-mixed. Without a GPU, `--dry-run`
writes the graphs and what their types cost, and builds nothing.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

import int8_processes as processes
import torch
from int8_blocks import block_lines, block_tensors, output_name
from int8_forms import FORMS, GENERATOR, REFERENCE, Simulation, convolution_names, form_graph, measure_frames
from int8_layers import Times, compare_convolutions, convolutions_ms, group_times, listed
from suite_options import add_suite_options, make_session

from sadtrt_core.engine import tensorrt_api as api
from sadtrt_core.engine.layers import EngineLayer, read_layers
from sadtrt_core.engine.session import EngineSession
from sadtrt_core.files import write_file
from sadtrt_core.graph.export import OPSET
from sadtrt_core.graph.pipeline import cached_export
from sadtrt_core.session import Session

CALLS, ROUNDS = 60, 6
PROFILE_LIMIT_S = 120.0
#: What goes wrong with one engine and must not end the measurement of the others.
_FAILURES = (RuntimeError, ValueError, OSError, KeyError)


class Experiment:
    """The forms on one suite; engines and graphs lie in `folder`, findings are written to `out` as they come."""

    def __init__(self, suite: Session, folder: Path, options: argparse.Namespace) -> None:
        self.suite, self.folder, self.options = suite, folder, options
        self.started = time.monotonic()
        self.names = tuple(name for name in FORMS if name in (options.only or FORMS))
        self.findings: dict[str, dict[str, Any]] = {name: {"why": FORMS[name].why} for name in self.names}
        self.layers: dict[str, tuple[EngineLayer, ...]] = {}
        self.times: dict[str, Times] = {}
        # Made here, because the threads that write graphs share them.
        exported = cached_export(suite.renderer, GENERATOR, OPSET, suite.options.cache)
        self.blocks = {block: output_name(block) for block in block_tensors(exported)}
        if any(FORMS[name].quantize is not None for name in self.names):
            suite.calibration  # noqa: B018
        self.simulation = Simulation(suite, options.frames)

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.started:6.1f} s  {text}", flush=True)

    def write(self) -> None:
        if self.options.out is not None:
            write_file(self.options.out, json.dumps(self.findings, indent=1) + "\n")

    def _task(self, name: str) -> Path:
        return self.folder / f"{tuple(FORMS).index(name)}.json"

    def prepare(self, name: str) -> None:
        """Write a form's graph, as its engine is built from."""
        suite, form = self.suite, FORMS[name]
        shapes = {spec.name: spec.batched(1) for spec in GENERATOR.inputs(suite.renderer.config)}
        plugin = suite.grid_sample == "plugin"
        task = processes.Task(name, shapes, self.options.optimization_level, plugin)
        processes.write_task(self._task(name), task, form_graph(suite, form, suite.grid_sample))

    def simulate(self, name: str) -> None:
        """What the form's types cost, and which convolutions it quantises."""
        found = self.simulation.measure(FORMS[name])
        drift = found.drift
        _, quantized = convolution_names(self.suite, FORMS[name])
        self.findings[name]["simulated"] = {"psnr_min": drift.psnr_min, "max_lsb": drift.max_lsb_worst}
        self.findings[name] |= {"simulated_blocks": found.blocks, "quantised": sorted(quantized)}
        self.say(f"{name}: {len(quantized)} quantised; {self._loss(name, 'simulated')} by its types alone")
        self.write()

    def _loss(self, name: str, which: str) -> str:
        loss = self.findings[name].get(which)
        return f"{loss['psnr_min']:.1f} dB, {loss['max_lsb']} LSB" if loss else "unknown"

    def build_all(self, trt: Any) -> list[str]:
        """Build every engine; forms are simulated and engines looked into meanwhile. The names of what was built."""

        def one(name: str) -> dict[str, Any]:
            self.prepare(name)
            return processes.build(self._task(name), self.options.limit)

        with ThreadPoolExecutor(self.options.jobs) as pool:
            waiting = {pool.submit(one, name): name for name in self.names}
            for name in self.names:
                self._try(name, "simulation", functools.partial(self.simulate, name))
            for done in as_completed(waiting):
                name = waiting[done]
                finding = self.findings[name]
                self._try(name, "build", lambda done=done, finding=finding: finding.update(done.result()))
                if "build failure" in finding:
                    self.say(f"{name}: {finding['build failure']}")
                else:
                    self.inspect(name, trt)
        return [name for name in self.names if "build failure" not in self.findings[name]]

    def _try(self, name: str, what: str, work: Callable[[], object]) -> None:
        """Do it; a failure is said and kept, and the form's other figures still come."""
        try:
            work()
        except _FAILURES as error:
            self.findings[name][f"{what} failure"] = f"{type(error).__name__}: {error}"
            self.say(f"{name}: {what} failed: {type(error).__name__}: {error}")
        self.write()

    def inspect(self, name: str, trt: Any) -> None:
        """An engine's pictures and convolutions: what other work on the GPU does not change."""
        finding = self.findings[name]
        self._try(name, "pictures", functools.partial(self._pictures, name, trt))
        self._try(name, "layers", functools.partial(self._layers, name, trt))
        size = f"{self._plan(name).stat().st_size / 1e6:.0f} MB, built in {finding['build_s']:.0f} s"
        losses = f"engine {self._loss(name, 'engine')}, by its types alone {self._loss(name, 'simulated')}"
        self.say(f"{name}: " + "; ".join([losses, size, *finding["notes"]]))
        _show(finding.get("lines", ()))

    def _plan(self, name: str) -> Path:
        return self._task(name).with_suffix(".engine")

    def _pictures(self, name: str, trt: Any) -> None:
        session = EngineSession(trt, self._plan(name).read_bytes(), self.suite.device, cuda_graph=True)
        finding, pictures = self.findings[name], []
        try:
            for index, item in enumerate(self.suite.frame_inputs[: self.options.frames]):
                session.set_inputs(item)
                session.execute()
                views = session.views()
                pictures.append(views["prediction"].cpu().clone())
                if index == 0 and FORMS[name].shows_blocks:
                    shown = {block: views[output] for block, output in self.blocks.items()}
                    finding["engine_blocks"] = self.simulation.signal_to_noise(shown)
        finally:
            session.close()
        drift = measure_frames(self.suite, torch.cat(pictures))
        finding["engine"] = {"psnr_min": drift.psnr_min, "max_lsb": drift.max_lsb_worst}

    def _layers(self, name: str, trt: Any) -> None:
        layers = self.layers[name] = read_layers(trt, self._plan(name).read_bytes())
        every, quantized = convolution_names(self.suite, FORMS[name])
        finding = self.findings[name]
        convolutions, copies = compare_convolutions(layers, every, quantized), sum(layer.copies for layer in layers)
        lines = [f"{len(layers)} layers, {copies} only copy", *(convolutions.lines() if quantized else [])]
        if "engine_blocks" in finding and "simulated_blocks" in finding:
            lines += block_lines(finding["engine_blocks"], finding["simulated_blocks"])
        finding |= {"layers": len(layers), "copies": copies, "inspected": listed(layers)}
        finding |= {"convolutions": asdict(convolutions), "lines": lines}

    def profile(self, name: str) -> None:
        """The times of an engine's layers, beside those of REFERENCE, which is profiled first."""
        self._try(name, "profile", functools.partial(self._profile, name))
        self.say(f"{name}: {self.findings[name].get('profile failure', 'layers timed')}")
        _show(self.findings[name].get("time_lines", ()))

    def _profile(self, name: str) -> None:
        times = self.findings[name]["layer_ms"] = processes.profile(self._task(name), PROFILE_LIMIT_S)
        every, quantized = convolution_names(self.suite, FORMS[name])
        found = self.times[name] = group_times(self.layers.get(name, ()), times, every, quantized)
        lines = [found.line()]
        if quantized and REFERENCE in self.times:
            same = convolutions_ms(self.findings[REFERENCE]["layer_ms"], quantized)
            lines.append(found.against(self.times[REFERENCE], same))
        self.findings[name] |= {"layer_groups": asdict(found), "time_lines": lines}

    def time_in_turn(self, names: Sequence[str], trt: Any) -> None:
        """Latency of all engines round and round, by CUDA events around replays of their CUDA graphs."""
        sessions: dict[str, EngineSession] = {}
        try:
            for name in names:
                self._try(name, "timing", lambda name=name: sessions.update({name: self._session(name, trt)}))
            for _ in range(ROUNDS):
                for name, session in sessions.items():
                    self.findings[name].setdefault("round_ms", []).append(median_ms(session))
        finally:
            for session in sessions.values():
                session.close()
        for name in sessions:
            rounds = self.findings[name]["round_ms"]
            self.findings[name] |= {"ms_min": min(rounds), "ms_median": statistics.median(rounds)}
            self.say(f"{name}: {min(rounds):.3f} ms at best, median {statistics.median(rounds):.3f} of {ROUNDS} rounds")
        self.write()

    def _session(self, name: str, trt: Any) -> EngineSession:
        session = EngineSession(trt, self._plan(name).read_bytes(), self.suite.device, cuda_graph=True)
        session.set_inputs(self.suite.frame_inputs[0])
        return session


def median_ms(session: EngineSession) -> float:
    """Median milliseconds of a call, after as many to warm up."""
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


def _show(lines: Iterable[str]) -> None:
    for line in lines:
        print(f"          {line}", flush=True)


def dry_run(experiment: Experiment) -> None:
    """Everything that needs no GPU."""
    for name in experiment.names:
        experiment.prepare(name)
        size = experiment._task(name).with_suffix(".onnx").stat().st_size
        experiment.say(f"{name}: graph of {size / 1e6:.0f} MB")
        experiment.simulate(name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_suite_options(parser)
    parser.set_defaults(weights="demo", optimization_level=2)
    parser.add_argument("--only", action="append", choices=FORMS, help="only this form; may be given several times")
    parser.add_argument("--jobs", type=int, default=4, help="engines built at the same time; more share the GPU's time")
    parser.add_argument("--limit", type=float, default=400.0, help="seconds that a build may take")
    parser.add_argument("--frames", type=int, default=8, help="frames that pictures are compared on")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, without building or timing an engine")
    parser.add_argument("--out", type=Path, help="write the findings, the engines' layers among them, as JSON")
    options = parser.parse_args()
    if options.frames < 1 or options.jobs < 1:
        parser.error("--frames and --jobs must be 1 or more")
    trt: Any = api.tensorrt_module()
    if not options.dry_run and (isinstance(trt, api.Unavailable) or not torch.cuda.is_available()):
        reason = trt.reason if isinstance(trt, api.Unavailable) else "the engines are built and timed on an NVIDIA GPU"
        print(f"{reason}; --dry-run does what needs none")
        return 2
    with tempfile.TemporaryDirectory(prefix="sadtrt-int8-") as folder:
        suite = make_session(options, device="cpu" if options.dry_run else "cuda", frames=options.frames)
        experiment = Experiment(suite, Path(folder), options)
        if options.dry_run:
            dry_run(experiment)
            return 0
        trt = processes.load_module(suite.grid_sample == "plugin")
        experiment.say(f"TensorRT {api.version_text(trt)}, weights {suite.renderer.weights.name}")
        built = experiment.build_all(trt)
        experiment.time_in_turn(built, trt)
        for name in built:
            experiment.profile(name)
    return 0 if built else 1


if __name__ == "__main__":
    sys.exit(main())
