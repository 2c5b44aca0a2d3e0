"""Drift figures against cases whose answer is known."""

from __future__ import annotations

import io
import math

import pytest
import torch
from PIL import Image

from sadtrt_core.measure.drift import measure_drift, psnr, worst_frame_picture


@pytest.fixture
def frames():
    return torch.rand((4, 3, 64, 64), generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1


def test_psnr_of_a_known_error(frames):
    assert psnr(frames, frames + 0.01) == pytest.approx(40.0, abs=1e-4)
    assert psnr(frames, frames) is None


def test_one_level_in_one_frame_is_found_there(frames):
    candidate = frames.clone()
    candidate[2, 1, 5, 7] += 3 / 255
    drift = measure_drift(frames, candidate)
    assert drift.worst_frame == 2
    assert drift.max_lsb == (0, 0, 3, 0)
    assert drift.psnr_db[0] is None, "an identical frame has no finite PSNR"
    # One of 3 * 64 * 64 values is off by 3/255.
    assert drift.psnr_min == pytest.approx(-10 * math.log10((3 / 255) ** 2 / (3 * 64 * 64)), abs=1e-3)
    assert 0.99 < drift.ssim_min < 1.0
    assert not drift.has_non_finite


def test_a_constant_offset_does_not_flicker_but_a_trembling_one_does(frames):
    still = measure_drift(frames, frames + 0.01)
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None, None, None]
    trembling = measure_drift(frames, frames + 0.01 * signs)
    assert still.psnr_min == pytest.approx(trembling.psnr_min, abs=1e-3)
    assert still.flicker_min > 100
    assert trembling.flicker_min == pytest.approx(-10 * math.log10(0.02**2), abs=1e-2)


def test_nan_is_never_a_number_to_be_proud_of(frames):
    candidate = frames.clone()
    candidate[1, 0, 0, 0] = float("nan")
    drift = measure_drift(frames, candidate)
    assert drift.has_non_finite
    assert drift.worst_frame == 1
    assert math.isnan(drift.psnr_min)


def test_frames_of_another_shape_are_refused(frames):
    with pytest.raises(ValueError, match=r"frames of shape \(3, 3, 64, 64\) cannot be compared"):
        measure_drift(frames, frames[:3])


def test_the_picture_shows_reference_candidate_and_error(frames):
    candidate = (frames + 0.1).clamp(0, 1)
    picture = Image.open(io.BytesIO(worst_frame_picture("test", frames, candidate, measure_drift(frames, candidate))))
    assert picture.format == "PNG"
    assert picture.width > 3 * 200
