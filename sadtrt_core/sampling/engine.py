"""One sampler as a graph and as an engine of its own, whose inputs and output have the features' own type."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor

from sadtrt_core.case import Case
from sadtrt_core.engine import tensorrt_api as api
from sadtrt_core.engine.cache import ensure_engine
from sadtrt_core.engine.job import BuildJob, stored_graph
from sadtrt_core.engine.plugin import built_plugin, load_plugin, plugin_absence
from sadtrt_core.errors import Unavailable
from sadtrt_core.graph.export import OPSET
from sadtrt_core.graph.grid_sample import resolve_grid_sample
from sadtrt_core.graph.plugin_nodes import PLUGIN_VERSION
from sadtrt_core.plan import precision_named
from sadtrt_core.renderer.sampling import NODE_TYPE
from sadtrt_core.sampling.shapes import Launch, Launcher, SamplingShape, Setting

GraphSampler = Literal["plugin", "native"]
_ELEMENT_TYPES = {torch.float32: TensorProto.FLOAT, torch.float16: TensorProto.FLOAT16}
#: Of the built-in precisions those that a sampler of these features with fp32 coordinates belongs to.
_PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16-mixed"}
_IR_VERSION = 8  # What goes with opset 17.


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
        plugin_version=PLUGIN_VERSION,
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


@contextlib.contextmanager
def sampler_engine(grid_sample: GraphSampler, setting: Setting) -> Iterator[Launcher]:
    """A launcher on a sampler's engine, from the cache or built now; the engine is freed in the end.

    Raises BuildError where none can be built, RuntimeError where TensorRT does not load it or it is of other
    types or shapes than the sampler.
    """
    trt: Any = api.tensorrt_module()
    if isinstance(trt, Unavailable):
        raise RuntimeError(trt.reason)
    job, shape = sampler_job(setting, grid_sample), setting.shape
    if job.plugin is not None:
        load_plugin(job.plugin, trt)  # The engine may come from the cache: nothing has loaded it yet.
    plan = ensure_engine(job, setting.report).plan
    with api.collected_messages(trt) as messages:
        runtime = api.create_runtime(trt)
        engine = runtime.deserialize_cuda_engine(plan)
        context: Any = None if engine is None else engine.create_execution_context()
        if context is None:
            raise RuntimeError(f"{job.label}: TensorRT refused the engine: {api.in_one_line(messages)}")
    features = {torch.float32: trt.float32, torch.float16: trt.float16}[setting.dtype]
    doors = {
        "volume": (features, shape.volume_shape),
        "grid": (trt.float32, shape.grid_shape),
        "samples": (features, shape.samples_shape),
    }
    # What is written where the engine says, not where it should, would be somebody else's memory.
    for name, expected in doors.items():
        found = engine.get_tensor_dtype(name), tuple(int(size) for size in context.get_tensor_shape(name))
        if found != expected:
            raise RuntimeError(f"tensor {name!r} of the sampler's engine is {found}: expected {expected}")

    def launcher(volume: Tensor, grid: Tensor) -> Launch:
        tensors = {"volume": volume, "grid": grid, "samples": volume.new_zeros(shape.samples_shape)}

        def launch() -> Tensor:
            for name, tensor in tensors.items():
                if not context.set_tensor_address(name, tensor.data_ptr()):
                    raise RuntimeError(f"TensorRT refused the address of tensor {name!r}")
            if not context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
                raise RuntimeError("TensorRT could not enqueue the sampler's engine")
            return tensors["samples"]

        return launch

    try:
        yield launcher
    finally:
        torch.cuda.synchronize(setting.device)
        # In this order: a context must go before its engine.
        context = engine = runtime = None


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
        optimization_level=setting.optimization_level,
        cache=setting.cache,
        plugin=plugin,
    )
