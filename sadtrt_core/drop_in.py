"""SadTalker's generator replaced by two TensorRT engines: the same call, the same kind of answer.

In SadTalker's `animate.py`, after the networks are loaded:

    from sadtrt_core.drop_in import TensorRTGenerator
    self.generator = TensorRTGenerator("checkpoints/SadTalker_V0.0.2_256.safetensors")
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from sadtrt_core.case import GridSample
from sadtrt_core.config import default_cache
from sadtrt_core.engine.plugin import plugin_absence
from sadtrt_core.errors import UserError
from sadtrt_core.graph.quantize import Calibration
from sadtrt_core.plan import precision_named
from sadtrt_core.precision import PRECISIONS
from sadtrt_core.renderer.checkpoint import load_checkpoint
from sadtrt_core.renderer.config import IMAGE_SIZES, NUM_KEYPOINTS
from sadtrt_core.renderer.picture import require_unit_range
from sadtrt_core.renderer.renderer import Renderer
from sadtrt_core.renderer.stages import STAGES
from sadtrt_core.renderer.tensor_files import input_tensor
from sadtrt_core.renderer.workload import require_keypoints, value_of
from sadtrt_core.runners.base import Job, StageRunner
from sadtrt_core.runners.tensorrt import TensorRTRunner

Keypoints = Mapping[str, "Tensor | None"] | Tensor


class TensorRTGenerator(nn.Module):
    """Called as SadTalker calls its generator, computed by engines that are built (or found in the cache) here.

    Give a `checkpoint` file of SadTalker's or a `renderer`. One engine makes the appearance volume of a source image,
    the other a frame of it. Each image of a call is compared, value by value, with the one that its place in the batch
    had before, and with its left neighbour: only an image that differs from both is encoded anew, so that a clip pays
    for its source once. That is done in fp32 whatever `precision` is, because every frame shows what it loses. Engines
    have a fixed batch: a call with more frames is served in pieces of `batch`, the last one filled up. `device` is the
    current GPU unless another is named; `calibration` has the ranges that int8 needs. `make_runner` makes a runner that
    computes, from a job of the stage appearance or frame.

    Raises UserError for weights that cannot be used, RuntimeError with the reason where TensorRT cannot serve.
    """

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        *,
        renderer: Renderer | None = None,
        size: int | None = None,
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
        if renderer is not None and size not in (None, renderer.config.image_size):
            raise UserError(
                f"size={size} was given with a renderer for {renderer.config.image_size} pixels: leave it out"
            )
        if batch < 1:
            raise UserError(f"batch {batch} is too small: expected at least 1 frame")
        how = precision_named(precision)
        if how.quantize is not None and calibration is None:
            raise UserError(
                f"precision {precision!r} needs ranges measured on pictures and motion like yours: give the "
                "calibration that sadtrt_core.graph.calibrate.calibrated(renderer, [workload], cache) returns"
            )
        self._job = Job(
            renderer=renderer or load_checkpoint(Path(checkpoint or ""), size or IMAGE_SIZES[0], None),
            stage=STAGES["frame"],
            precision=how,
            grid_sample=grid_sample or ("plugin" if plugin_absence() is None else "native"),
            batch=batch,
            device=torch.device(device),
            cache=cache or default_cache(),
            calibration=calibration,
        )
        config = self._job.renderer.config
        (image,), (volume,) = STAGES["appearance"].inputs(config), STAGES["appearance"].outputs(config)
        # No image equals NaN, so the first call encodes its own.
        self._images = torch.full(image.batched(batch), torch.nan, device=self._job.device)
        self._volumes = torch.zeros(volume.batched(batch), device=self._job.device)
        with contextlib.ExitStack() as loaded:
            fp32 = PRECISIONS["fp32"]
            one = replace(self._job, stage=STAGES["appearance"], precision=fp32, calibration=None, batch=1)
            self._appearance = loaded.enter_context(make_runner(one))
            self._frame = loaded.enter_context(make_runner(self._job))
            self._loaded = loaded.pop_all()

    def close(self) -> None:
        """Free the engines and their memory."""
        self._loaded.close()

    def forward(self, source_image: Tensor, kp_driving: Keypoints, kp_source: Keypoints) -> dict[str, Tensor]:
        """Frames for source images (N, 3, H, W) in 0..1 and keypoints {"value": (N, 15, 3)}.

        Any float type and device is taken. Returns {"prediction": (N, 3, H, W) float32 in 0..1} on the images' device.
        Raises UserError for a jacobian, for another shape or range, or for keypoints of another number of frames.
        """
        given = {
            "source_image": source_image,
            "kp_driving": value_of("kp_driving", kp_driving),
            "kp_source": value_of("kp_source", kp_source),
        }
        size = self._job.renderer.config.image_size
        inputs = {}
        for name, value in given.items():
            shape = (3, size, size) if name == "source_image" else (NUM_KEYPOINTS, 3)
            inputs[name] = input_tensor(name, value, shape, "TensorRTGenerator size=").reshape(-1, *shape)
        frames = inputs["source_image"].shape[0]
        for name, tensor in inputs.items():
            if tensor.shape[0] != frames:
                raise UserError(
                    f"{name} has {tensor.shape[0]} frames where source_image has {frames}: expected as many"
                )
        for name in ("kp_driving", "kp_source"):
            require_keypoints(name, *_reach(inputs[name]))
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
        self._encode(parts.pop("source_image"))
        return _run(self._frame, {"feature_3d": self._volumes, **parts})["prediction"][:count].clone()

    def _encode(self, images: Tensor) -> None:
        """Bring the volumes up to date with the images (batch, 3, H, W)."""
        changed = (images != self._images).flatten(1).any(dim=1).tolist()
        for place, anew in enumerate(changed):
            if not anew:
                continue
            require_unit_range("source_image", *_reach(images[place]))
            if place and torch.equal(images[place], images[place - 1]):
                self._volumes[place] = self._volumes[place - 1]
            else:
                image = {"source_image": images[place : place + 1]}
                self._volumes[place] = _run(self._appearance, image)["feature_3d"][0]
            self._images[place] = images[place]


def _run(runner: StageRunner, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The runner's outputs, in buffers that its next run overwrites."""
    runner.bind(inputs)
    runner.execute()
    return runner.fetch()


def _reach(tensor: Tensor) -> tuple[float, float]:
    """The least and the largest value."""
    return tensor.min().item(), tensor.max().item()
