"""How ONNX Runtime's CPU provider is told to compute a graph as the graph says."""

from __future__ import annotations

import onnx
import onnxruntime
import torch
from onnx import TensorProto


def session_options(model: onnx.ModelProto) -> onnxruntime.SessionOptions:
    """Options for a session of this graph, with as many threads as PyTorch uses.

    Quantized operands and their convolution are left apart: fused, they would be computed by integer kernels that
    saturate on some processors, and rounded once more.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    if any(tensor.data_type == TensorProto.FLOAT8E4M3FN for tensor in model.graph.initializer):
        # Higher levels change what a graph with eight-bit floats computes: PyTorch agrees with this one.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return options
