"""Figures of a picture on frames that are made to deceive them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sadtrt_core.measure.drift import face_boxes, measure_drift
from sadtrt_core.measure.seen import encoded, seen_drift
from sadtrt_core.records.measurements import PSNR_CEILING_DB, Drift
from sadtrt_core.records.picture import NOTICEABLE_FLIP, faces, mean_error_db, median_face_db, visible, worst_tile
from sadtrt_core.renderer.workload import portrait


@pytest.fixture(scope="module")
def clip() -> Tensor:
    """Eight frames of a portrait that moves by two pixels a frame, 128 px."""
    picture = F.interpolate(portrait()[None], (160, 160), mode="area")[0]
    return torch.stack([picture[:, 16:144, 2 * i : 2 * i + 128] for i in range(8)])


def seen(reference: Tensor, candidate: Tensor) -> Drift:
    return seen_drift(reference, candidate, encoded(reference, 1), [("portrait", torch.zeros(len(reference), 15, 3))])


def test_what_is_whiter_than_white_is_shown_as_white() -> None:
    white = torch.ones(3, 3, 64, 64)
    drift = measure_drift(white, white + 0.2)
    assert (drift.psnr_min, drift.max_lsb_worst) == (PSNR_CEILING_DB, 0)
    assert drift.unclipped_db == pytest.approx((13.98,) * 3, abs=0.01)


def test_a_fault_of_eight_pixels_shows_in_the_worst_tile_and_after_encoding(clip: Tensor) -> None:
    pytest.importorskip("flip_evaluator")
    pytest.importorskip("av")
    candidate = clip.clone()
    candidate[3, :, 44:52, 68:76] += torch.where(clip[3, :, 44:52, 68:76] > 0.5, -0.2, 0.2)
    drift = seen(clip, candidate)
    decibels, frame, x, y = worst_tile(drift) or ()
    assert (frame, drift.worst_frame) == (3, 3)
    assert x <= 68 < 76 <= x + 16
    assert y <= 44 < 52 <= y + 16
    assert decibels == pytest.approx(-10 * math.log10(0.2**2 / 4), abs=0.01)
    assert drift.psnr_min > decibels + 15
    assert visible(drift) == "yes"


def test_an_error_that_lies_in_one_frame_counts_in_the_mean_error(clip: Tensor) -> None:
    candidate = clip.clone()
    candidate[0] = candidate[0] * 0.5
    drift = measure_drift(clip, candidate)
    assert drift.psnr_mean > 100
    assert mean_error_db(drift.psnr_db) == pytest.approx(drift.psnr_min + 10 * math.log10(8), abs=0.01)


def test_a_constant_offset_does_not_flicker_and_says_no_more_than_120_db(clip: Tensor) -> None:
    drift = measure_drift(clip * 0.5, clip * 0.5 + 0.125)
    assert drift.flicker_min == PSNR_CEILING_DB
    assert drift.psnr_min == pytest.approx(18.06, abs=0.01)


def test_what_only_flickers_is_seen_by_flicker(clip: Tensor) -> None:
    signs = torch.tensor([1.0, -1.0] * 4)[:, None, None, None]
    drift = measure_drift(clip * 0.5 + 0.25, clip * 0.5 + 0.25 + 0.01 * signs)
    assert drift.flicker_min == pytest.approx(drift.psnr_min - 6.02, abs=0.01)


def test_flicker_is_never_from_one_face_to_the_next(clip: Tensor) -> None:
    reference = torch.cat((clip[:4], clip[:4]))
    candidate = torch.cat((clip[:4] * 0.5, clip[:4]))
    drift = measure_drift(reference, candidate, faces=("dark", "same"))
    assert len(drift.flicker_db) == 6
    assert drift.flicker_db[3:] == (None, None, None)
    assert [name for _, name in faces(drift)] == ["dark", "same"]
    assert median_face_db(drift) == pytest.approx((drift.psnr_min + PSNR_CEILING_DB) / 2)


def test_one_pixel_of_nan_is_broken_whatever_else_is_measured(clip: Tensor) -> None:
    candidate = clip.clone()
    candidate[5, 1, 7, 9] = math.nan
    drift = seen(clip, candidate)
    assert (drift.has_non_finite, drift.worst_frame, visible(drift)) == (True, 5, "yes")
    assert worst_tile(drift) is None
    assert faces(drift) == ()


def test_a_reference_with_nan_judges_nothing(clip: Tensor) -> None:
    reference = clip.clone()
    reference[6, 0, 0, 0] = math.inf
    with pytest.raises(ValueError, match=r"holds NaN or infinity in 1 of 8 frames, frame 6 first"):
        measure_drift(reference, clip)


def test_a_frame_in_the_place_of_another_is_visible(clip: Tensor) -> None:
    pytest.importorskip("flip_evaluator")
    pytest.importorskip("av")
    candidate = clip.clone()
    candidate[4] = clip[3]
    assert visible(seen(clip, candidate)) == "yes"


def test_noise_below_half_a_level_is_not_visible_and_identical_frames_are_at_the_cap(clip: Tensor) -> None:
    pytest.importorskip("flip_evaluator")
    noise = torch.randn(clip.shape, generator=torch.Generator().manual_seed(0))
    assert visible(seen(clip, clip + 0.001 * noise)) == "no"
    same = seen(clip, clip)
    assert (same.psnr_min, same.flicker_min, mean_error_db(same.psnr_db)) == (PSNR_CEILING_DB,) * 3
    assert (worst_tile(same) or ())[0] == PSNR_CEILING_DB
    assert visible(same) == "no"


def test_noise_that_the_codec_takes_away_is_not_visible_after_encoding(clip: Tensor) -> None:
    pytest.importorskip("flip_evaluator")
    pytest.importorskip("av")
    signs = torch.randn(clip.shape, generator=torch.Generator().manual_seed(1)).sign()
    assert visible(seen(clip, clip + 3 / 255 * signs)) == "not after encoding"


def test_a_spot_is_noticed_beside_a_frame_that_is_worse_by_every_other_figure(clip: Tensor) -> None:
    pytest.importorskip("flip_evaluator")
    candidate = clip[:2].clone()
    candidate[0, 2] += 0.02 * torch.randn(128, 128, generator=torch.Generator().manual_seed(0)).sign()
    candidate[1, :, 60:68, 60:68] += 0.02
    drift = seen(clip[:2], candidate.clamp(0, 1))
    assert drift.psnr_db[0] < drift.psnr_db[1]  # type: ignore[operator]
    assert drift.tile_db[0] < drift.tile_db[1]  # type: ignore[operator]
    assert drift.flip_most[1] > 0.1 > drift.flip_most[0]  # type: ignore[operator]
    assert visible(drift) != "no"


def test_less_than_a_level_is_never_noticed() -> None:
    """FLIP leaves out frames that are off by less than a level, and may."""
    flip = pytest.importorskip("flip_evaluator")
    patch = np.zeros((48, 48, 1), np.float32)
    patch[16:32, 16:32] = 1 / 255
    for level, signs in itertools.product((0.05, 0.3, 0.6, 0.8, 0.99), itertools.product((-1, 0, 1), repeat=3)):
        flat = np.full((48, 48, 3), level, np.float32)
        errors, *_ = flip.evaluate(flat, np.clip(flat + patch * np.float32(signs), 0, 1), "LDR", applyMagma=False)
        assert errors.max() < NOTICEABLE_FLIP


def test_a_face_whose_noise_the_codec_takes_away_hides_no_spot_on_another(clip: Tensor) -> None:
    pytest.importorskip("flip_evaluator")
    pytest.importorskip("av")
    candidate = clip[:2].clone()
    candidate[0, 2] += 0.08 * torch.randn(128, 128, generator=torch.Generator().manual_seed(0)).sign()
    candidate[1, :, 60:68, 60:68] += 0.08
    candidate = candidate.clamp(0, 1)
    faces = [("noisy", torch.zeros(1, 15, 3)), ("spotted", torch.zeros(1, 15, 3))]
    for chosen in (slice(1, 2), slice(0, 2)):
        reference = clip[:2][chosen]
        codec = encoded(reference, len(reference))
        assert visible(seen_drift(reference, candidate[chosen], codec, faces[chosen])) == "yes"


def test_the_face_region_is_the_box_of_the_keypoints_and_a_margin() -> None:
    keypoints = torch.tensor([[[-0.49, -0.25, 0.0], [0.49, 0.75, 0.0]], [[-2.0, -2.0, 0.0], [2.0, 2.0, 0.0]]])
    assert face_boxes(keypoints, 100) == ((20, 32, 80, 93), (0, 0, 100, 100))
    frames = torch.full((1, 3, 100, 100), 0.5)
    outside = frames.clone()
    outside[:, :, :, :20] = 0.7
    drift = measure_drift(frames, outside, boxes=face_boxes(keypoints[:1], 100))
    assert drift.face_db == (None,)
    assert drift.psnr_min < 25
