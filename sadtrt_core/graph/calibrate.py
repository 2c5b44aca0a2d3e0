"""Measures the ranges of a renderer's convolutions with ONNX Runtime's calibrator, and keeps them in the cache."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator
from torch import Tensor

from sadtrt_core.errors import UserError
from sadtrt_core.files import code_digest, locked
from sadtrt_core.graph.calibration import Calibration, read_calibration, write_calibration
from sadtrt_core.graph.edit import constants_to_initializers
from sadtrt_core.graph.export import OPSET, cached_export
from sadtrt_core.graph.grid_sample import resolve_grid_sample
from sadtrt_core.graph.quantize import CONVOLUTION
from sadtrt_core.progress import SILENT, Reporter
from sadtrt_core.renderer.renderer import Renderer
from sadtrt_core.renderer.stages import STAGES
from sadtrt_core.renderer.workload import Workload, frame_inputs

#: Frames that ranges are measured on, spread evenly over the sequence.
FRAMES = 8
#: Nothing that was seen is clipped: a value clipped before the masks would move a whole feature.
METHOD = CalibrationMethod.MinMax


def calibrated(renderer: Renderer, workload: Workload, cache: Path, report: Reporter = SILENT) -> Calibration:
    """The ranges of the generator's convolutions over the workload, from the cache or measured now on the CPU.

    `report` is told what takes time, and why a file of the cache is not used. Two processes measure once.
    """
    frames = spread_frames(workload.kp_driving.shape[0])
    exporter = f"onnxruntime {onnxruntime.__version__}, torch {torch.__version__}, {code_digest('graph')[:16]}"
    key = (METHOD.name, frames, renderer.weights.digest, str(renderer.config), workload.digest, exporter)
    path = cache / "calibrations" / f"generator-{hashlib.sha256(repr(key).encode()).hexdigest()[:24]}.json"

    def found() -> Calibration | None:
        if not path.exists():
            return None
        try:
            kept = read_calibration(path)
            if (kept.workload, kept.frames, kept.exporter) != (workload.digest, frames, exporter):
                raise UserError(f"{path} is of another workload or version: delete it")
            kept.require_weights(renderer.weights.digest)
        except UserError as error:
            report.log(f"calibrating again: {error}")
            return None
        return kept

    with locked(path, waiting=lambda: report.log("waiting for another process that calibrates")):
        kept = found()
        if kept is not None:
            return kept
        report.log(f"calibrating on {len(frames)} frames of {workload.name} on the CPU, once for these weights")
        started = time.monotonic()
        ranges = measured_ranges(renderer, workload, frames, cache)
        made = Calibration(
            "minimum and maximum",
            frames,
            renderer.weights.digest,
            workload.digest,
            exporter,
            dict(sorted(ranges.items())),
        )
        write_calibration(made, path)
        report.log(f"calibrated {len(ranges)} convolutions in {time.monotonic() - started:.0f} s")
    return made


def spread_frames(count: int, most: int = FRAMES) -> tuple[int, ...]:
    """Indices of at most `most` of `count` frames, evenly spread, the first and the last among them."""
    return tuple(sorted({round(float(index)) for index in np.linspace(0, count - 1, min(most, count))}))


def measured_ranges(
    renderer: Renderer,
    workload: Workload,
    frames: Sequence[int],
    cache: Path,
    method: CalibrationMethod = METHOD,
) -> dict[str, float]:
    """The largest magnitude of every convolution's input over these frames, by node name.

    The generator's fp32 graph runs on ONNX Runtime's CPU provider, its volumes sampled by ordinary operators; the
    ranges are those of the library's calibrator of that method, made symmetric.
    """
    exported = cached_export(renderer, STAGES["generator"], OPSET, cache)
    plain = onnx.ModelProto()
    plain.CopyFrom(exported)
    constants_to_initializers(plain)
    plain = resolve_grid_sample(plain, "native")
    chosen = frame_inputs(renderer, workload.only(frames), STAGES["generator"], torch.device("cpu"))
    with tempfile.TemporaryDirectory(prefix="sadtrt-calibration-") as folder:
        path = Path(folder) / "generator.onnx"
        onnx.save(plain, path)
        with contextlib.redirect_stdout(io.StringIO()):  # The calibrators print.
            calibrator = create_calibrator(
                path,
                [CONVOLUTION],
                augmented_model_path=str(Path(folder) / "augmented.onnx"),
                calibrate_method=method,
                extra_options={"symmetric": True},
            )
            calibrator.set_execution_providers(["CPUExecutionProvider"])
            for item in chosen:
                calibrator.collect_data(_OneFrame(item))  # One at a time: a histogram wants every tensor at once.
            found = calibrator.compute_data()
    return {
        # A tensor of zeros, behind an activation that lets nothing pass, bears any range.
        node.name: float(np.max(np.abs(found[node.input[0]].range_value))) or 1.0
        for node in plain.graph.node
        if node.op_type == CONVOLUTION
    }


class _OneFrame(CalibrationDataReader):
    def __init__(self, inputs: Mapping[str, Tensor]) -> None:
        arrays = {name: tensor.contiguous().numpy() for name, tensor in inputs.items()}
        self._pending: Iterator[dict[str, np.ndarray]] = iter((arrays,))

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._pending, None)
