"""Convolutions that sum in half, as tensor cores do where a tactic's accumulator is half.

Every half tactic that TensorRT 8.6 tries for a convolution on Hopper, cuDNN's and cuBLAS's not among them, names a half
accumulator (..._f16f16_f16f16_f16_...), while PyTorch and ONNX Runtime sum in float: the same types lose more there.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

#: How many products one matrix instruction adds to the accumulator (the k of mma.m16n8k16 and wgmma.m64nNk16).
PRODUCTS = 16


def convolve_in_half(given: Sequence[Tensor], attributes: Mapping[str, Any], longest: int | None = None) -> Tensor:
    """The result of an ONNX Conv whose sums are rounded to half after every PRODUCTS products; float32.

    `given` are input (1, C, spatial...), weights (O, C, kernel...) and perhaps bias (O,), float32 that holds halves.
    The products of one kernel position after the other are summed, its input channels in order; the bias is added in
    float. The PRODUCTS products themselves and their sum are float32: hardware adds them with less (it aligns them to
    the largest), which half's rounding hides. `longest`, if given, ends a sum after at most so many products (at least
    PRODUCTS) and adds such partial sums in float, as a convolution would that is split over its products.

    Raises ValueError for grouped or dilated convolutions and for a batch beyond one, which the generator does not have.
    """
    value, weights = given[:2]
    if attributes["group"] != 1 or any(step != 1 for step in attributes["dilations"]) or value.shape[0] != 1:
        raise ValueError("sums in half are simulated for ungrouped, undilated convolutions of batch 1 only")
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
