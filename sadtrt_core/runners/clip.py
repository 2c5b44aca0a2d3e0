"""The clip stage: a whole clip through a runner's other stages, transfers included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from sadtrt_core.runners.base import Job, StageRunner
from sadtrt_core.stages import STAGES

_PARTS = ("keypoints", "mapping", "appearance", "motion", "warp", "decode")


def to_uint8(frames: Tensor) -> Tensor:
    """Frames (N, 3, H, W) in 0..1 to uint8 (N, H, W, 3), rounded to the nearest level as a video writer would."""
    # NaN becomes black here; drift counts it before the conversion.
    return (frames.nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


class ClipRunner(StageRunner):
    """Image and coefficients on the host to uint8 frames on the host.

    Keypoints and appearance run once, the other stages once for each frame, each by the same kind of runner. `make` is
    that runner's factory. The job's batch is the number of frames.
    """

    def __init__(self, job: Job, make: Callable[[Job], StageRunner]) -> None:
        super().__init__(job)
        self._parts = {name: make(replace(job, stage=STAGES[name], batch=1)) for name in _PARTS}
        self._active: list[StageRunner] = []
        self._inputs: dict[str, Tensor] = {}
        self._frames: Tensor | None = None

    def activate(self) -> None:
        for part in self._parts.values():
            self._active.append(part)
            part.activate()
        self.stream = self._parts["decode"].stream
        self.notes = tuple(dict.fromkeys(note for part in self._parts.values() for note in part.notes))
        sizes = [part.engine_bytes for part in self._parts.values() if part.engine_bytes is not None]
        self.engine_bytes = sum(sizes) if sizes else None

    def deactivate(self) -> None:
        while self._active:
            self._active.pop().deactivate()

    def _bind(self, inputs: dict[str, Tensor]) -> None:
        self._inputs = inputs

    def _run(self, name: str, **inputs: Tensor) -> Tensor:
        """One stage's first output. Cloned, because runners reuse their output buffers."""
        return next(iter(self._parts[name].infer(inputs).values())).clone()

    def execute(self) -> None:
        device = self.job.device
        image = self._inputs["source_image"].to(device, non_blocking=True)
        source = self._inputs["source_coefficients"].to(device, non_blocking=True)
        driving = self._inputs["driving_coefficients"].to(device, non_blocking=True)
        canonical = self._run("keypoints", source_image=image)
        kp_source = self._run("mapping", coefficients=source, kp_canonical=canonical)
        volume = self._run("appearance", source_image=image)
        frames = []
        for coefficients in driving.split(1):
            kp_driving = self._run("mapping", coefficients=coefficients, kp_canonical=canonical)
            motion = self._parts["motion"].infer(
                {"feature_3d": volume, "kp_driving": kp_driving, "kp_source": kp_source}
            )
            feature_map = self._parts["warp"].infer({"feature_3d": volume, **motion})
            frame = self._parts["decode"].infer(feature_map)["prediction"]
            frames.append(to_uint8(frame).to("cpu", non_blocking=True))
        self.synchronize()
        if device.type == "cuda":
            torch.cuda.current_stream(device).synchronize()
        self._frames = torch.cat(frames)

    def fetch(self) -> dict[str, Tensor]:
        """Frames as float32 (T, 3, H, W) in 0..1 on the host, from the uint8 ones that were made."""
        assert self._frames is not None, "fetch before execute"
        return {"frames": self._frames.permute(0, 3, 1, 2).float() / 255}
