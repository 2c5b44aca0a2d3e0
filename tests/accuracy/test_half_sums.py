"""Convolutions that sum in half: against a sum written out in numpy, and what a split of the sum buys."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sadtrt_core.accuracy.accumulation import PRODUCTS, convolve_in_half


def attributes(spatial: int, stride: int = 1, pad: int = 0, group: int = 1) -> dict[str, object]:
    return {"strides": [stride] * spatial, "pads": [pad] * 2 * spatial, "dilations": [1] * spatial, "group": group}


def halves(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).half().float()


def test_a_dot_product_is_rounded_to_half_after_every_sixteen_products() -> None:
    value, weights = halves(1, 96, 1, 1), halves(1, 96, 1, 1, seed=1)
    chain = np.float32(0)
    for start in range(0, 96, PRODUCTS):
        part = (value[0, start : start + PRODUCTS, 0, 0] * weights[0, start : start + PRODUCTS, 0, 0]).numpy()
        chain = np.float32(np.float16(chain + part.astype(np.float64).sum()))
    assert float(convolve_in_half([value, weights], attributes(2))) == float(chain)


@pytest.mark.parametrize(("spatial", "stride", "pad", "kernel"), [(2, 1, 1, 3), (2, 2, 3, 7), (3, 1, 1, 3)])
def test_it_is_the_convolution_up_to_the_rounding_of_sums(spatial: int, stride: int, pad: int, kernel: int) -> None:
    value, bias = halves(1, 5, *(9, 8, 7)[:spatial]), halves(4, seed=2)
    weights = halves(4, 5, *(kernel,) * spatial, seed=1)
    convolve = F.conv2d if spatial == 2 else F.conv3d
    exact = convolve(value, weights, bias, stride=stride, padding=pad)
    made = convolve_in_half([value, weights, bias], attributes(spatial, stride, pad))
    assert made.shape == exact.shape
    error = (made - exact).abs().max()
    assert 0 < error < 0.1 * exact.abs().max()


def test_sums_parted_over_channels_and_added_in_float_lose_less() -> None:
    value, weights = halves(1, 64, 6, 6), halves(8, 64, 3, 3, seed=1)
    exact = F.conv2d(value, weights)

    def error(channels: int) -> float:
        parts = zip(value.split(channels, dim=1), weights.split(channels, dim=1), strict=True)
        made = sum(convolve_in_half(part, attributes(2)) for part in parts)
        return float((made - exact).square().mean())

    assert error(16) < error(32) < error(64)


def test_a_sum_beyond_half_overflows_as_it_would_on_the_device() -> None:
    value = torch.full((1, 32, 1, 1), 60.0)
    assert torch.isinf(convolve_in_half([value, torch.full((1, 32, 1, 1), 60.0)], attributes(2))).all()


def test_grouped_convolutions_are_refused() -> None:
    with pytest.raises(ValueError, match="ungrouped"):
        convolve_in_half([halves(1, 4, 3, 3), halves(4, 2, 1, 1)], attributes(2, group=2))
