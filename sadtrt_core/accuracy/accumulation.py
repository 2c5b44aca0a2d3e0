"""What it costs that kernels sum in half: which convolutions' sums lose the picture.

The generator's typed graph by PyTorch, every rounding explicit, sums in float; then with convolutions that sum in half
as tensor cores do: all of them, each alone, and all but those that lose most alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import onnx
import torch
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from sadtrt_core.accuracy.findings import REPORT_FILE, Loss, Report, heading, make_report, table, worst_frames
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
#: How many of the worst convolutions sum in float while the others sum in half.
EXCLUDED = (1, 2, 4, 8, 16)
_SHOWN = 16
_LEGEND = (
    "Each convolution alone sums in half, rounded after every 16 products as tensor cores do; the rest sum in float. "
    "Any rounding moves some pixels: shares that are about alike at the end of the list say no more than that. Kernels "
    "that sum in float lose nothing of this; an engine's tactics name their accumulators."
)
#: Renders frames (N, 3, H, W) on the host, by their indices, with the named convolutions summing in half.
Render = Callable[[Collection[str], Sequence[int]], Tensor]


def convolve_in_half(given: Sequence[Tensor], attributes: Mapping[str, Any]) -> Tensor:
    """The result of an ONNX Conv whose sums are rounded to half after every PRODUCTS products; float32.

    `given` are input (1, C, spatial...), weights (O, C, kernel...) and perhaps bias (O,), float32 that holds halves.
    The products of one kernel position after the other are summed, its input channels in order; the bias is added in
    float. The PRODUCTS products themselves and their sum are float32: hardware adds them with less (it aligns them to
    the largest), which half's rounding hides.

    Raises UserError for grouped or dilated convolutions and for a batch beyond one, which the generator does not have.
    """
    value, weights = given[:2]
    if attributes["group"] != 1 or any(step != 1 for step in attributes["dilations"]) or value.shape[0] != 1:
        raise UserError("sums in half are simulated for ungrouped, undilated convolutions of batch 1 only")
    spatial = value.dim() - 2
    strides, pads = attributes["strides"], list(attributes["pads"])
    sides = [size for axis in reversed(range(spatial)) for size in (pads[axis], pads[spatial + axis])]
    windows = torch.nn.functional.pad(value[0], sides)
    for axis, size in enumerate(weights.shape[2:]):
        windows = windows.unfold(axis + 1, size, strides[axis])
    made = windows.shape[1 : spatial + 1]
    total = torch.zeros((weights.shape[0], *made), device=value.device).flatten(1)
    kernel = [range(size) for size in weights.shape[2:]]
    for position in itertools.product(*kernel):
        place: tuple[Any, ...] = (..., *position)
        seen, factors = windows[place].flatten(1), weights[place]
        for start in range(0, seen.shape[0], PRODUCTS):
            some = slice(start, start + PRODUCTS)
            total = torch.addmm(total, factors[:, some], seen[some]).half().float()
    if len(given) > 2:
        total = total + given[2][:, None]
    return total.reshape(1, weights.shape[0], *made)


def half_convolutions(session: Session, precision: Precision) -> tuple[dict[str, int], Render]:
    """The generator's convolutions of half operands in a precision, and what renders the session's frames.

    Each with how many products its sums have. All others sum in float, or in integers, whatever the kernel.
    """
    stage, calibration = STAGES["generator"], session.calibration if precision.quantize is not None else None
    typed = typed_graph(session.renderer, stage, precision, "native", session.options.cache, calibration)
    model = onnx.load_from_string(typed)
    types, sizes = element_types(model), {tensor.name: tensor.dims for tensor in model.graph.initializer}
    products = {
        node.name: math.prod(sizes[node.input[1]][1:])
        for node in model.graph.node
        if node.op_type == "Conv" and types[node.input[0]] == onnx.TensorProto.FLOAT16
    }
    shapes = {spec.name: spec.batched(1) for spec in stage.inputs(session.renderer.config)}
    graph, constants = rounded_graph(model, shapes, session.device)
    inputs = [{name: t.to(session.device) for name, t in item.items()} for item in session.frame_inputs()]

    def render(names: Collection[str], frames: Sequence[int]) -> Tensor:
        instead = dict.fromkeys(names, convolve_in_half)
        made = (run_graph(graph, {**inputs[index], **constants}, instead=instead) for index in frames)
        return torch.cat([outputs["prediction"].cpu() for outputs in made])

    return products, render


def sum_losses(session: Session, precision: Precision, worst: int, reporter: Reporter = SILENT) -> Report:
    """What sums in half cost in `precision` against PyTorch fp32, on the `worst` frames with every sum in half.

    The error of a convolution that alone sums in half is against the same graph with every sum in float. Any other
    rounding changes some pixels, too: the smallest errors are about alike and say no more than that.

    An interruption (KeyboardInterrupt) ends it early with what there is. Raises UserError for a precision that
    computes in another type than half, and for a reference that cannot judge what sums in half cost.
    """
    if precision.compute != "float16":
        raise UserError(
            f"precision {precision.name!r} computes in {precision.compute}: kernels that sum in half are those of "
            "float16, so give fp16, fp16-mixed, int8 or a plan of that base"
        )
    reporter.progress("drift: rendering the sequence", 0, None)
    products, render = half_convolutions(session, precision)
    reference = session.reference.frames
    frames = worst_frames(measure_drift(reference, render(products, range(len(session.frame_inputs())))), worst)
    chosen = reference[list(frames)]

    def loss(names: Collection[str]) -> Loss:
        return Loss.of(measure_drift(chosen, render(names, frames)))

    exact = render((), frames)
    in_float, in_half = Loss.of(measure_drift(chosen, exact)), loss(products)
    warning = session.reference.warning(in_half.decibels)
    errors: dict[str, float] = {}
    excluded: dict[int, Loss] = {}
    steps = len(products) + len(EXCLUDED)
    complete = True
    try:
        for name in products:
            reporter.progress(f"drift: {name} alone", len(errors), steps)
            errors[name] = squared_error(render([name], frames), exact)
        order = sorted(errors, key=lambda name: -errors[name])
        for count in EXCLUDED:
            reporter.progress(f"drift: all but the worst {count}", len(errors) + len(excluded), steps)
            excluded[count] = loss(order[count:])
    except KeyboardInterrupt:
        complete = False
    findings = {
        "complete": complete,
        "in_float": in_float,
        "in_half": in_half,
        "convolutions": [
            {"node": name, "products": products[name], "squared_error": error} for name, error in errors.items()
        ],
        "excluded": [{"count": count, "loss": found} for count, found in excluded.items()],
    }
    head = [
        heading(session, f"{precision.name} of", frames),
        f"convolutions that sum in float: {in_float.at_least}; in half: {in_half.at_least}",
        *(f"in half, but the worst {count}: {found.at_least}" for count, found in excluded.items()),
        *filter(None, [warning]),
    ]
    hidden = len(errors) - _SHOWN
    legend = f"{_LEGEND} {hidden} more are in {REPORT_FILE}." if hidden > 0 else _LEGEND
    drawn = _table(precision.name, products, errors)
    return make_report(session, precision.name, frames, findings, head, [drawn], [legend], how="half-sums-")


def squared_error(pictures: Tensor, exact: Tensor) -> float:
    """Mean squared error at a peak of 1; what is not finite, because a sum is beyond half's largest, counts as 1."""
    return float((pictures - exact).square().nan_to_num(nan=1.0, posinf=1.0).mean())


def _table(precision: str, products: Mapping[str, int], errors: Mapping[str, float]) -> Table:
    title = f"Which convolutions lose the picture to fp16 accumulation in {precision}"
    made = table(title, "convolution", "products a value", "share of squared errors")
    total = sum(errors.values())
    for name, error in sorted(errors.items(), key=lambda item: (-item[1], item[0]))[:_SHOWN]:
        made.add_row(escape(name), f"{products[name]:,}", f"{error / total:.1%}" if total else "-")
    return made
