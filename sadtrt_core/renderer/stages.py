"""The Stage table: the parts of the renderer that are timed, exported and built by themselves.

The generator is its four parts as SadTalker runs them. A clip is made of all parts and ends in uint8 frames on the
host, transfers included.

Every tensor at a stage's door is float32, whatever precision computes inside.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sadtrt_core.errors import UserError
from sadtrt_core.renderer.config import COEFFICIENT_WINDOW, NUM_KEYPOINTS, RendererConfig
from sadtrt_core.renderer.generator import Generator, SpadeDecoder
from sadtrt_core.renderer.keypoints import PosedKeypoints
from sadtrt_core.renderer.renderer import NETWORKS, Renderer

When = Literal["once a clip", "each frame", "a clip"]


@dataclass(frozen=True)
class TensorSpec:
    """Name and shape of a float32 tensor at a stage's door; the batch axis is not part of `shape`.

    `once` marks an input of which there is one for a whole clip, however many frames it has.
    """

    name: str
    shape: tuple[int, ...]
    once: bool = False

    def batched(self, batch: int) -> tuple[int, ...]:
        """The shape with the batch axis in front."""
        return (1 if self.once else batch, *self.shape)


@dataclass(frozen=True)
class Stage:
    """One row of the table.

    `module` gives the stage's PyTorch module (tensors in the order of `inputs`, one tensor or a tuple in the order of
    `outputs`). None for the clip, which has no graph of its own: it is made of the others, with the transfers, so its
    tensors are on the host and its batch is a number of frames. `networks` are those it computes with. `samples` says
    whether it samples a volume, `in_generator` and `in_clip` of which whole it is a part. Engines of a higher
    `build_cost` take longer to build.
    """

    name: str
    when: When
    inputs: Callable[[RendererConfig], tuple[TensorSpec, ...]]
    outputs: Callable[[RendererConfig], tuple[TensorSpec, ...]]
    module: Callable[[Renderer], nn.Module] | None
    samples: bool = False
    in_generator: bool = False
    in_clip: bool = False
    build_cost: int = 0
    networks: tuple[str, ...] = ("generator",)


class _Part(nn.Module):
    """A part of the generator as `run(network, *inputs)`.

    The network keeps the name it has in the generator, so that a plan's node names mean the same in both graphs.
    """

    def __init__(self, name: str, network: nn.Module, run: Callable[..., Any]) -> None:
        super().__init__()
        self.add_module(name, network)
        self.name = name
        self.run = run

    def forward(self, *inputs: Tensor) -> Any:
        # Looked up in each call, because a copy of this module has a network of its own.
        return self.run(getattr(self, self.name), *inputs)


def _tensors(config: RendererConfig, *names: str) -> tuple[TensorSpec, ...]:
    """The tensors of these names, each of one shape at whatever stage's door."""
    size, image = config.feature_size, (3, config.image_size, config.image_size)
    coefficients = (config.coefficients, COEFFICIENT_WINDOW)
    shapes: dict[str, tuple[int, ...]] = {
        **dict.fromkeys(("source_image", "prediction", "frames"), image),
        **dict.fromkeys(("kp_canonical", "kp_source", "kp_driving", "keypoints"), (NUM_KEYPOINTS, 3)),
        **dict.fromkeys(("coefficients", "source_coefficients", "driving_coefficients"), coefficients),
        "feature_3d": (config.feature_channels, config.feature_depth, size, size),
        "deformation": (config.feature_depth, size, size, 3),
        "occlusion": (1, size, size),
        "feature_map": (config.warped_channels, size, size),
    }
    return tuple(TensorSpec(name, shapes[name]) for name in names)


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            "keypoints",
            "once a clip",
            inputs=lambda c: _tensors(c, "source_image"),
            outputs=lambda c: _tensors(c, "kp_canonical"),
            module=lambda r: r.kp_extractor,
            networks=("kp_extractor",),
            in_clip=True,
            build_cost=3,
        ),
        Stage(
            "mapping",
            "each frame",
            inputs=lambda c: _tensors(c, "coefficients", "kp_canonical"),
            outputs=lambda c: _tensors(c, "keypoints"),
            module=lambda r: PosedKeypoints(r.mapping),
            networks=("mapping",),
            in_clip=True,
            build_cost=1,
        ),
        Stage(
            "appearance",
            "once a clip",
            inputs=lambda c: _tensors(c, "source_image"),
            outputs=lambda c: _tensors(c, "feature_3d"),
            module=lambda r: _Part("generator", r.generator, Generator.appearance),
            in_clip=True,
            in_generator=True,
            build_cost=4,
        ),
        Stage(
            "motion",
            "each frame",
            inputs=lambda c: _tensors(c, "feature_3d", "kp_driving", "kp_source"),
            outputs=lambda c: _tensors(c, "deformation", "occlusion"),
            module=lambda r: _Part(
                "dense_motion_network", r.generator.dense_motion_network, lambda network, *inputs: network(*inputs)[:2]
            ),
            in_generator=True,
            build_cost=5,
            samples=True,
        ),
        Stage(
            "warp",
            "each frame",
            inputs=lambda c: _tensors(c, "feature_3d", "deformation", "occlusion"),
            outputs=lambda c: _tensors(c, "feature_map"),
            module=lambda r: _Part("generator", r.generator, Generator.warp),
            in_generator=True,
            build_cost=2,
            samples=True,
        ),
        Stage(
            "decode",
            "each frame",
            inputs=lambda c: _tensors(c, "feature_map"),
            outputs=lambda c: _tensors(c, "prediction"),
            module=lambda r: _Part("decoder", r.generator.decoder, SpadeDecoder.__call__),
            in_generator=True,
            build_cost=6,
        ),
        Stage(
            "frame",
            "each frame",
            inputs=lambda c: _tensors(c, "feature_3d", "kp_driving", "kp_source"),
            outputs=lambda c: _tensors(c, "prediction"),
            module=lambda r: _Part("generator", r.generator, Generator.frame),
            in_clip=True,
            build_cost=7,
            samples=True,
        ),
        Stage(
            "generator",
            "each frame",
            inputs=lambda c: _tensors(c, "source_image", "kp_driving", "kp_source"),
            outputs=lambda c: _tensors(c, "prediction"),
            module=lambda r: r.generator,
            build_cost=8,
            samples=True,
        ),
        Stage(
            "clip",
            "a clip",
            inputs=lambda c: (
                *(replace(spec, once=True) for spec in _tensors(c, "source_image", "source_coefficients")),
                *_tensors(c, "driving_coefficients"),
            ),
            outputs=lambda c: _tensors(c, "frames"),
            module=None,
            networks=NETWORKS,
            samples=True,
        ),
    )
}

GRAPH_STAGES: tuple[str, ...] = tuple(name for name, stage in STAGES.items() if stage.module is not None)
#: The least parts of the generator, and the two that a clip runs: what depends on the source alone, and the rest.
GENERATOR_PARTS: tuple[str, ...] = tuple(name for name, stage in STAGES.items() if stage.in_generator)
SOURCE_AND_FRAME = ("appearance", "frame")
#: The stages that drift is measured of, which render a frame of a clip whole; pictures are kept of the first.
RENDERING: tuple[str, ...] = ("generator", "frame")


def clip_parts() -> tuple[str, ...]:
    """The stages that a clip runs, in their order."""
    return tuple(name for name, stage in STAGES.items() if stage.in_clip)


def seeded_notes(stage: Stage, renderer: Renderer) -> tuple[str, ...]:
    """What a record of the stage says of networks that the checkpoint lacks."""
    seeded = [network for network in stage.networks if network in renderer.seeded]
    return (f"no trained weights of {' and '.join(seeded)}: seeded by entry name",) if seeded else ()


def stage_named(name: str) -> Stage:
    """The stage of that name; UserError lists the names there are."""
    if name not in STAGES:
        raise UserError(f"stage {name!r} is not known: expected one of {', '.join(STAGES)}")
    return STAGES[name]


def stage_module(stage: Stage, renderer: Renderer) -> nn.Module:
    """The stage's PyTorch module in evaluation mode; UserError for the clip, which has none."""
    if stage.module is None:
        raise UserError(f"stage {stage.name!r} has no module of its own: it is made of the other stages")
    return stage.module(renderer).eval()


def call_stage(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Run a stage module; always a tuple of tensors."""
    result = module(*inputs)
    return (result,) if isinstance(result, torch.Tensor) else tuple(result)


@contextlib.contextmanager
def matrix_arithmetic(tf32: bool, benchmark: bool) -> Iterator[None]:
    """Allow or forbid TF32 and cuDNN's algorithm search inside the block; what was set before returns after it."""
    settings: tuple[tuple[Any, str, bool], ...] = (
        (torch.backends.cuda.matmul, "allow_tf32", tf32),
        (torch.backends.cudnn, "allow_tf32", tf32),
        (torch.backends.cudnn, "benchmark", benchmark),
        (torch.backends.cudnn, "deterministic", not benchmark),
    )
    before = [getattr(where, name) for where, name, _ in settings]
    for where, name, value in settings:
        setattr(where, name, value)
    try:
        yield
    finally:
        for (where, name, _), value in zip(settings, before, strict=True):
            setattr(where, name, value)
