"""What one engine is made of, in a form that another process can be handed: paths and numbers, no modules."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from sadtrt_core.case import Case, GridSample
from sadtrt_core.engine.build import BuildOptions
from sadtrt_core.engine.plugin import PluginLibrary, built_plugin
from sadtrt_core.engine.sampler_check import SAMPLER_STAGE, sampler_precision
from sadtrt_core.errors import UserError
from sadtrt_core.files import write_whole
from sadtrt_core.graph.export import typed_graph
from sadtrt_core.graph.quantize import Calibration
from sadtrt_core.precision import Precision
from sadtrt_core.renderer.renderer import Renderer
from sadtrt_core.renderer.stages import Stage


@dataclass(frozen=True)
class BuildJob:
    """One engine to build. `graph` is the typed ONNX file; `input_shapes` are (name, shape with the batch).

    `sampler` is the one-node engine that is checked against PyTorch first, where the stage samples a volume.
    """

    case: Case
    precision: Precision
    image_size: int
    graph: Path
    input_shapes: tuple[tuple[str, tuple[int, ...]], ...]
    options: BuildOptions
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


_FILE_NAME = re.compile(
    r"(?P<stage>[^-]+)-(?P<precision>.+)-(?P<grid>plugin|native|builtin)-b(?P<batch>\d+)-(?P<size>\d+)-.+"
)


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
    if not path.exists() or path.read_bytes() != content:  # An engine of a damaged graph would count as this one's.
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    return path


def build_job(
    renderer: Renderer,
    stage: Stage,
    precision: Precision,
    grid_sample: GridSample,
    batch: int,
    cache: Path,
    options: BuildOptions,
    calibration: Calibration | None = None,
) -> BuildJob:
    """Export the stage's typed graph into the cache and describe the engine to build from it.

    `calibration` has the ranges for a precision that quantizes; the graph carries them from here on.

    Raises UserError for a stage without a graph, for grid sample `torch`, or for `plugin` where it is not built.
    """
    if grid_sample == "torch":
        raise UserError("an engine cannot sample with PyTorch: use grid sample native, plugin or builtin")
    if not stage.samples:
        grid_sample = "native"  # One engine whatever the mode: the stage has nothing to sample.
    plugin = built_plugin() if grid_sample == "plugin" else None

    def describe(what: Stage, how: Precision, size: int, sampler: BuildJob | None) -> BuildJob:
        content = typed_graph(renderer, what, how, grid_sample, cache, calibration)
        path = stored_graph(content, cache, "typed")
        shapes = tuple((spec.name, spec.batched(size)) for spec in what.inputs(renderer.config))
        image_size = renderer.config.image_size
        case = Case(what.name, "tensorrt", how.name, grid_sample, size)
        return BuildJob(case, how, image_size, path, shapes, options, cache, plugin, sampler)

    sampler = None
    if stage.samples:
        sampler = describe(SAMPLER_STAGE, sampler_precision(precision), 1, None)
    return describe(stage, precision, batch, sampler)
