"""Renders frames under any precision of one fp32 graph, by ONNX Runtime with every rounding explicit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor

from sadtrt_core.graph.gridsample import resolve_grid_sample
from sadtrt_core.graph.rounding import explicit_rounding
from sadtrt_core.graph.typed import apply_precision
from sadtrt_core.precision import Precision


class Candidates:
    """Frames of the generator's graph for every frame of a sequence, under whatever precision is asked for.

    `graph` is the fp32 export of the generator, its volume samplers still GridSample3D nodes; `inputs` has one dict of
    float32 tensors on the host for each frame, batch 1. Nothing is kept between precisions: a session takes a tenth of
    a second to make and its weights as much memory as the renderer.
    """

    def __init__(self, graph: onnx.ModelProto, inputs: Sequence[dict[str, Tensor]]) -> None:
        self.graph = graph
        self.arrays: tuple[dict[str, np.ndarray], ...] = tuple(
            {name: tensor.detach().contiguous().numpy() for name, tensor in item.items()} for item in inputs
        )

    def frames(self, precision: Precision, indices: Sequence[int]) -> Tensor:
        """Frames (len(indices), 3, H, W), float32 on the host; not finite where the precision overflows."""
        typed = resolve_grid_sample(apply_precision(self.graph, precision), "native")
        session = make_session(explicit_rounding(typed))
        output = typed.graph.output[0].name
        return torch.cat([torch.from_numpy(session.run([output], self.arrays[index])[0]) for index in indices])


def make_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """A session on ONNX Runtime's CPU provider with as many threads as PyTorch uses."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    # Threads that spin while they wait slow down whoever shares the cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
