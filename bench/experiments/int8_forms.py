"""Forms of the int8 generator: what is quantized, and what might keep TensorRT 8.6 from rewriting it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import onnx
import torch
from int8_blocks import block_tensors, show_blocks, signal_to_noise_db
from torch import Tensor

from sadtrt_core.accuracy.backends import Compute, by_graph
from sadtrt_core.case import GridSample
from sadtrt_core.graph.calibration import Calibration
from sadtrt_core.graph.export import OPSET
from sadtrt_core.graph.pipeline import cached_export, typed_graph
from sadtrt_core.graph.typed import quantized_nodes
from sadtrt_core.measure.drift import measure_drift
from sadtrt_core.precision import INT8, PRECISIONS, Precision, Quantization
from sadtrt_core.records.schema import Drift
from sadtrt_core.renderer.stages import STAGES
from sadtrt_core.runners.base import Job
from sadtrt_core.session import Session

GENERATOR = STAGES["generator"]
REFERENCE = "fp16-mixed"


@dataclass(frozen=True)
class Form:
    """One engine to try; `quantize` None is fp16-mixed itself.

    `equal_scales` gives what convolutions of one tensor make one range, the largest of theirs. `shows_blocks` makes
    the decoder's blocks outputs, so that the engine's can be compared with those of the types alone; writing them takes
    time, and they may keep the builder from fusing across them.
    """

    why: str
    quantize: Quantization | None
    equal_scales: bool = False
    shows_blocks: bool = False

    @property
    def precision(self) -> Precision:
        return replace(PRECISIONS[REFERENCE], name="form", quantize=self.quantize)


def _decoder(*nodes: str, excluded: tuple[str, ...] = ()) -> Quantization:
    return Quantization("int8", tuple(f"/decoder/{node}" for node in nodes), excluded)


#: Spared at the end: nothing of what is read at the full size is quantized, so no spared convolution reads it beside.
_LAST = ("/decoder/conv_img/*", "/decoder/up_1/*", "/decoder/up_0/conv_?/*")
#: The decoder without what eight bits show most, and what modulates that: siblings that 8.6 may merge are quantized.
_WIDE = _decoder(
    "*",
    excluded=tuple(
        f"/decoder/{node}"
        for node in ("conv_img/*", "up_?/conv_?/*", "up_1/norm_[1s]/mlp_shared/*", "up_1/norm_s/mlp_beta/*")
    ),
)
#: REFERENCE comes first because the others are compared with it, then what is worth most if time runs out.
FORMS: dict[str, Form] = {
    REFERENCE: Form("what int8 has to be faster than", None),
    "int8": Form("as it is shipped: no two convolutions read one tensor, none is merged or mixed up", INT8),
    "int8, blocks shown": Form(
        "the first block at which the engine leaves its types; its time counts for nothing", INT8, shows_blocks=True
    ),
    "one convolution": Form(
        "the smallest network in which an int8 convolution can be compared with its types, blocks shown",
        _decoder("G_middle_0/conv_0/*"),
        shows_blocks=True,
    ),
    "wide": Form("most of the decoder: siblings that 8.6 may merge are quantized", _WIDE),
    "wide, equal scales": Form("convolutions that are merged need one scale only", _WIDE, equal_scales=True),
    "up_1 spared, equal scales": Form(
        "nor is a tensor read by both kinds", _decoder("*", excluded=_LAST), equal_scales=True
    ),
    "everything": Form("the decoder without a boundary", _decoder("*")),
}


def form_graph(suite: Session, form: Form, grid_sample: GridSample) -> bytes:
    """The typed graph of the generator in this form, its samplers resolved as `grid_sample` says."""
    cache, calibration = suite.options.cache, None
    if form.quantize is not None:
        calibration = suite.calibration
        if form.equal_scales:
            exported = cached_export(suite.renderer, GENERATOR, OPSET, cache)
            calibration = equal_ranges(exported, quantized_nodes(exported, form.precision), calibration)
    graph = typed_graph(suite.renderer, GENERATOR, form.precision, grid_sample, cache, calibration)
    if not form.shows_blocks:
        return graph
    model = onnx.load_from_string(graph)
    show_blocks(model)
    return model.SerializeToString(deterministic=True)


@dataclass(frozen=True)
class Simulated:
    """What the types of a form cost by themselves; `blocks` is signal over noise in dB on the first frame."""

    drift: Drift
    blocks: dict[str, float]


class Simulation:
    """Forms computed by their types alone on the first frames of a suite, beside fp32."""

    def __init__(self, suite: Session, frames: int) -> None:
        self._suite, self._frames = suite, frames
        exported = cached_export(suite.renderer, GENERATOR, OPSET, suite.options.cache)
        self._tensors = block_tensors(exported)
        self._exact = self._blocks(self._compute(PRECISIONS["fp32"], self._graph(PRECISIONS["fp32"])))

    def measure(self, form: Form) -> Simulated:
        """Drift and blocks of a form, whose outputs for the blocks are left out: they change no value."""
        suite = self._suite
        graph = form_graph(suite, replace(form, shows_blocks=False), "native")
        compute = self._compute(form.precision, graph)
        pictures = torch.cat([compute(item)["prediction"].cpu() for item in suite.frame_inputs[: self._frames]])
        return Simulated(measure_frames(suite, pictures), self.signal_to_noise(self._blocks(compute)))

    def signal_to_noise(self, found: Mapping[str, Tensor]) -> dict[str, float]:
        """Of blocks (name to tensor, on any device) on the first frame, against fp32."""
        return {block: signal_to_noise_db(self._exact[block], value.cpu()) for block, value in found.items()}

    def _graph(self, precision: Precision) -> bytes:
        return typed_graph(self._suite.renderer, GENERATOR, precision, "native", self._suite.options.cache)

    def _compute(self, precision: Precision, graph: bytes) -> Compute:
        suite = self._suite
        job = Job(suite.renderer, GENERATOR, precision, "native", 1, suite.device, suite.options.cache)
        return by_graph(job, graph, tuple(self._tensors.values()))

    def _blocks(self, compute: Compute) -> dict[str, Tensor]:
        made = compute(self._suite.frame_inputs[0])
        return {block: made[tensor].cpu() for block, tensor in self._tensors.items()}


def measure_frames(suite: Session, pictures: Tensor) -> Drift:
    """Drift of the first frames of the suite's sequence against its reference."""
    return measure_drift(suite.reference.frames[: len(pictures)], pictures, meaningful=suite.drift_is_meaningful)


def convolution_names(suite: Session, form: Form) -> tuple[frozenset[str], frozenset[str]]:
    """Names of the generator's convolutions, and of those that the form quantizes."""
    exported = cached_export(suite.renderer, GENERATOR, OPSET, suite.options.cache)
    every = frozenset(node.name for node in exported.graph.node if node.op_type == "Conv")
    return every, quantized_nodes(exported, form.precision)


def equal_ranges(model: onnx.ModelProto, quantized: Collection[str], calibration: Calibration) -> Calibration:
    """One range, the largest, for the quantized results of quantized convolutions that read the same tensor.

    `model` is the fp32 graph. Results count that a Relu alone reads, and behind it only quantized convolutions.
    """
    readers = _readers(model)
    groups: dict[str, list[str]] = {}
    for node in model.graph.node:
        if node.name not in quantized:
            continue
        behind = readers.get(node.output[0], [])
        if len(behind) == 1 and behind[0].op_type == "Relu":
            last = readers.get(behind[0].output[0], [])
            if last and all(one.name in quantized for one in last):
                groups.setdefault(node.input[0], []).extend(one.name for one in last)
    ranges = dict(calibration.ranges)
    for names in groups.values():
        ranges.update(dict.fromkeys(names, max(calibration.require(name) for name in names)))
    return replace(calibration, ranges=ranges)


def _readers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found
