"""From a stage and a precision to the bytes of a typed ONNX graph; it and the fp32 export are cached on disk."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import onnx
import torch

from sadtrt_core.case import GridSample
from sadtrt_core.errors import UserError
from sadtrt_core.files import code_digest, keep_file, read_file
from sadtrt_core.graph.grid_sample import resolve_grid_sample
from sadtrt_core.graph.quantize import Calibration
from sadtrt_core.graph.typed import apply_precision, unmatched_patterns
from sadtrt_core.plan import precision_digest
from sadtrt_core.precision import Precision
from sadtrt_core.renderer.renderer import Renderer
from sadtrt_core.renderer.stages import STAGES, Stage, stage_module

#: TensorRT 8.6's parser knows no later one; every later runtime still reads it.
OPSET = 17
#: The first with a volumetric GridSample, for runtimes that sample 5-D input themselves.
OPSET_BUILTIN = 20
BATCH_AXIS = "batch"
#: Bytes of a graph (protobuf holds no more than two gigabytes) and of what stands beside it.
_SIZE_LIMIT, _SIDECAR_LIMIT = 1 << 31, 1 << 10
#: Of the code that was loaded: what lies on the disk later may have been edited.
_CODE = code_digest("graph")


def export_stage(renderer: Renderer, stage: Stage, opset: int = OPSET) -> onnx.ModelProto:
    """The stage as fp32 ONNX: batch norm and spectral norm folded, the batch axis named `batch`.

    Sampling a volume is one custom node GridSample3D (empty domain), for graph/grid_sample.py to resolve. Raises
    ValueError for a stage without a module.
    """
    module = stage_module(stage, renderer)
    inputs, outputs = stage.inputs(renderer.config), stage.outputs(renderer.config)
    # Two of each, because a batch of one would let the exporter take the axis for a constant.
    examples = tuple(0.5 * torch.rand(spec.batched(2), generator=torch.Generator().manual_seed(0)) for spec in inputs)
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # The TorchScript exporter is deprecated but the only one that writes opset 17 without rewriting operators.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            examples,
            buffer,  # type: ignore[arg-type]  # The TorchScript exporter writes to any file object.
            input_names=[spec.name for spec in inputs],
            output_names=[spec.name for spec in outputs],
            dynamic_axes={spec.name: {0: BATCH_AXIS} for spec in (*inputs, *outputs)},
            opset_version=opset,
            dynamo=False,
        )
    model = onnx.load_from_string(buffer.getvalue())
    model.doc_string = f"sadtrt stage {stage.name}, {renderer.config.image_size} pixels"
    return model


def typed_graph(
    renderer: Renderer,
    stage: Stage,
    precision: Precision,
    grid_sample: GridSample,
    cache: Path,
    calibration: Calibration | None = None,
) -> bytes:
    """Serialized ONNX of a stage: typed as `precision` says, its samplers resolved as `grid_sample` says.

    Where these are the plugin's and the precision has operators, so is whatever else the plugin computes.
    Inputs and outputs are float32 with a dynamic batch. Raises ValueError for a stage without a graph, and for a
    precision that names nodes no graph has; a stage need not hold all that are named. Raises UserError
    for a precision that quantizes, where the calibration is missing or of other weights.
    """
    return typed_graph_file(renderer, stage, precision, grid_sample, cache, calibration).read_bytes()


def typed_graph_file(
    renderer: Renderer,
    stage: Stage,
    precision: Precision,
    grid_sample: GridSample,
    cache: Path,
    calibration: Calibration | None = None,
) -> Path:
    """The file in the cache that holds `typed_graph`. Raises as that does."""
    if calibration is not None:
        calibration.require_weights(renderer.weights.digest)
    opset = OPSET_BUILTIN if grid_sample == "builtin" else OPSET

    def make() -> bytes:
        exported = cached_export(renderer, stage, opset, cache)
        if precision.names_nodes:
            # The parts' nodes are the generator's; its graph is only asked for what this stage lacks.
            wholes = [name for name in ("generator", "keypoints", "mapping") if name != stage.name]
            others = (cached_export(renderer, STAGES[name], opset, cache) for name in wholes)
            unknown = unmatched_patterns(itertools.chain([exported], others), precision)
            if unknown:
                raise ValueError(
                    f"precision {precision.name!r} names {unknown[0]!r}, which matches no node of the renderer's "
                    "graphs: it was made for another version or network, so search again"
                )
        typed = apply_precision(exported, precision, calibration, has_plugin=grid_sample == "plugin")
        return resolve_grid_sample(typed, grid_sample).SerializeToString(deterministic=True)

    # Typing takes many seconds at full size, and every run of an engine asks for its graph.
    ranges = None if calibration is None or precision.quantize is None else calibration.digest
    key = f"{_export_key(renderer, stage, opset)}|{precision_digest(precision)}|{grid_sample}|{ranges}"
    return _kept(cache, f"typed-{stage.name}", key, make)[0]


def cached_export(renderer: Renderer, stage: Stage, opset: int, cache: Path) -> onnx.ModelProto:
    """The fp32 export of a stage, from `cache/graphs` where an earlier one of these weights lies unchanged."""

    def make() -> bytes:
        return export_stage(renderer, stage, opset).SerializeToString(deterministic=True)

    return onnx.load_from_string(_kept(cache, stage.name, _export_key(renderer, stage, opset), make)[1])


def _export_key(renderer: Renderer, stage: Stage, opset: int) -> str:
    # The exporter belongs to the key: another torch release, or other code of ours, may write another graph for the
    # same weights.
    exporter = f"{torch.__version__}|{onnx.__version__}|{_CODE}"
    door = f"{stage.inputs(renderer.config)} {stage.outputs(renderer.config)}"
    return f"{renderer.weights.digest}|{renderer.config}|{stage.name}|{door}|{opset}|{exporter}"


def _kept(cache: Path, name: str, key: str, make: Callable[[], bytes]) -> tuple[Path, bytes]:
    """The file of a graph in the cache and its content, made where there is none of this key that is whole."""
    path = cache / "graphs" / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.onnx"
    beside = path.with_suffix(".sha256")
    with contextlib.suppress(UserError, OSError):
        # A graph that was damaged, changed since or is another key's would give figures of something else.
        kept = read_file(beside, _SIDECAR_LIMIT)
        if kept.startswith(_beginning(key, os.path.getsize(path))):
            content = read_file(path, _SIZE_LIMIT)
            if kept == _sidecar(key, content):
                return path, content
    content = make()
    keep_file(path, content)
    keep_file(beside, _sidecar(key, content))
    return path, content


def _sidecar(key: str, content: bytes) -> bytes:
    """What stands beside a cached graph: the digest of its key, its size in bytes, and their digest."""
    return _beginning(key, len(content)) + hashlib.sha256(content).hexdigest().encode()


def _beginning(key: str, size: int) -> bytes:
    return f"{hashlib.sha256(key.encode()).hexdigest()} {size} ".encode()
