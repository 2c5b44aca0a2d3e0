"""From the bytes of a typed ONNX graph to the bytes of an engine, with every failure as one readable sentence."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from sadtrt_core.engine import tensorrt_api as api
from sadtrt_core.engine.constraints import (
    Pinned,
    constrain_layers,
    has_low_precision,
    is_quantized,
    kept_names,
    kept_tensors,
    layer_types,
)
from sadtrt_core.engine.fixed_shapes import fix_shapes
from sadtrt_core.engine.messages import in_one_line, message_log
from sadtrt_core.errors import BuildError, UserError
from sadtrt_core.graph.instance_norm import decompose_instance_norm
from sadtrt_core.graph.plugin_nodes import PLUGIN_NODES
from sadtrt_core.progress import SILENT, Reporter


@dataclass(frozen=True)
class BuildOptions:
    """What the builder is told. `workspace_mb` is the most scratch memory a tactic may take, in MiB.

    `optimization_level` is TensorRT's own scale of 0 (builds in a minute, runs slowly) to 5; 3 is its default.
    """

    optimization_level: int = 3
    workspace_mb: int = 4096

    def __post_init__(self) -> None:
        if not 0 <= self.optimization_level <= 5:
            raise UserError(f"optimization level {self.optimization_level} is not known: expected 0 to 5")
        if self.workspace_mb < 1:
            raise UserError(f"workspace of {self.workspace_mb} MiB is too small: expected at least 1")

    def parts(self) -> dict[str, int]:
        """As plain data, for the cache key."""
        return asdict(self)


@dataclass(frozen=True)
class BuiltEngine:
    """A serialized engine, the timing cache after its build, how long it took, and what a reader has to know of it."""

    plan: bytes
    timing_cache: bytes
    seconds: float
    notes: tuple[str, ...]


def build_engine(
    trt: Any,
    graph: bytes,
    *,
    label: str,
    input_shapes: Mapping[str, tuple[int, ...]],
    tf32: bool,
    options: BuildOptions,
    timing_cache: bytes = b"",
    has_plugin: bool = False,
    report: Reporter = SILENT,
) -> BuiltEngine:
    """Build the typed ONNX `graph` for exactly `input_shapes` (name to shape, batch included).

    `label` names the engine in errors. `has_plugin` says that the plugin library is loaded. A timing cache that
    TensorRT refuses, or that breaks the build, is left out and that is said. On 8.6 the graph's types become layer
    precisions; where no tactic obeys all of them, only the float32 ones are kept, and that is noted.

    Raises BuildError.
    """
    started = time.monotonic()
    model = _checked_model(graph, label, input_shapes, has_plugin)
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
            report.log(f"{label}: the build failed ({failure}); trying again {how}")
        attempt = _Attempt(trt, model, label, tf32, options, pins, cache, report)
        plan = attempt.run()
        if plan is not None:
            notes = attempt.notes(plan, looser=pins != pinned[0])
            return BuiltEngine(plan, attempt.timing_cache, time.monotonic() - started, notes)
        failure = attempt.failure
    raise BuildError(f"{label}: TensorRT {api.version_text(trt)} built no engine: {failure}")


def _checked_model(
    graph: bytes, label: str, input_shapes: Mapping[str, tuple[int, ...]], has_plugin: bool
) -> onnx.ModelProto:
    """The parsed graph with its inputs' shapes fixed; errors that TensorRT words badly or dies of are caught here."""
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
        if node.op_type in PLUGIN_NODES and not has_plugin:
            raise BuildError(
                f"{label}: node {node.name!r} ({node.op_type}) needs the plugin, which is not loaded: run "
                "`sadtrt build-plugin`, or use --grid-sample native"
            )
        if node.op_type not in PLUGIN_NODES and not node.domain and not onnx.defs.has(node.op_type):
            raise BuildError(f"{label}: node {node.name!r} has the operator {node.op_type!r}, which ONNX lacks")
    fix_shapes(model, input_shapes)  # Instead of an optimization profile of one shape.
    return model


class _Attempt:
    """One try at a build: a builder of its own, because a failed one is not fit for a second."""

    def __init__(
        self,
        trt: Any,
        model: onnx.ModelProto,
        label: str,
        tf32: bool,
        options: BuildOptions,
        pinned: Pinned | None,
        timing_cache: bytes,
        report: Reporter,
    ) -> None:
        self._trt, self._model, self._label = trt, model, label
        self._types = {} if api.strongly_typed(trt) else layer_types(model)
        self._tf32, self._options, self._pinned = tf32, options, pinned
        self._report = report
        self._layers_pinned = 0
        self._disobeyed = 0
        self.timing_cache = timing_cache
        self.failure = ""

    def run(self) -> bytes | None:
        """The serialized engine, or None with the cause in `failure`. A graph that cannot be read raises at once."""
        trt = self._trt
        with message_log(trt).collect() as messages:
            try:
                builder = api.create_builder(trt)
            except RuntimeError as error:
                raise BuildError(f"{self._label}: {error}") from error
            network = api.create_network(trt, builder)
            parser = api.create_parser(trt, network)
            if not parser.parse(self._model.SerializeToString()):
                raise BuildError(self._parser_error(parser, messages))
            config = api.create_config(
                trt,
                builder,
                optimization_level=self._options.optimization_level,
                workspace_mb=self._options.workspace_mb,
                tf32=self._tf32,
            )
            if not api.strongly_typed(trt) and is_quantized(self._model):
                config.set_flag(trt.BuilderFlag.INT8)
            if self._pinned is not None:
                config.set_flag(trt.BuilderFlag.FP16)
                config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
                self._layers_pinned = constrain_layers(trt, network, self._types, self._pinned)
            if not self._attach_timing_cache(config, messages):
                self._report.log(f"{self._label}: TensorRT refused the timing cache; building without it")
            monitor = api.attach_progress(trt, config, self._told)
            del messages[:]  # What the parser had to say is of no interest once it has succeeded.
            plan = builder.build_serialized_network(network, config)
            del monitor
            self._disobeyed = sum("obeys the requested constraints" in message for message in messages)
            if plan is None:
                self.failure = in_one_line(messages)
                return None
            if api.keeps_timing_cache(trt):
                self.timing_cache = api.serialized_timing_cache(config)
            return bytes(plan)

    def _told(self, phase: str, fraction: float | None) -> None:
        self._report.progress(f"{self._label}: {phase}", fraction or 0.0, None if fraction is None else 1.0)

    def _attach_timing_cache(self, config: Any, messages: list[str]) -> bool:
        if not self.timing_cache and not api.keeps_timing_cache(self._trt):
            return True
        start = len(messages)
        attached = api.attach_timing_cache(config, self.timing_cache)
        # Some generations put an empty cache in a refused one's place and only log it.
        complained = any("timing cache" in message.lower() for message in messages[start:])
        return attached and not (self.timing_cache and complained)

    def notes(self, plan: bytes, looser: bool) -> tuple[str, ...]:
        """What a reader of this engine's figures has to know."""
        if self._pinned is None:
            return ()
        notes = [f"{self._layers_pinned} layers pinned to the graph's types"]
        if looser:
            notes = ["no tactics obeyed every type of the graph: only the float32 layers are pinned, the rest is free"]
        if self._disobeyed:
            notes.append(f"TensorRT disobeyed the types of {self._disobeyed} layers")
        kept = kept_names(self._model)
        if kept:
            try:
                notes.append(kept_tensors(self._trt, plan, kept).sentence())
            except (RuntimeError, json.JSONDecodeError) as error:
                notes.append(f"the types of the engine's layers could not be read back: {error}")
        return tuple(notes)

    def _parser_error(self, parser: Any, messages: list[str]) -> str:
        version = api.version_text(self._trt)
        if parser.num_errors == 0:
            return f"{self._label}: TensorRT {version} cannot read the graph: {in_one_line(messages)}"
        error = parser.get_error(0)
        where = ""
        if 0 <= error.node() < len(self._model.graph.node):
            node = self._model.graph.node[error.node()]
            where = f" at node {node.name!r} ({node.op_type})"
        return f"{self._label}: TensorRT {version} cannot read the graph{where}: {' '.join(error.desc().split())}"
