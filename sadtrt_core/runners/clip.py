"""The clip stage: a whole clip through a runner's other stages, transfers included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from sadtrt_core.renderer.stages import STAGES, clip_parts
from sadtrt_core.runners.base import Job, StageRunner


def to_uint8(frames: Tensor) -> Tensor:
    """Frames (N, 3, H, W) in 0..1 to uint8 (N, H, W, 3), rounded to the nearest level as a video writer would."""
    # NaN becomes black here; drift counts it before the conversion.
    return (frames.nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


class ClipRunner(StageRunner):
    """Image and coefficients on the host to uint8 frames on the host.

    Keypoints and appearance run once, mapping and frame once for each frame, each by the same kind of runner. `make` is
    that runner's factory. The job's batch is the number of frames. The work is spread over several streams and the
    host, so `stream` is None and only host time is meant by its latency.
    """

    def __init__(self, job: Job, make: Callable[[Job], StageRunner]) -> None:
        super().__init__(job)
        self._parts = {name: make(replace(job, stage=STAGES[name], batch=1)) for name in clip_parts()}
        self.one_at_a_time = any(part.one_at_a_time for part in self._parts.values())
        self._active: list[StageRunner] = []
        self._inputs: dict[str, Tensor] = {}
        self._frames: Tensor | None = None

    def activate(self) -> None:
        for part in self._parts.values():
            self._active.append(part)
            part.activate()
        self.notes = tuple(dict.fromkeys(note for part in self._parts.values() for note in part.notes))
        sizes = [part.engine_bytes for part in self._parts.values() if part.engine_bytes is not None]
        self.engine_bytes = sum(sizes) if sizes else None
        size = self.job.renderer.config.image_size
        # Pinned on a GPU, so that a frame travels while the next one is computed.
        pinned = self.job.device.type == "cuda"
        self._frames = torch.empty((self.job.batch, size, size, 3), dtype=torch.uint8, pin_memory=pinned)

    def deactivate(self) -> None:
        while self._active:
            self._active.pop().deactivate()
        self._frames = None

    def _bind(self, inputs: dict[str, Tensor]) -> None:
        self._inputs = inputs

    def _run(self, name: str, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """One stage without waiting for it: binding and fetching are ordered on the device by the runner."""
        part = self._parts[name]
        part.bind(inputs)
        part.execute()
        return part.fetch()

    def _run_kept(self, name: str, inputs: dict[str, Tensor]) -> Tensor:
        """A stage's only output, copied out of the buffer that the runner's next call overwrites."""
        (output,) = self._run(name, inputs).values()
        return output.clone()

    def execute(self) -> None:
        assert self._frames is not None, "execute before activate"
        on_device = {name: tensor.to(self.job.device, non_blocking=True) for name, tensor in self._inputs.items()}
        image = {"source_image": on_device["source_image"]}
        canonical = self._run_kept("keypoints", image)

        def posed(coefficients: Tensor) -> Tensor:
            return self._run_kept("mapping", {"coefficients": coefficients, "kp_canonical": canonical})

        kp_source = posed(on_device["source_coefficients"])
        volume = {"feature_3d": self._run_kept("appearance", image)}
        for index, coefficients in enumerate(on_device["driving_coefficients"].split(1)):
            keypoints = {"kp_driving": posed(coefficients), "kp_source": kp_source}
            frame = self._run("frame", {**volume, **keypoints})["prediction"]
            self._frames[index].copy_(to_uint8(frame)[0], non_blocking=True)

    def synchronize(self) -> None:
        if self.job.device.type == "cuda":
            torch.cuda.synchronize(self.job.device)

    def fetch(self) -> dict[str, Tensor]:
        """Frames as float32 (T, 3, H, W) in 0..1 on the host, from the uint8 ones that were made."""
        assert self._frames is not None, "fetch before activate"
        return {"frames": self._frames.permute(0, 3, 1, 2).float() / 255}
