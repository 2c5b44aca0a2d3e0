"""From a stage and a precision to the bytes of a typed ONNX graph, the fp32 export cached on disk."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import onnx
import torch

from sadtrt_core.case import GridSample
from sadtrt_core.files import code_digest, write_whole
from sadtrt_core.graph.calibration import Calibration
from sadtrt_core.graph.export import OPSET, OPSET_BUILTIN, export_stage
from sadtrt_core.graph.grid_sample import resolve_grid_sample
from sadtrt_core.graph.typed import apply_precision, unmatched_patterns
from sadtrt_core.precision import Precision
from sadtrt_core.renderer.renderer import Renderer
from sadtrt_core.renderer.stages import STAGES, Stage


def typed_graph(
    renderer: Renderer,
    stage: Stage,
    precision: Precision,
    grid_sample: GridSample,
    cache: Path,
    calibration: Calibration | None = None,
) -> bytes:
    """Serialized ONNX of a stage: typed as `precision` says, its samplers resolved as `grid_sample` says.

    Inputs and outputs are float32 with a dynamic batch. Raises ValueError for a stage without a graph, and for a
    precision that names nodes no graph has; a part of the generator need not hold all that are named. Raises
    UserError for a precision that quantizes, where the calibration is missing or of other weights.
    """
    if calibration is not None:
        calibration.require_weights(renderer.weights.digest)
    opset = OPSET_BUILTIN if grid_sample == "builtin" else OPSET
    exported = cached_export(renderer, stage, opset, cache)
    if stage.name == "generator" and precision.names_nodes:
        others = (cached_export(renderer, STAGES[name], opset, cache) for name in ("keypoints", "mapping"))
        unknown = unmatched_patterns(itertools.chain([exported], others), precision)
        if unknown:
            raise ValueError(
                f"precision {precision.name!r} names {unknown[0]!r}, which matches no node of the renderer's graphs: "
                "it was made for another version or network, so search again"
            )
    typed = resolve_grid_sample(apply_precision(exported, precision, calibration), grid_sample)
    return typed.SerializeToString(deterministic=True)


def cached_export(renderer: Renderer, stage: Stage, opset: int, cache: Path) -> onnx.ModelProto:
    """The fp32 export of a stage, from `cache/graphs` where an earlier one of these weights lies unchanged."""
    # The exporter belongs to the key: another torch release, or other code of ours, may write another graph for the
    # same weights.
    exporter = f"{torch.__version__}|{code_digest('graph')}"
    key = f"{renderer.weights.digest}|{renderer.config}|{stage.name}|{opset}|{exporter}"
    path = cache / "graphs" / f"{stage.name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.onnx"
    digest = path.with_suffix(".sha256")
    if path.exists() and digest.exists():
        content = path.read_bytes()
        # A graph that was damaged or changed since would give figures of something else.
        if hashlib.sha256(content).hexdigest() == digest.read_text():
            return onnx.load_from_string(content)
    content = export_stage(renderer, stage, opset).SerializeToString(deterministic=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)
    write_whole(digest, hashlib.sha256(content).hexdigest().encode())
    return onnx.load_from_string(content)
