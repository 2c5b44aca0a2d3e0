"""What is rendered: a portrait and a driving sequence, or recorded inputs of one's own; and what a stage is given."""

from __future__ import annotations

import copy
import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import skimage.data
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sadtrt_core.errors import UserError, printable
from sadtrt_core.renderer.config import NUM_KEYPOINTS, RendererConfig
from sadtrt_core.renderer.keypoints import EXPRESSIONS, canonical_keypoints, pose_of, posed_keypoints, windows
from sadtrt_core.renderer.picture import load_picture, picture_tensor, require_finite, require_unit_range
from sadtrt_core.renderer.renderer import Renderer
from sadtrt_core.renderer.stages import GENERATOR_PARTS, STAGES, Stage, call_stage, matrix_arithmetic, stage_module
from sadtrt_core.renderer.tensor_files import input_tensor, read_tensors

FRAMES = 32
#: Of one sequence or batch, which are kept whole in memory: 6 GB of pictures at 512 px.
MOST_FRAMES = 2000
PREVIEW_FRAMES = 6
#: The picture spans -1..1, and a keypoint may leave it by as much as half.
KEYPOINT_REACH = 2.0
#: Bytes of a recorded file, and of the values that strides may make of a smaller one.
SAMPLE_LIMIT, EXPANDED_LIMIT = 1 << 30, 1 << 27
_AGAIN = "torch.save(tensor.cpu(), 'kp_driving.pt')"


@dataclass(frozen=True)
class Workload:
    """Everything the stages are given; float32 on the host. T is the number of driving frames, S the picture's size.

    source_image (1, 3, S, S) in 0..1; kp_canonical and kp_source (1, 15, 3); kp_driving (T, 15, 3);
    source_coefficients (1, 70, 27); driving_coefficients (T, 70, 27). `digest` is a SHA-256 over all of them.
    `recorded_frames` (T, 3, S, S) in 0..1 is what whoever recorded the inputs got from them; no stage reads it.
    """

    name: str
    source_image: Tensor
    kp_canonical: Tensor
    kp_source: Tensor
    kp_driving: Tensor
    source_coefficients: Tensor
    driving_coefficients: Tensor
    recorded_frames: Tensor | None = None

    @property
    def digest(self) -> str:
        found = hashlib.sha256()
        for name, value in vars(self).items():
            if isinstance(value, Tensor) and name != "recorded_frames":
                found.update(repr(tuple(value.shape)).encode())
                found.update(value.contiguous().numpy().tobytes())
        return found.hexdigest()

    def only(self, frames: Sequence[int]) -> Workload:
        """The same with only these driving frames, in this order."""
        index = list(frames)
        return replace(
            self,
            kp_driving=self.kp_driving[index],
            driving_coefficients=self.driving_coefficients[index],
            recorded_frames=None if self.recorded_frames is None else self.recorded_frames[index],
        )


def make_workload(
    config: RendererConfig, frames: int | None, source_image: Path | None = None, samples: Path | None = None
) -> Workload:
    """The default workload, with another picture or with recorded inputs where they are given. Raises UserError.

    `frames` of None is FRAMES, or as many as were recorded; of more recorded ones the first `frames` are taken.
    """
    if frames is not None and frames < 1:
        raise UserError(f"a driving sequence of {frames} frames renders nothing: give --frames 1 or more")
    if samples is not None:
        return recorded_workload(samples, config, frames)
    frames = frames or FRAMES
    if source_image is not None:
        return _driven(source_image.name, load_picture(source_image, config.image_size)[None], config, frames)
    picture = F.interpolate(portrait()[None], (config.image_size,) * 2, mode="bicubic", antialias=True).clamp(0, 1)
    return _driven("astronaut", picture, config, frames)


def identity(workloads: Sequence[Workload]) -> tuple[str, str]:
    """Name and digest of one workload, or of several together."""
    first, *others = workloads
    if not others:
        return first.name, first.digest
    digests = "".join(one.digest for one in workloads)
    return f"{first.name} and {len(others)} more", hashlib.sha256(digests.encode()).hexdigest()


def driving_vectors(frames: int, motion: int = 0) -> Tensor:
    """Motion coefficients of a talking head, (frames, 70): turning, nodding, tilting, rising and changing expression.

    Every channel is a sine of its own period, so that no frame repeats and none is the source's pose. Another `motion`
    has the same sizes and other periods and phases.
    """
    time = torch.arange(frames, dtype=torch.float32) / 32.0

    def wave(size: float, cycles: float, phase: float) -> Tensor:
        return size * torch.sin(2 * math.pi * (cycles * (1 + 0.19 * motion) * time + phase + 0.37 * motion))

    vectors = torch.zeros(frames, 70)
    for channel in range(EXPRESSIONS):
        vectors[:, channel] = wave(1.0, 1.0 + 0.37 * (channel % 7), 0.11 * channel)
    vectors[:, 64] = wave(math.radians(8), 1.5, 0.10)  # pitch
    vectors[:, 65] = wave(math.radians(15), 1.0, 0.05)  # yaw
    vectors[:, 66] = wave(math.radians(6), 0.75, 0.30)  # roll
    vectors[:, 68] = wave(0.05, 1.25, 0.20)  # The renderer uses the vertical translation alone.
    return vectors


def held_out(workload: Workload, config: RendererConfig) -> Workload:
    """The same source under another motion of the same length, none of whose frames the workload has."""
    moved = _driven(workload.name, workload.source_image, config, workload.kp_driving.shape[0], motion=1)
    # Relative to the source, whose keypoints may be recorded.
    keypoints = workload.kp_source + (moved.kp_driving - moved.kp_source)
    name = f"{workload.name} under another motion"
    return replace(moved, name=name, kp_source=workload.kp_source, kp_driving=keypoints)


def _driven(name: str, picture: Tensor, config: RendererConfig, frames: int, motion: int = 0) -> Workload:
    source = windows(torch.zeros(1, 70), config.coefficients)
    driving = windows(driving_vectors(frames, motion), config.coefficients)
    canonical = canonical_keypoints()
    kp_source, kp_driving = (posed_keypoints(canonical, pose_of(moved)) for moved in (source, driving))
    return Workload(printable(name), picture, canonical, kp_source, kp_driving, source, driving)


def portrait() -> Tensor:
    """scikit-image's astronaut, the face cut out: (3, 256, 256) in 0..1."""
    return picture_tensor(skimage.data.astronaut()[:256, 96:352])


def training_pictures(portraits: Sequence[Path]) -> list[Tensor]:
    """The pictures to fit on, each (3, H, W) in 0..1: those given, or scikit-image's bundled ones, portrait first.

    Raises UserError naming a file that is not a picture.
    """
    if portraits:
        return [load_picture(path) for path in portraits]
    return [portrait(), portrait(), picture_tensor(skimage.data.astronaut()), picture_tensor(skimage.data.chelsea())]


def recorded_workload(folder: Path, config: RendererConfig, frames: int | None = None) -> Workload:
    """Inputs recorded from SadTalker: `source_image.pt`, `kp_driving.pt` and `kp_source.pt` in a folder.

    Each is a tensor, or a dict with `value` and perhaps `jacobian`, saved by torch and loaded without running code.
    Beside them may be `prediction.pt`, the frames that they gave. The first `frames` are taken, or all. The default
    driving coefficients serve the mapping stage, since none are recorded. Raises UserError.
    """
    picture = (3, config.image_size, config.image_size)
    image = _one(folder / "source_image.pt", _recorded(folder / "source_image.pt", picture, require_unit_range))
    source = _one(folder / "kp_source.pt", _recorded(folder / "kp_source.pt", (NUM_KEYPOINTS, 3), require_keypoints))
    driving = _recorded(folder / "kp_driving.pt", (NUM_KEYPOINTS, 3), require_keypoints)
    count = driving.shape[0]
    if frames is None and count > MOST_FRAMES:
        raise UserError(f"{folder / 'kp_driving.pt'} holds {count} frames: give --frames {MOST_FRAMES} or less of them")
    driving = driving[:frames]
    made = _driven(folder.resolve().name, image, config, driving.shape[0])
    made = replace(made, kp_source=source, kp_driving=driving)
    path = folder / "prediction.pt"
    if os.path.lexists(path):
        prediction = _recorded(path, picture, require_unit_range)
        if prediction.shape[0] != count:
            raise UserError(
                f"{path} holds {prediction.shape[0]} frames where kp_driving.pt has {count}: record both of one call"
            )
        made = replace(made, recorded_frames=prediction[:frames])
    return made


def _one(path: Path, rows: Tensor) -> Tensor:
    """The one row that all are, (1, ...): a batch of SadTalker's repeats its source."""
    if not bool((rows == rows[:1]).all()):
        raise UserError(f"{path} holds {rows.shape[0]} rows that differ: record frames of one source picture at a time")
    return rows[:1].clone()


def _recorded(path: Path, shape: tuple[int, ...], require: Callable[[str, float, float], None]) -> Tensor:
    """One recorded tensor (N, *shape), float32, whose least and largest values `require` was told."""
    if not os.path.lexists(path):
        raise UserError(f"{path} is missing: --samples wants source_image.pt, kp_driving.pt and kp_source.pt")
    loaded = value_of(str(path), read_tensors(path, _AGAIN, SAMPLE_LIMIT))
    tensor = input_tensor(str(path), loaded, shape, "--size ")
    # Strides may make a gigabyte of a few bytes.
    if tensor.numel() * tensor.element_size() > max(EXPANDED_LIMIT, os.path.getsize(path)):
        raise UserError(
            f"{path} has shape {tuple(tensor.shape)}, which is far more values than it holds: clone it first"
        )
    require(str(path), tensor.min().item(), tensor.max().item())
    # Cloned: a file that is mapped should not stay open behind the workload.
    return tensor.to(torch.float32, copy=True).reshape(-1, *shape).contiguous()


def value_of(what: str, given: object) -> object:
    """What SadTalker calls `value` in a dict, or what is no dict as it is. Raises UserError for a jacobian."""
    if not isinstance(given, Mapping):
        return given
    if given.get("jacobian") is not None:
        raise UserError(
            f"{what} has a jacobian, which graphs are exported without: set estimate_jacobian to False, as SadTalker's "
            "own configuration does"
        )
    if given.get("value") is None:
        raise UserError(f"{what} has no entry `value`: expected a tensor, or a dict with `value`")
    return given["value"]


def require_keypoints(what: str, low: float, high: float) -> None:
    """UserError where keypoints, whose least and largest values these are, are not SadTalker's own."""
    require_finite(what, low, high)
    if not (low >= -KEYPOINT_REACH and high <= KEYPOINT_REACH):
        raise UserError(
            f"{what} has keypoints from {low:.4g} to {high:.4g}, which look like pixels: expected SadTalker's own, "
            "where the picture spans -1..1 (divide by half the size and subtract 1)"
        )


def stage_inputs(
    renderer: Renderer, workload: Workload, stage: Stage, batch: int, device: torch.device
) -> dict[str, Tensor]:
    """The stage's inputs for the first `batch` driving frames (repeated when there are fewer), float32 on `device`.

    Tensors that earlier stages make are computed by PyTorch in fp32, TF32 off. The source image and keypoints are
    repeated along the batch, except where the stage takes one for a whole clip.
    """
    expanded = _expanded_inputs(renderer, workload, stage, batch, device)
    return {name: tensor.contiguous() for name, tensor in expanded.items()}


def _expanded_inputs(
    renderer: Renderer, workload: Workload, stage: Stage, batch: int, device: torch.device
) -> dict[str, Tensor]:
    """`stage_inputs`, what is repeated being a view."""
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
    for maker in (STAGES[name] for name in GENERATOR_PARTS):
        if all(spec.name in known for spec in wanted):
            break
        # What does not depend on the frame is computed once and repeated by whoever needs it.
        count = 1 if maker.when == "once a clip" else batch
        inputs = tuple(known[spec.name].expand(spec.batched(count)) for spec in maker.inputs(renderer.config))
        module = copy.deepcopy(stage_module(maker, renderer)).to(device)
        with torch.inference_mode(), matrix_arithmetic(tf32=False, benchmark=False):
            outputs = call_stage(module, inputs)
        known.update(zip((spec.name for spec in maker.outputs(renderer.config)), outputs, strict=True))
    return {spec.name: known[spec.name].expand(spec.batched(batch)) for spec in wanted}


def frame_inputs(renderer: Renderer, workload: Workload, stage: Stage, device: torch.device) -> list[dict[str, Tensor]]:
    """The inputs of a per-frame stage at batch 1, one dict for each driving frame."""
    frames = workload.kp_driving.shape[0]
    # Slices of one frame: of what does not depend on the frame there is one copy.
    together = _expanded_inputs(renderer, workload, stage, frames, device)
    return [{name: tensor[i : i + 1] for name, tensor in together.items()} for i in range(frames)]


def save_preview(path: Path, renderer: Renderer, device: torch.device) -> None:
    """Write a PNG: the source picture, then six frames of the default driving sequence side by side."""
    workload = make_workload(renderer.config, 32).only(torch.linspace(0, 31, PREVIEW_FRAMES).long().tolist())
    inputs = frame_inputs(renderer, workload, STAGES["generator"], device)
    generator = copy.deepcopy(renderer.generator).to(device)
    with torch.inference_mode():
        frames = [generator(**frame) for frame in inputs]
    row = torch.cat([inputs[0]["source_image"], *frames], dim=3)[0].clamp(0, 1)
    pixels = (row * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
