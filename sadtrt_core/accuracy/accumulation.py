"""What it costs that kernels sum in half: which convolutions' sums lose the picture.

The generator's typed graph by PyTorch, every rounding explicit, sums in float; then with convolutions that sum in half
as tensor cores do: all of them, each alone, and all but those that lose most alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import onnx
import torch
from torch import Tensor

from sadtrt_core.accuracy.drift import versions
from sadtrt_core.accuracy.findings import SUMS_REPORT_VERSION, ExcludedSums, Loss, SumLoss, SumsReport
from sadtrt_core.accuracy.losses import worst_frames
from sadtrt_core.accuracy.torch_graph import rounded_graph, run_graph
from sadtrt_core.errors import UserError
from sadtrt_core.graph.edit import element_types
from sadtrt_core.graph.export import typed_graph
from sadtrt_core.measure.drift import measure_drift
from sadtrt_core.precision import Precision
from sadtrt_core.progress import SILENT, Reporter
from sadtrt_core.renderer.stages import STAGES
from sadtrt_core.session import Session

#: How many products one matrix instruction adds to the accumulator (the k of mma.m16n8k16 and wgmma.m64nNk16).
PRODUCTS = 16


def convolve_in_half(given: Sequence[Tensor], attributes: Mapping[str, Any], longest: int | None = None) -> Tensor:
    """The result of an ONNX Conv whose sums are rounded to half after every PRODUCTS products; float32.

    `given` are input (1, C, spatial...), weights (O, C, kernel...) and perhaps bias (O,), float32 that holds halves.
    The products of one kernel position after the other are summed, its input channels in order; the bias is added in
    float. The PRODUCTS products themselves and their sum are float32: hardware adds them with less (it aligns them to
    the largest), which half's rounding hides. `longest`, if given, ends a sum after at most so many products (at least
    PRODUCTS) and adds such partial sums in float, as a convolution would that is split over its products.

    Raises UserError for grouped or dilated convolutions and for a batch beyond one, which the generator does not have.
    """
    value, weights = given[:2]
    if attributes["group"] != 1 or any(step != 1 for step in attributes["dilations"]) or value.shape[0] != 1:
        raise UserError("sums in half are simulated for ungrouped, undilated convolutions of batch 1 only")
    spatial = value.dim() - 2
    strides, pads = attributes["strides"], list(attributes["pads"])
    sides = [size for axis in reversed(range(spatial)) for size in (pads[axis], pads[spatial + axis])]
    padded = torch.nn.functional.pad(value[0], sides)
    kernel = weights.shape[2:]
    made = [(padded.shape[1 + a] - kernel[a]) // strides[a] + 1 for a in range(spatial)]
    total = torch.zeros((weights.shape[0], *made), device=value.device).flatten(1)
    chain, products = torch.zeros_like(total), 0
    for number, position in enumerate(itertools.product(*map(range, kernel))):
        ends = [position[a] + strides[a] * (made[a] - 1) + 1 for a in range(spatial)]
        window = [slice(None), *(slice(position[a], ends[a], strides[a]) for a in range(spatial))]
        seen = padded[tuple(window)].flatten(1)
        factors = weights.flatten(2)[:, :, number]
        for start in range(0, seen.shape[0], PRODUCTS):
            if longest is not None and products and products + PRODUCTS > longest:
                total, chain, products = total + chain, torch.zeros_like(chain), 0
            chain = torch.addmm(chain, factors[:, start : start + PRODUCTS], seen[start : start + PRODUCTS])
            chain = chain.half().float()
            products += PRODUCTS
    total = total + chain
    if len(given) > 2:
        total = total + given[2][:, None]
    return total.reshape(1, weights.shape[0], *made)


#: How many of the worst convolutions sum in float while the others sum in half.
EXCLUDED = (1, 2, 4, 8, 16)


class SummedGraph:
    """The generator's graph in a precision on the frames of a session, its half convolutions summing as told.

    `halves` names the convolutions of half operands (the others sum in float, or in integers, whatever the kernel) and
    how many products each of their sums has.
    """

    def __init__(self, session: Session, precision: Precision) -> None:
        stage, calibration = STAGES["generator"], session.calibration if precision.quantize is not None else None
        typed = typed_graph(session.renderer, stage, precision, "native", session.options.cache, calibration)
        model = onnx.load_from_string(typed)
        types, sizes = element_types(model), {tensor.name: tensor.dims for tensor in model.graph.initializer}
        self.halves = {
            node.name: math.prod(sizes[node.input[1]][1:])
            for node in model.graph.node
            if node.op_type == "Conv" and types[node.input[0]] == onnx.TensorProto.FLOAT16
        }
        shapes = {spec.name: spec.batched(1) for spec in stage.inputs(session.renderer.config)}
        self._graph, self._constants = rounded_graph(model, shapes, session.device)
        self._inputs = [{k: v.to(session.device) for k, v in item.items()} for item in session.frame_inputs]

    def pictures(self, longest: Mapping[str, int | None], frames: Sequence[int]) -> Tensor:
        """Frames (N, 3, H, W) on the host with the convolutions of these names summing in half.

        Each in sums of at most so many products; None leaves its sums whole.
        """
        instead = {name: partial(convolve_in_half, longest=most) for name, most in longest.items()}
        return torch.cat(
            [run_graph(self._graph, {**self._inputs[i], **self._constants}, instead=instead).cpu() for i in frames]
        )


def sum_losses(session: Session, precision: Precision, worst: int, reporter: Reporter = SILENT) -> SumsReport:
    """What sums in half cost in `precision`, on the `worst` frames of the sequence with every sum in half.

    An interruption (KeyboardInterrupt) ends it early with what there is. Raises UserError for a precision that
    computes in another type than half.
    """
    if precision.compute != "float16":
        raise UserError(
            f"precision {precision.name!r} computes in {precision.compute}: kernels that sum in half are those of "
            "float16, so give fp16, fp16-mixed, int8 or a plan of that base"
        )
    reporter.progress("drift: rendering the sequence", 0, None)
    graph = SummedGraph(session, precision)
    everything = range(len(session.frame_inputs))
    reference = session.reference.frames
    frames = worst_frames(measure_drift(reference, graph.pictures(_whole(graph.halves), everything)), worst)
    chosen = reference[list(frames)]

    def loss(names: Collection[str]) -> Loss:
        return Loss.of(measure_drift(chosen, graph.pictures(_whole(names), frames)))

    exact = graph.pictures({}, frames)
    errors: dict[str, float] = {}
    excluded: list[ExcludedSums] = []
    every = loss(graph.halves)
    steps = len(graph.halves) + len(EXCLUDED)
    complete = True
    try:
        for name in graph.halves:
            reporter.progress(f"drift: {name} alone", len(errors), steps)
            errors[name] = squared_error(graph.pictures({name: None}, frames), exact)
        order = sorted(errors, key=lambda name: -errors[name])
        for count in EXCLUDED:
            reporter.progress(f"drift: all but the worst {count}", len(errors) + len(excluded), steps)
            excluded.append(ExcludedSums(count, loss(order[count:])))
    except KeyboardInterrupt:
        complete = False
    return SumsReport(
        version=SUMS_REPORT_VERSION,
        precision=precision.name,
        meaningful=session.drift_is_meaningful,
        weights=session.recorded_weights,
        workload=session.recorded_workload,
        frames=frames,
        complete=complete,
        in_float=Loss.of(measure_drift(chosen, exact)),
        in_half=every,
        convolutions=tuple(SumLoss(name, graph.halves[name], error) for name, error in errors.items()),
        excluded=tuple(excluded),
        versions=versions(session.device),
    )


def squared_error(pictures: Tensor, exact: Tensor) -> float:
    """Mean squared error at a peak of 1; what is not finite, because a sum is beyond half's largest, counts as 1."""
    return float((pictures - exact).square().nan_to_num(nan=1.0, posinf=1.0).mean())


def _whole(names: Collection[str]) -> dict[str, int | None]:
    return dict.fromkeys(names)
