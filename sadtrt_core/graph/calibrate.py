"""Measures the ranges of a renderer's convolutions with ONNX Runtime's calibrator, and keeps them in the cache."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator
from torch import Tensor

from sadtrt_core.codec import no_duplicates
from sadtrt_core.errors import UserError
from sadtrt_core.files import code_digest, keep_file, locked, read_file
from sadtrt_core.graph.edit import constants_to_initializers
from sadtrt_core.graph.export import OPSET, cached_export
from sadtrt_core.graph.grid_sample import resolve_grid_sample
from sadtrt_core.graph.quantize import CONVOLUTION, Calibration
from sadtrt_core.progress import SILENT, Reporter
from sadtrt_core.renderer.renderer import Renderer
from sadtrt_core.renderer.stages import STAGES
from sadtrt_core.renderer.workload import Workload, frame_inputs

#: Frames that ranges are measured on, spread evenly over the sequence.
FRAMES = 8
#: Names of the calibrator's methods, and what they are called in records. The first clips nothing that was seen: a
#: value clipped before the masks would move a whole feature.
METHODS = {
    "minmax": (CalibrationMethod.MinMax, "minimum and maximum"),
    "percentile": (CalibrationMethod.Percentile, "the 99.999th percentile"),
    "entropy": (CalibrationMethod.Entropy, "least relative entropy"),
}
DIGEST = "sha256"
_BINS = 512  # Of a histogram of one activation: finer ones take minutes to search for the least entropy.
_SIZE_LIMIT = 1 << 20  # Bytes; a hundred convolutions take ten kilobytes.
#: Of the code that was loaded.
_CODE = code_digest("graph")


def calibrated(
    renderer: Renderer, workloads: Sequence[Workload], cache: Path, report: Reporter = SILENT, method: str = "minmax"
) -> Calibration:
    """The ranges of the generator's convolutions over the workloads, from the cache or measured now on the CPU.

    `workloads` have as many frames each; `method` is one of METHODS. `report` is told what takes time, and why a file
    of the cache is not used. Two processes measure once.
    """
    frames = spread_frames(workloads[0].kp_driving.shape[0])
    workload = "+".join(one.digest for one in workloads)
    exporter = f"onnxruntime {onnxruntime.__version__}, torch {torch.__version__}, {_CODE[:16]}"
    key = (method, frames, renderer.weights.digest, str(renderer.config), workload, exporter)
    path = cache / "calibrations" / f"generator-{hashlib.sha256(repr(key).encode()).hexdigest()[:24]}.json"
    with locked(path, waiting=lambda: report.log("waiting for another process that calibrates")):
        if path.exists():
            try:
                kept = read_calibration(path)
                if (kept.workload, kept.frames, kept.exporter) != (workload, frames, exporter):
                    raise UserError(f"{path} is of another workload or version: delete it")
                kept.require_weights(renderer.weights.digest)
                return kept
            except UserError as error:
                report.log(f"calibrating again: {error}")
        names = " and ".join(one.name for one in workloads)
        report.log(f"calibrating on {len(frames)} frames of {names} on the CPU, once for these weights")
        started = time.monotonic()
        ranges = dict(sorted(measured_ranges(renderer, workloads, frames, cache, method).items()))
        made = Calibration(METHODS[method][1], frames, renderer.weights.digest, workload, exporter, ranges)
        write_calibration(made, path)
        report.log(f"calibrated {len(ranges)} convolutions in {time.monotonic() - started:.0f} s")
    return made


def spread_frames(count: int) -> tuple[int, ...]:
    """Indices of at most FRAMES of `count` frames, evenly spread, the first and the last among them."""
    return tuple(sorted({round(float(index)) for index in np.linspace(0, count - 1, min(FRAMES, count))}))


def measured_ranges(
    renderer: Renderer, workloads: Sequence[Workload], frames: Sequence[int], cache: Path, method: str = "minmax"
) -> dict[str, float]:
    """The largest magnitude of every convolution's input over these frames of each workload, by node name.

    The generator's fp32 graph runs on ONNX Runtime's CPU provider, its volumes sampled by ordinary operators; the
    ranges are those of the library's calibrator, made symmetric, in four digits: another processor finds the same.
    """
    plain = cached_export(renderer, STAGES["generator"], OPSET, cache)
    constants_to_initializers(plain)
    plain = resolve_grid_sample(plain, "native")
    stage, cpu = STAGES["generator"], torch.device("cpu")
    inputs = [item for one in workloads for item in frame_inputs(renderer, one.only(frames), stage, cpu)]
    with tempfile.TemporaryDirectory(prefix="sadtrt-calibration-") as folder:
        path = Path(folder) / "generator.onnx"
        onnx.save(plain, path)
        with contextlib.redirect_stdout(io.StringIO()):  # The calibrators print.
            calibrator = create_calibrator(
                path,
                [CONVOLUTION],
                augmented_model_path=str(Path(folder) / "augmented.onnx"),
                calibrate_method=METHODS[method][0],
                extra_options={"symmetric": True, "num_bins": _BINS},
            )
            calibrator.set_execution_providers(["CPUExecutionProvider"])
            for frame in inputs:  # One at a time: a histogram's calibrator keeps every activation until it has counted.
                calibrator.collect_data(_Frames([frame]))
            found = calibrator.compute_data()
    return {
        # A tensor of zeros, behind an activation that lets nothing pass, bears any range.
        node.name: float(f"{np.max(np.abs(found[node.input[0]].range_value)):.4g}") or 1.0
        for node in plain.graph.node
        if node.op_type == CONVOLUTION
    }


class _Frames(CalibrationDataReader):
    def __init__(self, frames: Iterable[Mapping[str, Tensor]]) -> None:
        self._pending = ({name: tensor.contiguous().numpy() for name, tensor in frame.items()} for frame in frames)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._pending, None)


def write_calibration(calibration: Calibration, path: Path) -> None:
    """Write it as JSON with a digest of its own, whole or not at all."""
    content = calibration.to_json()
    keep_file(path, json.dumps({**content, DIGEST: calibration.digest}, indent=1, sort_keys=True) + "\n")


def read_calibration(path: Path) -> Calibration:
    """The calibration in a file. Raises UserError, which names the file, for what is missing, changed or is none."""
    raw = read_file(path, _SIZE_LIMIT)
    try:
        content = json.loads(raw, object_pairs_hook=no_duplicates)
        digest = content.pop(DIGEST, None) if isinstance(content, dict) else None
        made = Calibration.from_json(content)
        if digest != made.digest or content != made.to_json():
            raise UserError("its values are not those that were measured")
        return made
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a calibration ({error}): delete it") from error
