"""Renders frames under any precision of one fp32 graph, every rounding explicit: ONNX Runtime or PyTorch on a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from sadtrt_core.accuracy.torch_graph import run_graph
from sadtrt_core.engine.fixed_shapes import fix_shapes
from sadtrt_core.graph.calibration import Calibration
from sadtrt_core.graph.edit import constants_to_initializers
from sadtrt_core.graph.grid_sample import resolve_grid_sample
from sadtrt_core.graph.ort_options import session_options
from sadtrt_core.graph.rounding import explicit_rounding
from sadtrt_core.graph.split_k import split_weights
from sadtrt_core.graph.typed import apply_precision
from sadtrt_core.precision import PRECISIONS, Precision

#: Bytes of activations that one session hands out, so that the whole graph's never lie in memory together.
_BYTES_AT_ONCE = 256 << 20
#: Weights of at least so many elements lie on the device once and for all; smaller ones travel with every graph.
_LARGE_WEIGHT = 1024
See = Callable[[str, Tensor], None]


class Candidates:
    """Frames of the generator's graph for every frame of a sequence, under whatever precision is asked for.

    `graph` is the fp32 export of the generator, its volume samplers still GridSample3D nodes; `inputs` has one dict of
    float32 tensors on the host for each frame, batch 1. ONNX Runtime computes on the CPU. Nothing is kept between
    precisions: a session takes a tenth of a second to make and its weights as much memory as the renderer.
    `calibration` has the ranges for precisions that quantise.
    """

    def __init__(
        self, graph: onnx.ModelProto, inputs: Sequence[dict[str, Tensor]], calibration: Calibration | None = None
    ) -> None:
        self.graph = graph
        self.inputs = tuple(inputs)
        self.calibration = calibration

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every input, batch 1."""
        return {name: tuple(tensor.shape) for name, tensor in self.inputs[0].items()}

    def weights(self) -> dict[str, Tensor]:
        """The graph's float32 constants by name."""
        plain = onnx.ModelProto()
        plain.CopyFrom(self.graph)
        constants_to_initializers(plain)
        floats = (tensor for tensor in plain.graph.initializer if tensor.data_type == TensorProto.FLOAT)
        return {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in floats}

    def frames(self, precision: Precision, indices: Sequence[int]) -> Tensor:
        """Frames (len(indices), 3, H, W), float32 on the host; not finite where the precision overflows."""
        typed = resolve_grid_sample(apply_precision(self.graph, precision, self.calibration), "native")
        session = make_session(explicit_rounding(typed))
        output = typed.graph.output[0].name
        return torch.cat([torch.from_numpy(session.run([output], self._arrays(index))[0]) for index in indices])

    def watch(self, shapes: Mapping[str, tuple[int, ...]], indices: Sequence[int], see: See) -> None:
        """Show `see` every tensor named in `shapes` (with its shape) in fp32, for each of these frames."""
        plain = onnx.ModelProto()
        plain.CopyFrom(self.graph)
        constants_to_initializers(plain)
        plain = resolve_grid_sample(plain, "native")
        for batch in _batches(shapes):
            session = make_session(_with_outputs(plain, batch))
            for index in indices:
                for name, values in zip(batch, session.run(batch, self._arrays(index)), strict=True):
                    see(name, torch.from_numpy(values))

    def _arrays(self, index: int) -> dict[str, np.ndarray]:
        return {name: tensor.detach().contiguous().numpy() for name, tensor in self.inputs[index].items()}


class DeviceCandidates(Candidates):
    """The same, computed by PyTorch on a device; large weights are put there once.

    A candidate is then only its own small graph, so that it costs a fraction of a second at full size.
    """

    def __init__(
        self,
        graph: onnx.ModelProto,
        inputs: Sequence[dict[str, Tensor]],
        device: torch.device,
        calibration: Calibration | None = None,
    ) -> None:
        self._weights: dict[str, Tensor] = {}
        self._unlifted = graph
        lifted = onnx.ModelProto()
        lifted.CopyFrom(graph)
        super().__init__(self._lift(lifted, device), inputs, calibration)
        self._on_device = [{name: tensor.to(device) for name, tensor in item.items()} for item in inputs]

    def _lift(self, model: onnx.ModelProto, device: torch.device) -> onnx.ModelProto:
        """Large weights as inputs of the graph, so that a precision casts them there instead of copying their bytes.

        Not those that a precision may part: they have to be the graph's own (graph/split_k.py).
        """
        constants_to_initializers(model)
        parted, kept = split_weights(model), []
        for tensor in model.graph.initializer:
            small = tensor.data_type != TensorProto.FLOAT or math.prod(tensor.dims) < _LARGE_WEIGHT
            if small or tensor.name in parted:
                kept.append(tensor)
                continue
            self._weights[tensor.name] = torch.from_numpy(numpy_helper.to_array(tensor).copy()).to(device)
            model.graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, list(tensor.dims)))
        copies = [TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
        del model.graph.initializer[:]
        model.graph.initializer.extend(copies)
        return model

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every input, the weights among them, batch 1."""
        return super().shapes | {name: tuple(tensor.shape) for name, tensor in self._weights.items()}

    def weights(self) -> dict[str, Tensor]:
        return super().weights() | self._weights

    def frames(self, precision: Precision, indices: Sequence[int]) -> Tensor:
        model = self._ready(precision)
        lifted = {} if precision.quantize is not None else self._weights
        return torch.cat([run_graph(model, self._on_device[index] | lifted).cpu() for index in indices])

    def watch(self, shapes: Mapping[str, tuple[int, ...]], indices: Sequence[int], see: See) -> None:
        model = self._ready(PRECISIONS["fp32"])

        def only_named(name: str, value: Tensor) -> None:
            if name in shapes:
                see(name, value)

        for index in indices:
            run_graph(model, self._on_device[index] | self._weights, only_named)

    def _ready(self, precision: Precision) -> onnx.ModelProto:
        # The scales of quantised weights are made from the weights themselves, which then travel with the graph.
        quantized = precision.quantize is not None
        graph, shapes = (self._unlifted, super().shapes) if quantized else (self.graph, self.shapes)
        model = resolve_grid_sample(apply_precision(graph, precision, self.calibration), "native")
        fix_shapes(model, shapes)
        return explicit_rounding(model)


def make_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """A session on ONNX Runtime's CPU provider with as many threads as PyTorch uses."""
    options = session_options(model)
    # Threads that spin while they wait slow down whoever shares the cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _batches(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[list[str]]:
    batch: list[str] = []
    held = 0
    for name, shape in shapes.items():
        size = 4 * math.prod(shape)
        if batch and held + size > _BYTES_AT_ONCE:
            yield batch
            batch, held = [], 0
        batch.append(name)
        held += size
    if batch:
        yield batch


def _with_outputs(model: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    already = {value.name for value in watched.graph.output}
    for name in names:
        if name not in already:
            watched.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return watched
