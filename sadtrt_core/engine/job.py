"""What one engine is made of, in a form that another process can be handed: paths and numbers, no modules.

And the numeric case that is compared with PyTorch whenever engines that sample are built. Some parsers take a sampler's
mode for another one without a word (opset 20's `linear` became nearest), and the picture only looks a little worse. The
case goes the same way as a stage: it is a Stage of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sadtrt_core.case import Case, GridSample
from sadtrt_core.engine.plugin import PluginLibrary, built_plugin
from sadtrt_core.errors import UserError
from sadtrt_core.files import keep_file, read_file
from sadtrt_core.graph.export import typed_graph_file
from sadtrt_core.graph.quantize import Calibration
from sadtrt_core.precision import ComputeType, Precision
from sadtrt_core.renderer.renderer import Renderer
from sadtrt_core.renderer.sampling import sample_volume
from sadtrt_core.renderer.stages import Stage, TensorSpec

#: Largest difference from PyTorch fp32 that rounding explains; nearest instead of linear differs by about 1.
TOLERANCE: dict[ComputeType, float] = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.3}
_VOLUME = (3, 4, 5, 6)
_PLACES = (2, 3, 4)
_FILE_NAME = re.compile(
    r"(?P<stage>[^-]+)-(?P<precision>.+)-(?P<grid>plugin|native|builtin)-b(?P<batch>\d+)-(?P<size>\d+)-.+"
)


@dataclass(frozen=True)
class BuildJob:
    """One engine to build. `graph` is the typed ONNX file; `input_shapes` are (name, shape with the batch).

    `optimization_level` is TensorRT's own scale of 0 (builds in a minute, runs slowly) to 5; 3 is its default.
    `sampler` is the one-node engine that is checked against PyTorch first, where the stage samples a volume.
    """

    case: Case
    precision: Precision
    image_size: int
    graph: Path
    input_shapes: tuple[tuple[str, tuple[int, ...]], ...]
    optimization_level: int
    cache: Path
    plugin: PluginLibrary | None = None
    sampler: BuildJob | None = None

    @property
    def label(self) -> str:
        """How people are told of this engine."""
        case = self.case
        return f"{case.stage} {case.precision} {case.grid_sample} batch {case.batch} {self.image_size} px"

    @property
    def file_stem(self) -> str:
        """The readable part of the engine's file name."""
        case = self.case
        return f"{case.stage}-{case.precision}-{case.grid_sample}-b{case.batch}-{self.image_size}"


def parse_file_name(path: Path) -> tuple[Case, int]:
    """The case of an engine file, and the side of its picture in px, by the name that the cache gave it.

    Raises UserError for another name.
    """
    found = _FILE_NAME.fullmatch(path.stem)
    if found is None:
        raise UserError(
            f"{path} is no engine of this harness: its name should be stage-precision-sampling-bN-size-digest.engine, "
            "as `sadtrt build` writes them into the cache"
        )
    return Case(found["stage"], "tensorrt", found["precision"], found["grid"], int(found["batch"])), int(found["size"])


def stored_graph(content: bytes, cache: Path, kind: str) -> Path:
    """The file in the cache that holds the graph, written unless it is there; `kind` begins its name."""
    path = cache / "graphs" / f"{kind}-{hashlib.sha256(content).hexdigest()[:24]}.onnx"
    with contextlib.suppress(UserError):
        if read_file(path, len(content)) == content:
            return path
    keep_file(path, content)  # An engine of a damaged graph would count as this one's.
    return path


def build_job(
    renderer: Renderer,
    stage: Stage,
    precision: Precision,
    grid_sample: GridSample,
    batch: int,
    cache: Path,
    optimization_level: int,
    calibration: Calibration | None = None,
) -> BuildJob:
    """Export the stage's typed graph into the cache and describe the engine to build from it.

    `calibration` has the ranges for a precision that quantizes; the graph carries them from here on.

    Raises UserError for a stage without a graph, for grid sample `torch`, or for `plugin` where it is not built.
    """
    if grid_sample == "torch":
        raise UserError("an engine cannot sample with PyTorch: use grid sample native, plugin or builtin")
    if not stage.samples and not precision.operators:
        grid_sample = "native"  # One engine whatever the mode: the plugin has nothing to compute.
    plugin = built_plugin() if grid_sample == "plugin" else None

    def describe(what: Stage, how: Precision, size: int, sampler: BuildJob | None) -> BuildJob:
        path = typed_graph_file(renderer, what, how, grid_sample, cache, calibration)
        shapes = tuple((spec.name, spec.batched(size)) for spec in what.inputs(renderer.config))
        image_size = renderer.config.image_size
        case = Case(what.name, "tensorrt", how.name, grid_sample, size)
        return BuildJob(case, how, image_size, path, shapes, optimization_level, cache, plugin, sampler)

    sampler = None
    if stage.samples:
        sampler = describe(SAMPLER_STAGE, sampler_precision(precision), 1, None)
    return describe(stage, precision, batch, sampler)


class _Sampler(nn.Module):
    def forward(self, volume: Tensor, grid: Tensor) -> Tensor:
        return sample_volume(volume, grid)


SAMPLER_STAGE = Stage(
    "sampler-check",
    "a clip",
    inputs=lambda config: (TensorSpec("volume", _VOLUME), TensorSpec("grid", (*_PLACES, 3))),
    outputs=lambda config: (TensorSpec("samples", (_VOLUME[0], *_PLACES)),),
    module=lambda renderer: _Sampler(),
    samples=True,
)


def sampler_precision(precision: Precision) -> Precision:
    """The precision of the check: the compute type alone matters, coordinates are fp32 so that little is rounded."""
    compute = precision.compute
    return Precision(f"check-{compute}", compute, "for the check of the sampler", keep_coordinates=True)


def sampler_case() -> dict[str, Tensor]:
    """A fixed volume (1, 3, 4, 5, 6) and grid (1, 2, 3, 4, 3), partly outside the volume; float32 on the host."""
    generator = torch.Generator().manual_seed(20)
    volume = torch.randn((1, *_VOLUME), generator=generator)
    grid = torch.rand((1, *_PLACES, 3), generator=generator) * 3 - 1.5
    return {"volume": volume, "grid": grid}


def sampler_fault(samples: Tensor, compute: ComputeType) -> str | None:
    """What is wrong with the samples an engine took of `sampler_case`, in one sentence; None where nothing is."""
    case = sampler_case()
    expected = sample_volume(case["volume"], case["grid"])
    if samples.shape != expected.shape:
        return f"the sampler gives shape {tuple(samples.shape)} where PyTorch gives {tuple(expected.shape)}"
    difference = (samples - expected).abs().max().item()
    if difference <= TOLERANCE[compute]:  # False for NaN.
        return None
    nearest = nn.functional.grid_sample(case["volume"], case["grid"], mode="nearest", align_corners=False)
    close = torch.allclose(samples, nearest, atol=TOLERANCE[compute])
    guess = ": it reads 'linear' as nearest" if close else ""
    return f"the sampler differs from PyTorch by {difference:.3g} (at most {TOLERANCE[compute]} is rounding){guess}"
