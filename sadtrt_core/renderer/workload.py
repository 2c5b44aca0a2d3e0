"""What is rendered: a portrait and a driving sequence, or recorded inputs of one's own."""

from __future__ import annotations

import hashlib
import math
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from sadtrt_core.errors import UserError
from sadtrt_core.renderer.config import NUM_KEYPOINTS, RendererConfig
from sadtrt_core.renderer.fit_data import portrait
from sadtrt_core.renderer.pose import EXPRESSIONS, canonical_keypoints, pose_of, windows

SAMPLE_LIMIT = 1 << 30  # Bytes of a recorded input; a thousand frames of keypoints have a few hundred kilobytes.


@dataclass(frozen=True)
class Workload:
    """Everything the stages are given; float32 on the host. T is the number of driving frames, S the picture's size.

    source_image (1, 3, S, S) in 0..1; kp_canonical and kp_source (1, 15, 3); kp_driving (T, 15, 3);
    source_coefficients (1, 70, 27); driving_coefficients (T, 70, 27). `digest` is a SHA-256 over all of them.
    """

    name: str
    source_image: Tensor
    kp_canonical: Tensor
    kp_source: Tensor
    kp_driving: Tensor
    source_coefficients: Tensor
    driving_coefficients: Tensor

    @property
    def digest(self) -> str:
        found = hashlib.sha256()
        for value in vars(self).values():
            if isinstance(value, Tensor):
                found.update(repr(tuple(value.shape)).encode())
                found.update(value.contiguous().numpy().tobytes())
        return found.hexdigest()

    def only(self, frames: Sequence[int]) -> Workload:
        """The same with only these driving frames, in this order."""
        index = list(frames)
        return replace(self, kp_driving=self.kp_driving[index], driving_coefficients=self.driving_coefficients[index])


def make_workload(
    config: RendererConfig, frames: int, source_image: Path | None = None, samples: Path | None = None
) -> Workload:
    """The default workload, with another picture or with recorded inputs where they are given. Raises UserError."""
    if frames < 1:
        raise UserError(f"a driving sequence of {frames} frames renders nothing: give --frames 1 or more")
    if samples is not None:
        return recorded_workload(samples, config)
    if source_image is not None:
        return _driven(source_image.name, load_picture(source_image, config.image_size), config, frames)
    picture = F.interpolate(portrait()[None], (config.image_size,) * 2, mode="bicubic", antialias=True).clamp(0, 1)
    return _driven("astronaut", picture, config, frames)


def driving_vectors(frames: int) -> Tensor:
    """Motion coefficients of a talking head, (frames, 70): turning, nodding, tilting, rising and changing expression.

    Every channel is a sine of its own period, so that no frame repeats and none is the source's pose.
    """
    time = torch.arange(frames, dtype=torch.float32) / 32.0
    turn = 2 * math.pi

    def wave(size: float, cycles: float, phase: float) -> Tensor:
        return size * torch.sin(turn * (cycles * time + phase))

    vectors = torch.zeros(frames, 70)
    for channel in range(EXPRESSIONS):
        vectors[:, channel] = wave(1.0, 1.0 + 0.37 * (channel % 7), 0.11 * channel)
    vectors[:, 64] = wave(math.radians(8), 1.5, 0.10)  # pitch
    vectors[:, 65] = wave(math.radians(15), 1.0, 0.05)  # yaw
    vectors[:, 66] = wave(math.radians(6), 0.75, 0.30)  # roll
    vectors[:, 68] = wave(0.05, 1.25, 0.20)  # The renderer uses the vertical translation alone.
    return vectors


def _driven(name: str, picture: Tensor, config: RendererConfig, frames: int) -> Workload:
    source = windows(torch.zeros(1, 70), config.coefficients)
    driving = windows(driving_vectors(frames), config.coefficients)
    canonical = canonical_keypoints()
    return Workload(
        name,
        picture,
        canonical,
        pose_of(source).keypoints(canonical),
        pose_of(driving).keypoints(canonical),
        source,
        driving,
    )


def load_picture(path: Path, size: int) -> Tensor:
    """Any picture that Pillow opens, upright, its middle square scaled to (1, 3, size, size) in 0..1."""
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a picture ({error}): give a PNG or JPEG file") from error
    square = ImageOps.fit(upright, (size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)[None].float() / 255


def recorded_workload(folder: Path, config: RendererConfig) -> Workload:
    """Inputs recorded from SadTalker: `source_image.pt`, `kp_driving.pt` and `kp_source.pt` in a folder.

    Each is a tensor, or a dict with `value` and perhaps `jacobian`, saved by torch and loaded without running code.
    The default driving coefficients serve the mapping stage, since none are recorded. Raises UserError.
    """
    image = _recorded(folder / "source_image.pt", (3, config.image_size, config.image_size))
    driving = _recorded(folder / "kp_driving.pt", (NUM_KEYPOINTS, 3))
    source = _recorded(folder / "kp_source.pt", (NUM_KEYPOINTS, 3))
    made = _driven(folder.name, image[:1], config, driving.shape[0])
    return Workload(
        folder.resolve().name,
        image[:1],
        made.kp_canonical,
        source[:1],
        driving,
        made.source_coefficients,
        made.driving_coefficients,
    )


def _recorded(path: Path, shape: tuple[int, ...]) -> Tensor:
    """One recorded tensor (N, *shape), float32."""
    try:
        large = path.stat().st_size > SAMPLE_LIMIT
        loaded = None if large else torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: --samples wants source_image.pt, kp_driving.pt and kp_source.pt") from None
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} would run code when loaded, or is damaged: save plain tensors") from error
    except Exception as error:  # The bytes may be anything, and damaged pickles raise nearly anything.
        raise UserError(f"{path} is not a tensor saved by torch.save ({type(error).__name__})") from error
    if large:
        raise UserError(f"{path} has over {SAMPLE_LIMIT >> 20} MiB: expected one recorded tensor")
    if isinstance(loaded, dict):
        if loaded.get("jacobian") is not None:
            raise UserError(f"{path} holds a jacobian, which exported graphs do not take: record without one")
        loaded = loaded.get("value")
    if not isinstance(loaded, Tensor) or loaded.layout != torch.strided or loaded.device.type != "cpu":
        raise UserError(f"{path} holds {type(loaded).__name__}: expected a dense tensor, or a dict with `value`")
    if tuple(loaded.shape[-len(shape) :]) != shape or loaded.dim() > len(shape) + 1 or not loaded.numel():
        raise UserError(f"{path} has shape {tuple(loaded.shape)}: expected (N, {', '.join(map(str, shape))})")
    if not loaded.is_floating_point() or not bool(torch.isfinite(loaded).all()):
        raise UserError(f"{path} holds {loaded.dtype} or values that are not finite: expected finite floats")
    return loaded.detach().float().reshape(-1, *shape)
