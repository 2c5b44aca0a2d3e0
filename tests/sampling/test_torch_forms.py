"""Every form of PyTorch's sampling gives the same samples; only one keeps fp32 coordinates under half features."""

from __future__ import annotations

import pytest
import torch

from sadtrt_core.sampling.shapes import SamplingShape, renderer_grids, renderer_volume
from sadtrt_core.sampling.torch_forms import (
    EXPANDED,
    FP32_COORDINATES,
    TORCH_FORMS,
    TorchLaunch,
)

CPU = torch.device("cpu")
MANY = SamplingShape("3 grids", 4, 7, 1, 3)
ONE = SamplingShape("1 grid", 8, 6, 1, 1)
SEVERAL = SamplingShape("2 x 2 grids", 3, 5, 2, 4)


def _samples(form, shape, dtype):
    return TorchLaunch(form, renderer_volume(shape, dtype, CPU, 1), renderer_grids(shape, CPU, 1))()


@pytest.mark.parametrize("shape", [MANY, ONE, SEVERAL], ids=lambda shape: shape.name)
def test_all_forms_give_the_same_samples_of_the_features_type(shape):
    forms = [form for form in TORCH_FORMS if form.applies(shape, torch.float32)]
    volume = renderer_volume(shape, torch.float32, CPU, 1).repeat_interleave(shape.repeats, dim=0)
    expected = torch.nn.functional.grid_sample(volume, renderer_grids(shape, CPU, 1), align_corners=False)
    assert len(forms) == {"3 grids": 3, "1 grid": 1, "2 x 2 grids": 2}[shape.name]
    for form in forms:
        assert torch.equal(_samples(form, shape, torch.float32), expected)


def test_half_features_keep_fp32_coordinates_in_one_form_only():
    exact = renderer_volume(MANY, torch.float16, CPU, 1).float()
    expected = TorchLaunch(EXPANDED, exact, renderer_grids(MANY, CPU, 1))()
    error = {
        form.name: (_samples(form, MANY, torch.float16).float() - expected).abs().max().item()
        for form in TORCH_FORMS
        if form.applies(MANY, torch.float16)
    }
    assert all(_samples(form, MANY, torch.float16).dtype == torch.float16 for form in (EXPANDED, FP32_COORDINATES))
    assert error.pop(FP32_COORDINATES.name) < 2e-3
    assert len(error) == 3
    assert min(error.values()) > 2e-3
