"""ONNX Runtime as a runner: on the CPU every typed graph, so that drift can be estimated anywhere, on a GPU by CUDA."""

from __future__ import annotations

import functools
import json
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import torch
from torch import Tensor

from sadtrt_core.errors import Unavailable
from sadtrt_core.graph.export import typed_graph
from sadtrt_core.graph.fixed_shapes import fix_shapes
from sadtrt_core.graph.rounding import cpu_session, explicit_rounding, session_options
from sadtrt_core.runners.base import Job, StageRunner

#: The least graph, to see whether a provider loads.
_PROBE = '<ir_version: 8, opset_import: ["": 17]> probe (float[1] x) => (float[1] y) { y = Identity(x) }'
CUDA_PROVIDER, CPU_PROVIDER = "CUDAExecutionProvider", "CPUExecutionProvider"


class OnnxRuntimeRunner(StageRunner):
    """The stage's typed graph on ONNX Runtime's CPU provider, roundings of half and bfloat16 made explicit."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._session: onnxruntime.InferenceSession | None = None
        self._inputs: dict[str, np.ndarray] = {}
        self._outputs: list[np.ndarray] = []
        if job.precision.compute != "float32":
            self.notes = (
                f"{job.precision.compute} operators are computed in float32 with every result rounded: ONNX Runtime's "
                "CPU provider has no such arithmetic, so the latency is not that of half",
            )
        if job.precision.quantize is not None:
            self.notes += ("convolutions of quantized operands are computed in float32", *job.calibration_notes)

    def activate(self) -> None:
        job = self.job
        typed = typed_graph(job.renderer, job.stage, job.precision, job.grid_sample, job.cache, job.calibration)
        self._session = cpu_session(explicit_rounding(onnx.load_from_string(typed)))

    def deactivate(self) -> None:
        self._session, self._inputs, self._outputs = None, {}, []

    def _bind(self, inputs: dict[str, Tensor]) -> None:
        self._inputs = {name: tensor.detach().contiguous().numpy() for name, tensor in inputs.items()}

    def execute(self) -> None:
        assert self._session is not None, "execute before activate"
        self._outputs = self._session.run([spec.name for spec in self.job.outputs], self._inputs)

    def fetch(self) -> dict[str, Tensor]:
        return {spec.name: torch.from_numpy(value) for spec, value in zip(self.job.outputs, self._outputs, strict=True)}


class OnnxRuntimeBoundRunner(StageRunner):
    """The stage's typed graph by the provider of the job's device, on tensors that stay where they are (I/O binding).

    On a GPU it is replayed as a CUDA graph where every node is CUDA's. Nodes that fall back to the CPU are named in the
    notes; then there is no CUDA graph. The batch is fixed, so that no shape is computed on the host.
    """

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._on_gpu = job.device.type == "cuda"
        self._session: onnxruntime.InferenceSession | None = None
        self._binding: onnxruntime.IOBinding | None = None
        self._tensors: dict[str, Tensor] = {}
        self._run_options = onnxruntime.RunOptions()
        # The caller waits for the stream when it wants to.
        self._run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def activate(self) -> None:
        """Raises RuntimeError where ONNX Runtime does not take the graph, with its reason."""
        job = self.job
        typed = typed_graph(job.renderer, job.stage, job.precision, job.grid_sample, job.cache, job.calibration)
        graph = onnx.load_from_string(typed)
        fix_shapes(graph, {spec.name: spec.batched(job.batch) for spec in job.inputs})
        if self._on_gpu:
            self.stream = torch.cuda.Stream(job.device)
        self._tensors = {
            spec.name: torch.zeros(spec.batched(job.batch), device=job.device) for spec in (*job.inputs, *job.outputs)
        }
        try:
            self._open(graph, whole=True)
        except Exception as refused:  # ONNX Runtime has no common type for what it raises.
            try:
                self._open(graph, whole=False)
            except Exception as error:
                raise RuntimeError(f"ONNX Runtime does not take {job.stage.name}: {error}") from error
            kind, told = self._provider(cuda_graph=False)
            self.notes = (f"not as a CUDA graph: {nodes_elsewhere(graph, kind, (kind, told)) or refused}",)

    def _open(self, graph: onnx.ModelProto, whole: bool) -> None:
        """A session with the tensors bound, run once, since what allocates and tunes is no part of a measurement.

        `whole`: every node has to be on the device, and the graph is captured as a CUDA graph.
        """
        options = session_options(graph)
        if whole and self._on_gpu:
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        self._session = _opened(graph, options, self._provider(cuda_graph=whole))
        self._binding = self._session.io_binding()
        kind, index = self.job.device.type, self.job.device.index or 0
        for specs, bind in ((self.job.inputs, self._binding.bind_input), (self.job.outputs, self._binding.bind_output)):
            for spec in specs:
                tensor = self._tensors[spec.name]
                bind(spec.name, kind, index, np.float32, list(tensor.shape), tensor.data_ptr())
        if self._on_gpu:
            torch.cuda.synchronize(self.job.device)
        self.execute()
        self.synchronize()

    def _provider(self, cuda_graph: bool) -> tuple[str, dict[str, str]]:
        """The device's provider, and what it is told."""
        if self.stream is None:
            return CPU_PROVIDER, {}
        return CUDA_PROVIDER, {
            "device_id": str(self.job.device.index or 0),
            "user_compute_stream": str(self.stream.cuda_stream),
            "enable_cuda_graph": str(int(cuda_graph)),
            "use_tf32": str(int(self.job.precision.tf32)),
        }

    def deactivate(self) -> None:
        self._binding, self._session, self.stream, self._tensors = None, None, None, {}

    def _bind(self, inputs: dict[str, Tensor]) -> None:
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream(self.job.device))
        with torch.cuda.stream(self.stream):
            for name, tensor in inputs.items():
                self._tensors[name].copy_(tensor, non_blocking=True)

    def execute(self) -> None:
        assert self._session is not None, "execute before activate"
        self._session.run_with_iobinding(self._binding, self._run_options)

    def fetch(self) -> dict[str, Tensor]:
        if self.stream is not None:
            torch.cuda.current_stream(self.job.device).wait_stream(self.stream)
        return {spec.name: self._tensors[spec.name] for spec in self.job.outputs}


def nodes_elsewhere(graph: onnx.ModelProto, expected: str, provider: tuple[str, dict[str, str]]) -> str | None:
    """Which nodes another provider than `expected` computes where `provider` is asked to, in words; None for none.

    By ONNX Runtime's own profile of a run on zeros; the graph's inputs are float32 of fixed shapes.
    """
    options = session_options(graph)
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = _opened(graph, options, provider)
        session.run(None, {value.name: np.zeros(value.shape, np.float32) for value in session.get_inputs()})
        events = json.loads(Path(session.end_profiling()).read_text())
    ran = [event["args"] for event in events if event.get("cat") == "Node" and "provider" in event.get("args", {})]
    elsewhere = Counter(node["op_name"] for node in ran if node["provider"] != expected)
    if not elsewhere:
        return None
    kinds = ", ".join(f"{count} {name}" for name, count in elsewhere.most_common(5))
    return f"{sum(elsewhere.values())} of {len(ran)} nodes fall back to the CPU ({kinds})"


@functools.cache
def cuda_provider_absence() -> Unavailable | None:
    """Why ONNX Runtime cannot compute by CUDA here; None where it can."""
    if CUDA_PROVIDER not in onnxruntime.get_available_providers():
        return Unavailable(
            "the ONNX Runtime that is installed has no CUDA provider",
            "pip uninstall -y onnxruntime && pip install onnxruntime-gpu",
        )
    try:
        session = _opened(onnx.parser.parse_model(_PROBE), onnxruntime.SessionOptions(), (CUDA_PROVIDER, {}))
    except Exception as error:  # ONNX Runtime has no common type for what it raises.
        return Unavailable(f"ONNX Runtime's CUDA provider does not load: {error}")
    if CUDA_PROVIDER not in session.get_providers():
        return Unavailable("ONNX Runtime's CUDA provider does not load: it wants another CUDA or cuDNN than is here")
    return None


def _opened(
    graph: onnx.ModelProto, options: onnxruntime.SessionOptions, provider: tuple[str, dict[str, str]]
) -> onnxruntime.InferenceSession:
    # Without its own way back to the CPU, which it would only print.
    return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=[provider], enable_fallback=0)


def onnxruntime_runner(job: Job) -> StageRunner:
    """The runner for the job's device: on a CPU with explicit roundings, on a GPU by the CUDA provider."""
    return OnnxRuntimeRunner(job) if job.device.type == "cpu" else OnnxRuntimeBoundRunner(job)
