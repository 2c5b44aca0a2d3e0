"""One sampler as a graph and as an engine of its own, whose inputs and output have the features' own type."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor

from sadtrt_core.case import Case
from sadtrt_core.engine import tensorrt_api as api
from sadtrt_core.engine.cache import ensure_engine
from sadtrt_core.engine.job import BuildJob, BuildOptions, stored_graph
from sadtrt_core.engine.plugin import built_plugin, load_plugin, plugin_absence
from sadtrt_core.errors import Unavailable
from sadtrt_core.graph.export import OPSET
from sadtrt_core.graph.grid_sample import resolve_grid_sample
from sadtrt_core.plan import precision_named
from sadtrt_core.progress import SILENT, Reporter
from sadtrt_core.renderer.sampling import NODE_TYPE
from sadtrt_core.sampling.shapes import SamplingShape

GraphSampler = Literal["plugin", "native"]
_ELEMENT_TYPES = {torch.float32: TensorProto.FLOAT, torch.float16: TensorProto.FLOAT16}
#: Of the built-in precisions those that a sampler of these features with fp32 coordinates belongs to.
_PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16-mixed"}
_IR_VERSION = 8  # What goes with opset 17.


@dataclass(frozen=True)
class Setting:
    """What is sampled and where. `dtype` is the features' type; the grid is fp32."""

    shape: SamplingShape
    dtype: torch.dtype
    device: torch.device
    cache: Path
    options: BuildOptions
    report: Reporter = SILENT


def sampler_graph(shape: SamplingShape, dtype: torch.dtype, grid_sample: GraphSampler) -> onnx.ModelProto:
    """`volume` in `dtype` and `grid` in fp32 to `samples` in `dtype`, and nothing else: no casts at the door."""
    features = _ELEMENT_TYPES[dtype]
    node = helper.make_node(
        NODE_TYPE,
        ["volume", "grid"],
        ["samples"],
        name=f"/{NODE_TYPE}",
        interpolation=0,
        padding=0,
        align_corners=0,
        plugin_version="1",
        volume_shape=shape.volume_shape[1:],
        grid_shape=shape.grid_shape[1:4],
        repeats=shape.repeats,
    )
    graph = helper.make_graph(
        [node],
        "sampler",
        [
            helper.make_tensor_value_info("volume", features, shape.volume_shape),
            helper.make_tensor_value_info("grid", TensorProto.FLOAT, shape.grid_shape),
        ],
        [helper.make_tensor_value_info("samples", features, shape.samples_shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION)
    return resolve_grid_sample(model, grid_sample)


def sampler_engine_absence(grid_sample: GraphSampler, setting: Setting) -> str | None:
    """Why no engine of a sampler can run here, in one sentence; None where it can."""
    device = setting.device
    if device.type != "cuda":
        return f"TensorRT runs on an NVIDIA GPU, not on {device.type}"
    trt = api.tensorrt_module()
    if isinstance(trt, Unavailable):
        return trt.reason
    refused = api.runtime_absence(trt, torch.cuda.get_device_capability(device))
    if refused is not None:
        return str(refused)
    if api.flavour(trt) == "tensorrt-rtx":
        return "TensorRT for RTX captures CUDA graphs by itself, and these launches share one: time a stage instead"
    missing = plugin_absence() if grid_sample == "plugin" else None
    return None if missing is None else str(missing)


class SamplerEngine:
    """A sampler's engine, from the cache or built now, that runs on any tensors of its shapes.

    Raises BuildError where none can be built, RuntimeError where TensorRT does not load it or it is of other
    types or shapes than the sampler.
    """

    def __init__(self, setting: Setting, grid_sample: GraphSampler) -> None:
        trt: Any = api.tensorrt_module()
        if isinstance(trt, Unavailable):
            raise RuntimeError(trt.reason)
        job = sampler_job(setting, grid_sample)
        if job.plugin is not None:
            load_plugin(job.plugin, trt)  # The engine may come from the cache: nothing has loaded it yet.
        plan = ensure_engine(job, setting.report).plan
        self._context: Any = None
        with api.collected_messages(trt) as messages:
            self._runtime = api.create_runtime(trt)
            self._engine = self._runtime.deserialize_cuda_engine(plan)
            if self._engine is not None:
                self._context = self._engine.create_execution_context()
            if self._context is None:
                raise RuntimeError(f"{job.label}: TensorRT refused the engine: {api.in_one_line(messages)}")
        features = {torch.float32: trt.float32, torch.float16: trt.float16}[setting.dtype]
        # What is written where the engine says, not where it should, would be somebody else's memory.
        self._check("volume", features, setting.shape.volume_shape)
        self._check("grid", trt.float32, setting.shape.grid_shape)
        self._check("samples", features, setting.shape.samples_shape)

    def _check(self, name: str, dtype: Any, shape: tuple[int, ...]) -> None:
        found = self._engine.get_tensor_dtype(name), tuple(int(size) for size in self._context.get_tensor_shape(name))
        if found != (dtype, shape):
            raise RuntimeError(f"tensor {name!r} of the sampler's engine is {found}: expected {(dtype, shape)}")

    def launch(self, volume: Tensor, grid: Tensor, samples: Tensor) -> None:
        """Enqueue the sampling on torch's current stream. The tensors are contiguous and on the engine's GPU."""
        for name, tensor in (("volume", volume), ("grid", grid), ("samples", samples)):
            if not self._context.set_tensor_address(name, tensor.data_ptr()):
                raise RuntimeError(f"TensorRT refused the address of tensor {name!r}")
        if not self._context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise RuntimeError("TensorRT could not enqueue the sampler's engine")

    def close(self) -> None:
        """Free the engine; nothing may be running on it."""
        # In this order: a context must go before its engine.
        self._context = None
        self._engine = None
        self._runtime = None


def sampler_job(setting: Setting, grid_sample: GraphSampler) -> BuildJob:
    """The engine to build, its graph written into the cache. Raises ValueError for `plugin` where it is not built."""
    shape = setting.shape
    plugin = built_plugin() if grid_sample == "plugin" else None
    graph = sampler_graph(shape, setting.dtype, grid_sample).SerializeToString(deterministic=True)
    stage = f"sampler-{shape.channels}-channels-{shape.grids}-grids"
    precision = precision_named(_PRECISIONS[setting.dtype])
    return BuildJob(
        case=Case(stage, "tensorrt", precision.name, grid_sample, shape.volumes),
        precision=precision,
        image_size=4 * shape.size,
        graph=stored_graph(graph, setting.cache, "sampler"),
        input_shapes=(("volume", shape.volume_shape), ("grid", shape.grid_shape)),
        options=setting.options,
        cache=setting.cache,
        plugin=plugin,
    )
