"""SadTalker's generator replaced by a TensorRT engine: the same call, the same kind of answer.

In SadTalker's `animate.py`, after the networks are loaded:

    from sadtrt_core.drop_in import TensorRTGenerator
    self.generator = TensorRTGenerator("checkpoints/SadTalker_V0.0.2_256.safetensors")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from sadtrt_core.case import GridSample
from sadtrt_core.config import default_cache
from sadtrt_core.engine.plugin import PluginLibrary, find_plugin
from sadtrt_core.errors import UserError
from sadtrt_core.graph.quantize import Calibration
from sadtrt_core.plan import precision_named
from sadtrt_core.renderer.checkpoint import load_checkpoint
from sadtrt_core.renderer.renderer import Renderer
from sadtrt_core.renderer.stages import STAGES
from sadtrt_core.runners.base import Job, StageRunner
from sadtrt_core.runners.tensorrt import TensorRTRunner

Keypoints = Mapping[str, "Tensor | None"] | Tensor


class TensorRTGenerator(nn.Module):
    """Called as SadTalker calls its generator, computed by an engine that is built (or found in the cache) here.

    Give a `checkpoint` file of SadTalker's or a `renderer`. Engines have a fixed batch: a call with more frames is
    served in pieces of `batch`, the last one filled up. `device` is the current GPU unless another is named;
    `calibration` has the ranges that int8 needs. `make_runner` makes the runner that computes, from a job of the
    generator stage.

    Raises UserError for weights that cannot be used, RuntimeError with the reason where TensorRT cannot serve.
    """

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        *,
        renderer: Renderer | None = None,
        size: int = 256,
        precision: str = "fp16-mixed",
        grid_sample: GridSample | None = None,
        batch: int = 1,
        device: torch.device | str = "cuda",
        cache: Path | None = None,
        calibration: Calibration | None = None,
        make_runner: Callable[[Job], StageRunner] = TensorRTRunner,
    ) -> None:
        super().__init__()
        if (checkpoint is None) == (renderer is None):
            raise UserError("a TensorRTGenerator takes its weights from one place: give a checkpoint or a renderer")
        if batch < 1:
            raise UserError(f"batch {batch} is too small: expected at least 1 frame")
        how = precision_named(precision)
        if how.quantize is not None and calibration is None:
            raise UserError(
                f"precision {precision!r} needs ranges measured on pictures and motion like yours: give the "
                "calibration that sadtrt_core.graph.calibrate.calibrated(renderer, workload, cache) returns"
            )
        self._job = Job(
            renderer=renderer or load_checkpoint(Path(checkpoint or ""), size, None),
            stage=STAGES["generator"],
            precision=how,
            grid_sample=grid_sample or ("plugin" if isinstance(find_plugin(), PluginLibrary) else "native"),
            batch=batch,
            device=torch.device(device),
            cache=cache or default_cache(),
            calibration=calibration,
        )
        self._runner = make_runner(self._job)
        self._runner.__enter__()

    def close(self) -> None:
        """Free the engine and its memory."""
        self._runner.deactivate()

    def forward(self, source_image: Tensor, kp_driving: Keypoints, kp_source: Keypoints) -> dict[str, Tensor]:
        """Frames for source images (N, 3, H, W) in 0..1 and keypoints {"value": (N, 15, 3)}.

        Any float type and device is taken. Returns {"prediction": (N, 3, H, W) float32 in 0..1} on the images' device.
        Raises UserError for a jacobian, for another shape, or for keypoints of another number of frames.
        """
        inputs = {
            "source_image": source_image,
            "kp_driving": _value("kp_driving", kp_driving),
            "kp_source": _value("kp_source", kp_source),
        }
        frames = source_image.shape[0]
        for name, tensor in inputs.items():
            if tensor.shape[0] != frames:
                raise UserError(
                    f"{name!r} {tuple(tensor.shape)} has {tensor.shape[0]} frames where source_image "
                    f"{tuple(source_image.shape)} has {frames}: expected as many"
                )
        ready = {name: tensor.to(self._job.device, torch.float32) for name, tensor in inputs.items()}
        pieces = [self._render(ready, start) for start in range(0, frames, self._job.batch)]
        return {"prediction": torch.cat(pieces).to(source_image.device)}

    def _render(self, inputs: dict[str, Tensor], start: int) -> Tensor:
        """The frames of one run of the engine, copied out of the buffer that the next run overwrites."""
        batch = self._job.batch
        parts = {name: tensor[start : start + batch] for name, tensor in inputs.items()}
        count = parts["source_image"].shape[0]
        if count < batch:
            parts = {
                name: torch.cat((part, part[-1:].expand(batch - count, *part.shape[1:])))
                for name, part in parts.items()
            }
        self._runner.bind(parts)
        self._runner.execute()
        return self._runner.fetch()["prediction"][:count].clone()


def _value(name: str, keypoints: Keypoints) -> Tensor:
    if isinstance(keypoints, Tensor):
        return keypoints
    if keypoints.get("jacobian") is not None:
        raise UserError(
            f"{name!r} carries a jacobian, which engines are exported without: set estimate_jacobian to False, as "
            "SadTalker's own configuration does"
        )
    value = keypoints.get("value")
    if value is None:
        raise UserError(f"{name!r} lacks its entry 'value': expected a tensor (N, 15, 3)")
    return value
