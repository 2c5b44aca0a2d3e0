"""Inputs of every stage as the stages before it really produce them, so that latency and drift see true values."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from sadtrt_core.renderer.renderer import Renderer
from sadtrt_core.renderer.stages import STAGES, Stage, call_stage, matrix_arithmetic, stage_module
from sadtrt_core.renderer.workload import Workload


def stage_inputs(
    renderer: Renderer, workload: Workload, stage: Stage, batch: int, device: torch.device
) -> dict[str, Tensor]:
    """The stage's inputs for the first `batch` driving frames (repeated when there are fewer), float32 on `device`.

    Tensors that earlier stages make are computed by PyTorch in fp32, TF32 off. The source image and keypoints are
    repeated along the batch, except where the stage takes one for a whole clip.
    """
    index = torch.arange(batch) % workload.kp_driving.shape[0]
    known = {
        "source_image": workload.source_image,
        "kp_canonical": workload.kp_canonical,
        "kp_source": workload.kp_source,
        "kp_driving": workload.kp_driving[index],
        "coefficients": workload.driving_coefficients[index],
        "source_coefficients": workload.source_coefficients,
        "driving_coefficients": workload.driving_coefficients[index],
    }
    known = {name: tensor.to(device) for name, tensor in known.items()}
    wanted = stage.inputs(renderer.config)
    for maker in ("appearance", "motion", "warp"):
        if all(spec.name in known for spec in wanted):
            break
        known.update(_outputs(renderer, STAGES[maker], known, batch, device))
    return {spec.name: known[spec.name].expand(spec.batched(batch)).contiguous() for spec in wanted}


def _outputs(
    renderer: Renderer, maker: Stage, known: dict[str, Tensor], batch: int, device: torch.device
) -> dict[str, Tensor]:
    # What does not depend on the frame is computed once and repeated by whoever needs it.
    count = 1 if maker.when == "once a clip" else batch
    inputs = tuple(known[spec.name].expand(spec.batched(count)) for spec in maker.inputs(renderer.config))
    module = copy.deepcopy(stage_module(maker, renderer)).to(device)
    with torch.inference_mode(), matrix_arithmetic(tf32=False, benchmark=False):
        outputs = call_stage(module, inputs)
    return {spec.name: tensor for spec, tensor in zip(maker.outputs(renderer.config), outputs, strict=True)}


def frame_inputs(renderer: Renderer, workload: Workload, stage: Stage, device: torch.device) -> list[dict[str, Tensor]]:
    """The inputs of a per-frame stage at batch 1, one dict for each driving frame."""
    frames = workload.kp_driving.shape[0]
    together = stage_inputs(renderer, workload, stage, frames, device)
    return [{name: tensor[i : i + 1] for name, tensor in together.items()} for i in range(frames)]
