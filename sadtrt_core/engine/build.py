"""From a typed ONNX graph to the bytes of an engine, with every failure as one readable sentence."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from sadtrt_core.engine import tensorrt_api as api
from sadtrt_core.engine.constraints import (
    Pinned,
    constrain_layers,
    half_results,
    has_low_precision,
    is_quantized,
    kept_names,
    kept_sentence,
    layer_types,
)
from sadtrt_core.engine.job import BuildJob
from sadtrt_core.errors import BuildError
from sadtrt_core.graph.fixed_shapes import fix_shapes
from sadtrt_core.graph.instance_norm import decompose_instance_norm
from sadtrt_core.graph.plugin_nodes import PLUGIN_NODES
from sadtrt_core.progress import SILENT, Reporter


@dataclass(frozen=True)
class BuiltEngine:
    """A serialized engine, the timing cache after its build, how long it took, and what a reader has to know of it."""

    plan: bytes
    timing_cache: bytes
    seconds: float
    notes: tuple[str, ...]


def build_engine(trt: Any, job: BuildJob, timing_cache: bytes = b"", report: Reporter = SILENT) -> BuiltEngine:
    """Build the job's typed graph for exactly its input shapes; its plugin library, if any, is loaded already.

    A timing cache that TensorRT refuses, or that breaks the build, is left out and that is said. On 8.6 the graph's
    types become layer precisions; where no tactic obeys all of them, only the float32 ones are kept, and that is noted.

    Raises BuildError.
    """
    started = time.monotonic()
    model = _checked_model(job)
    if not api.strongly_typed(trt):
        decompose_instance_norm(model)
    pinned: tuple[Pinned | None, ...] = (None,)
    if not api.strongly_typed(trt) and has_low_precision(model):
        pinned = ("every layer", "float32 layers")
    # Without the cache before with looser types: a refused cache is the likelier cause.
    attempts = [(pinned[0], timing_cache), *((pins, b"") for pins in (pinned if timing_cache else pinned[1:]))]
    failure = ""
    for pins, cache in attempts:
        if failure:
            how = (
                "without the timing cache"
                if pins == pinned[0]
                else f"with the types of the {pins} pinned and no others"
            )
            report.log(f"{job.label}: the build failed ({failure}); trying again {how}")
        built = _attempt(trt, model, job, pins, cache, report, started)
        if isinstance(built, BuiltEngine):
            return built
        failure = built
    raise BuildError(f"{job.label}: TensorRT {api.version_text(trt)} built no engine: {failure}")


def _checked_model(job: BuildJob) -> onnx.ModelProto:
    """The parsed graph with its inputs' shapes fixed; errors that TensorRT words badly or dies of are caught here."""
    label, graph, input_shapes = job.label, job.graph.read_bytes(), dict(job.input_shapes)
    try:
        model = onnx.load_from_string(graph)
    except DecodeError as error:
        raise BuildError(f"{label}: the graph is not ONNX ({len(graph)} bytes): export it again") from error
    names = {value.name for value in model.graph.input}
    if names != set(input_shapes):
        raise BuildError(
            f"{label}: the graph's inputs are {', '.join(sorted(names)) or 'none'}: "
            f"expected {', '.join(sorted(input_shapes))}"
        )
    for node in model.graph.node:
        if node.op_type in PLUGIN_NODES and job.plugin is None:
            raise BuildError(
                f"{label}: node {node.name!r} ({node.op_type}) needs the plugin, which is not loaded: run "
                "`sadtrt build-plugin`, or use --grid-sample native"
            )
        if node.op_type not in PLUGIN_NODES and not node.domain and not onnx.defs.has(node.op_type):
            raise BuildError(f"{label}: node {node.name!r} has the operator {node.op_type!r}, which ONNX lacks")
    fix_shapes(model, input_shapes)  # Instead of an optimization profile of one shape.
    return model


def _attempt(
    trt: Any,
    model: onnx.ModelProto,
    job: BuildJob,
    pinned: Pinned | None,
    timing_cache: bytes,
    report: Reporter,
    started: float,
) -> BuiltEngine | str:
    """One try at a build, or why it failed. Its builder is its own, because a failed one is not fit for a second.

    `started` is when the first try began. Raises BuildError for a graph that cannot be read.
    """
    label = job.label

    def told(phase: str, fraction: float | None) -> None:
        report.progress(f"{label}: {phase}", fraction or 0.0, None if fraction is None else 1.0)

    with api.collected_messages(trt) as messages:
        try:
            builder = api.create_builder(trt)
        except RuntimeError as error:
            raise BuildError(f"{label}: {error}") from error
        network = api.create_network(trt, builder)
        parser = api.create_parser(trt, network)
        if not parser.parse(model.SerializeToString()):
            problem = _parser_error(parser, model, messages)
            raise BuildError(f"{label}: TensorRT {api.version_text(trt)} cannot read the graph{problem}")
        level, tf32 = job.optimization_level, job.precision.tf32
        config = api.create_config(trt, builder, optimization_level=level, tf32=tf32)
        if not api.strongly_typed(trt) and is_quantized(model):
            config.set_flag(trt.BuilderFlag.INT8)
        layers_pinned = 0
        if pinned is not None:
            config.set_flag(trt.BuilderFlag.FP16)
            config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
            layers_pinned = constrain_layers(trt, network, layer_types(model), pinned, half_results(model))
        if timing_cache or api.keeps_timing_cache(trt):
            start = len(messages)
            attached = api.attach_timing_cache(config, timing_cache)
            # Some generations put an empty cache in a refused one's place and only log it.
            complained = any("timing cache" in message.lower() for message in messages[start:])
            if not attached or (timing_cache and complained):
                report.log(f"{label}: TensorRT refused the timing cache; building without it")
        monitor = api.attach_progress(trt, config, told)
        del messages[:]  # What the parser had to say is of no interest once it has succeeded.
        plan = builder.build_serialized_network(network, config)
        del monitor
        if plan is None:
            return api.in_one_line(messages)
        disobeyed = sum("obeys the requested constraints" in message for message in messages)
        if api.keeps_timing_cache(trt):
            timing_cache = api.serialized_timing_cache(config)
        plan = bytes(plan)
    notes = []
    if pinned is not None:
        notes.append(f"{layers_pinned} layers pinned to the graph's types")
        if pinned == "float32 layers":
            notes = ["no tactics obeyed every type of the graph: only the float32 layers are pinned, the rest is free"]
        if disobeyed:
            notes.append(f"TensorRT disobeyed the types of {disobeyed} layers")
        kept = kept_names(model)
        if kept:
            notes.append(kept_sentence(trt, plan, kept))
    return BuiltEngine(plan, timing_cache, time.monotonic() - started, tuple(notes))


def _parser_error(parser: Any, model: onnx.ModelProto, messages: list[str]) -> str:
    """Where in the graph the parser gave up, and why."""
    if parser.num_errors == 0:
        return f": {api.in_one_line(messages)}"
    error = parser.get_error(0)
    where = ""
    if 0 <= error.node() < len(model.graph.node):
        node = model.graph.node[error.node()]
        where = f" at node {node.name!r} ({node.op_type})"
    return f"{where}: {' '.join(error.desc().split())}"
