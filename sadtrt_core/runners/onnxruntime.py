"""ONNX Runtime on the CPU as a runner: every typed graph without a GPU, so that drift can be estimated anywhere."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor

from sadtrt_core.graph.export import typed_graph
from sadtrt_core.graph.rounding import explicit_rounding, session_options
from sadtrt_core.runners.base import Job, StageRunner


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
        graph = explicit_rounding(onnx.load_from_string(typed))
        self._session = onnxruntime.InferenceSession(
            graph.SerializeToString(), session_options(graph), providers=["CPUExecutionProvider"]
        )

    def deactivate(self) -> None:
        self._session, self._inputs, self._outputs = None, {}, []

    def _bind(self, inputs: dict[str, Tensor]) -> None:
        self._inputs = {name: tensor.detach().contiguous().numpy() for name, tensor in inputs.items()}

    def execute(self) -> None:
        assert self._session is not None, "execute before activate"
        self._outputs = self._session.run([spec.name for spec in self.job.outputs], self._inputs)

    def fetch(self) -> dict[str, Tensor]:
        return {spec.name: torch.from_numpy(value) for spec, value in zip(self.job.outputs, self._outputs, strict=True)}
