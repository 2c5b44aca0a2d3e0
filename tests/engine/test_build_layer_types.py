"""Building where types are layer precisions, as on TensorRT 8.6: what is tried after a failure, and what is said."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from onnx import TensorProto, helper
from reports import Kept

from sadtrt_core.engine.build import build_engine
from sadtrt_core.engine.job import BuildJob
from sadtrt_core.errors import BuildError

MakeJob = Callable[..., BuildJob]
LABEL = "mapping fp16 native batch 2 256 px"


class Layer:
    """A layer of floats that remembers how it was pinned."""

    num_inputs = num_outputs = 1

    def __init__(self, kind: str, name: str) -> None:
        self.type, self.name = SimpleNamespace(name=kind), name
        self._tensor = SimpleNamespace(name=name, dtype="float32")

    def get_input(self, index: int) -> Any:
        return self._tensor

    get_output = get_input

    def set_output_type(self, index: int, kind: str) -> None:
        pass


class Config:
    """A builder configuration whose timing caches are bytes."""

    def __init__(self) -> None:
        self.flags: set[str] = set()
        self.cache = b""

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        pass

    def set_tactic_sources(self, sources: int) -> None:
        pass

    def set_flag(self, flag: str) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: str) -> None:
        self.flags.discard(flag)

    def create_timing_cache(self, content: bytes) -> bytes | None:
        return None if content == b"refused" else content

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        self.cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: self.cache + b" timed")


def old_tensorrt(results: list[bytes | str]) -> Any:
    """A TensorRT 8.6 whose builds end as `results` say: a plan, or the message of an error."""
    trt: Any = ModuleType("tensorrt")
    trt.__version__ = "0.8"
    trt.float32, trt.float16 = "float32", "float16"
    trt.ILogger = type("ILogger", (), {"__init__": lambda self: None, "WARNING": 2})
    trt.NetworkDefinitionCreationFlag = SimpleNamespace(EXPLICIT_BATCH=0)
    trt.MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
    trt.ProfilingVerbosity = SimpleNamespace(DETAILED="detailed")
    trt.BuilderFlag = SimpleNamespace(TF32="tf32", FP16="fp16", INT8="int8", OBEY_PRECISION_CONSTRAINTS="obey")
    trt.TacticSource = SimpleNamespace()
    trt.builds = []
    layers = [Layer("ACTIVATION", "squashed"), Layer("ELEMENTWISE", "sum"), Layer("CAST", "y")]

    class Builder:
        def __init__(self, logger: Any) -> None:
            self._logger = logger

        def create_network(self, flags: int) -> Any:
            return SimpleNamespace(num_layers=len(layers), get_layer=lambda index: layers[index])

        def create_builder_config(self) -> Config:
            return Config()

        def build_serialized_network(self, network: Any, config: Config) -> bytes | None:
            trt.builds.append((config.cache, config.flags))
            result = results.pop(0)
            self._logger.log(2, "No layer obeys the requested constraints" if isinstance(result, bytes) else result)
            return result if isinstance(result, bytes) else None

    trt.Builder = Builder
    trt.OnnxParser = lambda network, logger: SimpleNamespace(parse=lambda content: True)
    return trt


def test_an_engine_says_how_many_layers_were_pinned_and_which_types_were_disobeyed(make_job: MakeJob) -> None:
    trt = old_tensorrt([b"plan"])
    built = build_engine(trt, make_job(), b"tactics")
    assert (built.plan, built.timing_cache) == (b"plan", b"tactics timed")
    assert built.notes == ("2 layers pinned to the graph's types", "TensorRT disobeyed the types of 1 layers")
    assert trt.builds == [(b"tactics", {"fp16", "obey"})]


def test_a_failed_build_is_tried_without_the_timing_cache_and_then_with_looser_types(make_job: MakeJob) -> None:
    trt, kept = old_tensorrt(["no  tactic", "none at all", b"plan"]), Kept()
    built = build_engine(trt, make_job(), b"tactics", kept)
    assert kept.lines == [
        f"{LABEL}: the build failed (no tactic); trying again without the timing cache",
        f"{LABEL}: the build failed (none at all); trying again with the types of the float32 layers pinned and no "
        "others",
    ]
    assert built.notes == (
        "no tactics obeyed every type of the graph: only the float32 layers are pinned, the rest is free",
        "TensorRT disobeyed the types of 1 layers",
    )
    assert [cache for cache, _ in trt.builds] == [b"tactics", b"", b""]


def test_a_build_that_always_fails_gives_the_last_reason(make_job: MakeJob) -> None:
    trt = old_tensorrt(["no tactic", "none at all"])
    with pytest.raises(BuildError, match=rf"^{LABEL}: TensorRT 0\.8 built no engine: none at all$"):
        build_engine(trt, make_job())


def test_a_float32_graph_has_nothing_to_pin(make_job: MakeJob) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Sigmoid", ["x"], ["y"], name="squash")], "single", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    trt, kept = old_tensorrt([b"plan"]), Kept()
    job = make_job(model.SerializeToString(), precision="tf32")
    built = build_engine(trt, job, b"refused", kept)
    assert (built.notes, trt.builds) == ((), [(b"", {"tf32"})])
    assert kept.lines == [f"{job.label}: TensorRT refused the timing cache; building without it"]
