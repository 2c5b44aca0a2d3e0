"""Renders frames under any precision of one fp32 graph, every rounding explicit: ONNX Runtime or PyTorch on a GPU."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from sadtrt_core.accuracy.torch_graph import See, run_graph
from sadtrt_core.graph.edit import constants_to_initializers
from sadtrt_core.graph.export import OPSET, cached_export
from sadtrt_core.graph.fixed_shapes import fix_shapes
from sadtrt_core.graph.grid_sample import resolve_grid_sample
from sadtrt_core.graph.quantize import Calibration
from sadtrt_core.graph.rounding import cpu_session, explicit_rounding
from sadtrt_core.graph.split_k import split_weights
from sadtrt_core.graph.typed import apply_precision, quantized_nodes
from sadtrt_core.precision import PRECISIONS, Precision
from sadtrt_core.renderer.stages import STAGES
from sadtrt_core.session import Session

#: Weights of at least so many elements lie on the device once and for all; smaller ones travel with every graph.
_LARGE_WEIGHT = 1024


class Simulator:
    """Frames of the generator's graph for every frame of a sequence, under whatever precision is asked for.

    `graph` is the fp32 export of the generator, its volume samplers still GridSample3D nodes; `inputs` has one dict of
    float32 tensors for each frame, batch 1. `device` is where PyTorch computes; without one ONNX Runtime does, on the
    CPU. `calibration` has the ranges for precisions that quantize.

    No graph is kept between precisions: a session of ONNX Runtime takes a tenth of a second to make and as much memory
    as the weights. On a device large weights lie once and for all, so that a precision is only a small graph.
    """

    def __init__(
        self,
        graph: onnx.ModelProto,
        inputs: Sequence[Mapping[str, Tensor]],
        device: torch.device | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        self.graph, self.device, self.calibration = graph, device, calibration
        place = device or torch.device("cpu")
        self.inputs = tuple({name: t.detach().to(place).contiguous() for name, t in item.items()} for item in inputs)
        self._lifted_graph, self._weights = (graph, {}) if device is None else _lift(graph, device)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every input, batch 1."""
        return {name: tuple(tensor.shape) for name, tensor in self.inputs[0].items()}

    def rounded(self, precision: Precision) -> onnx.ModelProto:
        """The graph in a precision, of fixed shapes, its samplers ordinary operators, every rounding explicit."""
        model = apply_precision(self._with_quantized_weights(precision), precision, self.calibration)
        model = resolve_grid_sample(model, "native")
        fix_shapes(model, self.shapes | {name: tuple(tensor.shape) for name, tensor in self._weights.items()})
        return explicit_rounding(model)

    def _with_quantized_weights(self, precision: Precision) -> onnx.ModelProto:
        """The lifted graph with those weights as constants that are quantized: their scales are made from them."""
        quantized = quantized_nodes(self._lifted_graph, precision)
        own = {node.input[1] for node in self._lifted_graph.graph.node if node.name in quantized} & set(self._weights)
        if not own:
            return self._lifted_graph
        model = deepcopy(self._lifted_graph)
        inputs = [value for value in self._lifted_graph.graph.input if value.name not in own]
        del model.graph.input[:]
        model.graph.input.extend(inputs)
        model.graph.initializer.extend(numpy_helper.from_array(self._weights[n].cpu().numpy(), n) for n in sorted(own))
        return model

    def frames(self, precision: Precision, indices: Sequence[int]) -> Tensor:
        """Frames (len(indices), 3, H, W), float32 on the host; not finite where the precision overflows."""
        model = self.rounded(precision)
        if self.device is not None:
            return torch.cat([run_graph(model, self._values(model, i))["prediction"].cpu() for i in indices])
        session = cpu_session(model, spinning=False)
        arrays = ({name: tensor.numpy() for name, tensor in self.inputs[index].items()} for index in indices)
        return torch.cat([torch.from_numpy(session.run(["prediction"], item)[0]) for item in arrays])

    def watch(self, indices: Sequence[int], see: See) -> None:
        """Show `see` every tensor that a node makes in fp32, by PyTorch, for each of these frames."""
        model = self.rounded(PRECISIONS["fp32"])
        for index in indices:
            run_graph(model, self._values(model, index), see)

    def _values(self, model: onnx.ModelProto, index: int) -> dict[str, Tensor]:
        known = {**self._weights, **self.inputs[index]}
        return {value.name: known[value.name] for value in model.graph.input}


def simulator_of(session: Session, quantized: bool = False) -> Simulator:
    """The session's generator as an fp32 graph, and its inputs for every driving frame.

    PyTorch computes it where the session has a GPU, ONNX Runtime on a CPU. `quantized` adds ranges, which are measured
    where the cache has none.
    """
    calibration = session.calibration if quantized else None
    graph = cached_export(session.renderer, STAGES["generator"], OPSET, session.options.cache)
    items = [{name: tensor.cpu() for name, tensor in item.items()} for item in session.frame_inputs()]
    return Simulator(graph, items, session.device if session.on_gpu else None, calibration)


def _lift(graph: onnx.ModelProto, device: torch.device) -> tuple[onnx.ModelProto, dict[str, Tensor]]:
    """A copy whose large weights are inputs, and these on the device: a precision casts them there.

    Not those that a precision may split: they have to be the graph's own (graph/split_k.py).
    """
    model = deepcopy(graph)
    constants_to_initializers(model)
    kept, own, weights = [], split_weights(model), {}
    for tensor in model.graph.initializer:
        small = tensor.data_type != TensorProto.FLOAT or math.prod(tensor.dims) < _LARGE_WEIGHT
        if small or tensor.name in own:
            kept.append(tensor)
            continue
        weights[tensor.name] = torch.from_numpy(numpy_helper.to_array(tensor).copy()).to(device)
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, list(tensor.dims)))
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model, weights
