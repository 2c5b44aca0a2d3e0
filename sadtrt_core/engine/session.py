"""A loaded engine with its device buffers, stream and CUDA graph: what runs, without knowing of stages.

Memory and the stream are pycuda's, in the primary context that torch uses too. Tensors at the door are torch's: the
buffers are viewed through `__cuda_array_interface__`, never copied for that.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from sadtrt_core.engine import tensorrt_api as api
from sadtrt_core.errors import EngineRefused

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: not ordered with the legacy default stream, which a capture forbids.


@functools.cache
def _primary_context(device_index: int) -> Any:
    """The device's primary context as pycuda holds it, retained once for the process and released at its end."""
    import pycuda.driver as cuda

    # torch first: it makes the primary context, and pycuda joins it.
    torch.zeros(1, device=torch.device("cuda", device_index))
    cuda.init()
    context = cuda.Device(device_index).retain_primary_context()
    atexit.register(context.detach)
    return context


@contextlib.contextmanager
def active_context(device_index: int) -> Iterator[None]:
    """The primary context on pycuda's own stack, which its allocations and streams want."""
    context = _primary_context(device_index)
    context.push()
    try:
        yield
    finally:
        context.pop()


class DeviceBuffer:
    """pycuda's device memory of float32 that torch can view. Freed when no view refers to it any more.

    Made where `active_context` is active.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        import pycuda.driver as cuda

        self._allocation = cuda.mem_alloc(4 * math.prod(shape))
        self.__cuda_array_interface__ = {
            "shape": shape,
            "typestr": "<f4",
            "data": (int(self._allocation), False),
            "strides": None,
            "version": 2,
        }


class EngineSession:
    """One engine on one GPU. `close` frees what it holds; a fetched view keeps its own buffer alive.

    `cuda_graph` launches a captured CUDA graph instead of enqueuing layer by layer. TensorRT for RTX captures by
    itself, because its kernels are compiled while it runs.
    """

    def __init__(self, trt: Any, plan: bytes, device: torch.device, cuda_graph: bool) -> None:
        """Load, allocate, run once and capture.

        Raises EngineRefused where TensorRT does not load the bytes or a tensor is not float32 of a fixed shape,
        RuntimeError where there is too little memory or the engine cannot run or be captured.
        """
        self._trt = trt
        self._device = torch.device("cuda", device.index if device.index is not None else torch.cuda.current_device())
        self._views: dict[str, Tensor] = {}
        self._graph: torch.cuda.CUDAGraph | None = None
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._stream: Any = None
        self._inputs: list[str] = []
        self._outputs: list[str] = []
        self.stream: torch.cuda.Stream | None = None
        captures_by_itself = hasattr(trt, "CudaGraphStrategy")
        try:
            with torch.cuda.device(self._device):
                self._load(plan, cuda_graph and captures_by_itself)
                self._allocate()
                # The first call allocates and may compile: never part of a capture or a measurement.
                self._enqueue()
                self._require_stream().synchronize()
                if cuda_graph and not captures_by_itself:
                    self._capture()
        except BaseException:
            self.close()
            raise

    def _load(self, plan: bytes, capturing: bool) -> None:
        """`capturing` has the runtime capture a CUDA graph by itself."""
        _primary_context(self._device.index)
        with api.collected_messages(self._trt) as messages:
            self._runtime = api.create_runtime(self._trt)
            self._engine = self._runtime.deserialize_cuda_engine(plan)
            if self._engine is None:
                raise EngineRefused(f"TensorRT refused the engine: {api.in_one_line(messages)}")
            if capturing:
                runtime_config = self._engine.create_runtime_config()
                runtime_config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
                self._context = self._engine.create_execution_context(runtime_config)
            else:
                self._context = self._engine.create_execution_context()
            if self._context is None:
                raise RuntimeError(f"TensorRT made no execution context: {api.in_one_line(messages)}")

    def _allocate(self) -> None:
        import pycuda.driver as cuda

        with active_context(self._device.index):
            self._stream = cuda.Stream(_NON_BLOCKING)
            self.stream = torch.cuda.ExternalStream(self._stream.handle, device=self._device)
            for name in [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]:
                is_input = self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT
                (self._inputs if is_input else self._outputs).append(name)
                if self._engine.get_tensor_dtype(name) != self._trt.float32:
                    raise EngineRefused(f"tensor {name!r} of the engine is {self._engine.get_tensor_dtype(name)}")
                shape = tuple(int(size) for size in self._context.get_tensor_shape(name))
                if min(shape, default=1) < 0:
                    raise EngineRefused(f"tensor {name!r} of the engine has no fixed shape: {shape}")
                with torch.inference_mode(False):  # Else nobody outside that mode could bind inputs.
                    view = self._views[name] = torch.as_tensor(DeviceBuffer(shape), device=self._device)
                if not self._context.set_tensor_address(name, view.data_ptr()):
                    raise RuntimeError(f"TensorRT refused the buffer of tensor {name!r}")
            with torch.cuda.stream(self.stream):
                for view in self._views.values():
                    view.zero_()  # The first call must not read coordinates from what was there before.

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._require_stream().cuda_stream):
            raise RuntimeError("TensorRT could not enqueue the engine")

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        # Thread-local: another thread that reads clocks or memory meanwhile does not spoil the capture.
        try:
            with torch.cuda.graph(graph, stream=self._require_stream(), capture_error_mode="thread_local"):
                self._enqueue()
        except RuntimeError as error:
            raise RuntimeError(
                f"the engine cannot be captured in a CUDA graph ({error}): use the runner tensorrt-enqueue"
            ) from error
        self._graph = graph

    def _require_stream(self) -> torch.cuda.Stream:
        if self.stream is None:
            raise RuntimeError("the engine is closed")
        return self.stream

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every input and output by name."""
        return {name: tuple(view.shape) for name, view in self._views.items()}

    def set_inputs(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy every input into its buffer, after all that torch's current stream has enqueued so far.

        Tensors may live on this GPU or on the host; a host tensor travels asynchronously only from pinned memory. What
        is enqueued on torch's current stream later waits for the copies, so the tensors may be reused at once.
        """
        stream, current = self._require_stream(), torch.cuda.current_stream(self._device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream), torch.no_grad():
            for name in self._inputs:
                self._views[name].copy_(tensors[name], non_blocking=True)
        current.wait_stream(stream)

    def execute(self) -> None:
        """Enqueue the engine once on the session's stream."""
        if self._graph is None:
            self._enqueue()
            return
        with torch.cuda.stream(self._require_stream()):
            self._graph.replay()

    def views(self) -> dict[str, Tensor]:
        """The output buffers as tensors; torch's current stream waits for what was executed. Valid until `execute`."""
        torch.cuda.current_stream(self._device).wait_stream(self._require_stream())
        return {name: self._views[name] for name in self._outputs}

    def close(self) -> None:
        """Free the engine, its memory and its stream; safe to call twice."""
        if self.stream is not None:
            self.stream.synchronize()
        if self._graph is not None:
            self._graph.reset()
        # In this order: a context must go before its engine, and everything before the stream it ran on.
        self._graph = None
        self._context = None
        self._engine = None
        self._runtime = None
        self._views.clear()
        self.stream = None
        self._stream = None
