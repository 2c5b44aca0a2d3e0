"""SadTalker's render loop, after the signature of its `make_animation`: where the drop-in has to fit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sadtrt_core.renderer.keypoints import bins_to_radians, posed_keypoints
from sadtrt_core.renderer.renderer import Renderer
from sadtrt_core.renderer.workload import Workload

Keypoints = dict[str, Tensor]


def make_animation(
    source_image: Tensor,
    source_semantics: Tensor,
    target_semantics: Tensor,
    generator: Callable[..., dict[str, Tensor]],
    kp_detector: Callable[[Tensor], Keypoints],
    he_estimator: None,
    mapping: Callable[[Tensor], dict[str, Tensor]],
    yaw_c_seq: None = None,
    pitch_c_seq: None = None,
    roll_c_seq: None = None,
    use_exp: bool = True,
    use_half: bool = False,
) -> Tensor:
    """Frames (N, T, 3, H, W) of images (N, 3, H, W), source windows (N, 70, 27), driving windows (N, T, 70, 27).

    The sequences that override a pose are not made here, nor is a head estimated.
    """
    with torch.no_grad():
        canonical = kp_detector(source_image)["value"]

        def posed(semantics: Tensor) -> Keypoints:
            heads = mapping(semantics)
            angles = (bins_to_radians(heads[name]) for name in ("yaw", "pitch", "roll"))
            return {"value": posed_keypoints(canonical, (*angles, heads["t"], heads["exp"]))}

        kp_source = posed(source_semantics)
        frames = []
        for semantics in target_semantics.unbind(dim=1):
            kp_norm = posed(semantics)
            frames.append(generator(source_image, kp_source=kp_source, kp_driving=kp_norm)["prediction"])
    return torch.stack(frames, dim=1)


class KeypointDetector(nn.Module):
    """SadTalker's form of the keypoint detector's answer."""

    def __init__(self, renderer: Renderer) -> None:
        super().__init__()
        self.network = renderer.kp_extractor

    def forward(self, image: Tensor) -> Keypoints:
        return {"value": self.network(image)}


class Mapping(nn.Module):
    """SadTalker's form of the mapping network's answer."""

    def __init__(self, renderer: Renderer) -> None:
        super().__init__()
        self.network = renderer.mapping

    def forward(self, semantics: Tensor) -> dict[str, Tensor]:
        return dict(zip(("yaw", "pitch", "roll", "t", "exp"), self.network(semantics), strict=True))


class OwnGenerator(nn.Module):
    """The generator as SadTalker calls it, in PyTorch."""

    def __init__(self, renderer: Renderer) -> None:
        super().__init__()
        # A copy, because it moves to the GPU, and engines are exported from the renderer's own on the CPU.
        self.network = copy.deepcopy(renderer.generator)

    def forward(self, source_image: Tensor, kp_driving: Keypoints, kp_source: Keypoints) -> dict[str, Tensor]:
        return {"prediction": self.network(source_image, kp_driving["value"], kp_source["value"])}


def animation_call(renderer: Renderer, workload: Workload, batch: int, device: torch.device) -> dict[str, Any]:
    """Arguments of `make_animation` but for the generator, the frames dealt to `batch` sequences as SadTalker does."""
    driving = workload.driving_coefficients
    count = driving.shape[0] // batch
    target = driving[: count * batch].reshape(count, batch, *driving.shape[1:])
    return {
        "source_image": workload.source_image.expand(batch, -1, -1, -1).to(device),
        "source_semantics": workload.source_coefficients.expand(batch, -1, -1).to(device),
        "target_semantics": target.transpose(0, 1).to(device),
        "kp_detector": KeypointDetector(renderer).to(device),
        "he_estimator": None,
        "mapping": Mapping(renderer).to(device),
    }
