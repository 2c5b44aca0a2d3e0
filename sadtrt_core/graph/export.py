"""A stage's PyTorch module to an fp32 ONNX graph with a dynamic batch and GridSample3D nodes."""

from __future__ import annotations

import io
import warnings

import onnx
import torch

from sadtrt_core.renderer.renderer import Renderer
from sadtrt_core.renderer.stages import Stage, TensorSpec, stage_module

#: TensorRT 8.6's parser knows no later one; every later runtime still reads it.
OPSET = 17
#: The first with a volumetric GridSample, for runtimes that sample 5-D input themselves.
OPSET_BUILTIN = 20
BATCH_AXIS = "batch"


def export_stage(renderer: Renderer, stage: Stage, opset: int = OPSET) -> onnx.ModelProto:
    """The stage as fp32 ONNX: batch norm and spectral norm folded, the batch axis named `batch`.

    Sampling a volume is one custom node GridSample3D (empty domain), for graph/grid_sample.py to resolve. Raises
    ValueError for a stage without a module.
    """
    module = stage_module(stage, renderer)
    inputs, outputs = stage.inputs(renderer.config), stage.outputs(renderer.config)
    # Two of each, because a batch of one would let the exporter take the axis for a constant.
    examples = tuple(_example(spec) for spec in inputs)
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # The TorchScript exporter is deprecated but the only one that writes opset 17 without rewriting operators.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            examples,
            buffer,  # type: ignore[arg-type]  # The TorchScript exporter writes to any file object.
            input_names=[spec.name for spec in inputs],
            output_names=[spec.name for spec in outputs],
            dynamic_axes={spec.name: {0: BATCH_AXIS} for spec in (*inputs, *outputs)},
            opset_version=opset,
            dynamo=False,
        )
    model = onnx.load_from_string(buffer.getvalue())
    model.doc_string = f"sadtrt stage {stage.name}, {renderer.config.image_size} pixels"
    return model


def _example(spec: TensorSpec) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(spec.batched(2), generator=generator) * 0.5
