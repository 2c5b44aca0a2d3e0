"""Every form of PyTorch's sampling gives the same samples; only one keeps fp32 coordinates under half features."""

from __future__ import annotations

import pytest
import torch

from sadtrt_core.sampling.methods import SAMPLING_METHODS
from sadtrt_core.sampling.shapes import SamplingShape, renderer_grids, renderer_volume
from sadtrt_core.sampling.torch_forms import expanded, tiled, torch_launch

CPU = torch.device("cpu")
MANY = SamplingShape("3 grids", 4, 7, 1, 3)
FORMS = {name: method for name, method in SAMPLING_METHODS.items() if method.runner == "pytorch"}


def _samples(dtype, **form):
    return torch_launch(renderer_volume(MANY, dtype, CPU, 1), renderer_grids(MANY, CPU, 1), **form)()


def _applying(shape, dtype):
    return [name for name, method in FORMS.items() if method.applies(shape, dtype)]


@pytest.mark.parametrize("form", [{"before": tiled}, {"each_call": tiled}, {"each_call": expanded}])
def test_all_forms_give_the_same_samples(form):
    volume = renderer_volume(MANY, torch.float32, CPU, 1).repeat_interleave(3, dim=0)
    expected = torch.nn.functional.grid_sample(volume, renderer_grids(MANY, CPU, 1), align_corners=False)
    assert torch.equal(_samples(torch.float32, **form), expected)


def test_half_features_keep_fp32_coordinates_where_that_is_asked_for():
    exact = renderer_volume(MANY, torch.float16, CPU, 1)
    expected = torch_launch(exact.float(), renderer_grids(MANY, CPU, 1), each_call=expanded)()
    kept = _samples(torch.float16, each_call=expanded, exact_coordinates=True)
    rounded = _samples(torch.float16, each_call=expanded)
    assert kept.dtype == rounded.dtype == torch.float16
    assert (kept.float() - expected).abs().max() < 2e-3 < (rounded.float() - expected).abs().max()


def test_a_shape_has_the_forms_that_differ_for_it():
    many = ["PyTorch, tiles in each call", "PyTorch, tiled before", "PyTorch, expanded view"]
    assert _applying(MANY, torch.float32) == many
    assert _applying(MANY, torch.float16) == [*many, "PyTorch, fp32 coordinates"]
    assert _applying(SamplingShape("1 grid", 8, 6, 1, 1), torch.float32) == ["PyTorch"]
    # Of several volumes there is no expanded view.
    assert _applying(SamplingShape("2 x 2 grids", 3, 5, 2, 4), torch.float32) == many[:2]
