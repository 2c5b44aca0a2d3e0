"""A picture of what a renderer does: the source and frames of the driving sequence, for a person to look at."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from PIL import Image

from sadtrt_core.renderer.renderer import Renderer
from sadtrt_core.renderer.workload import make_workload

FRAMES = 6


def save_preview(path: Path, renderer: Renderer, device: torch.device) -> None:
    """Write a PNG: the source picture, then six frames of the default driving sequence side by side."""
    workload = make_workload(renderer.config, 32)
    generator = copy.deepcopy(renderer.generator).to(device)
    index = torch.linspace(0, 31, FRAMES).long()
    source = workload.source_image.to(device)
    with torch.inference_mode():
        frames = [
            generator(source, workload.kp_driving[i : i + 1].to(device), workload.kp_source.to(device)) for i in index
        ]
    row = torch.cat([source, *frames], dim=3)[0].clamp(0, 1)
    pixels = (row * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
