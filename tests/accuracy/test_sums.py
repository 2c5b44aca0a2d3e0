"""`sadtrt drift --half-sums`: the convolution whose sums lose the picture is named, and parting its sums helps."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from sadtrt_core.accuracy.accumulation import half_convolutions, squared_error, sum_losses
from sadtrt_core.config import RunConfig
from sadtrt_core.measure.drift import measure_drift
from sadtrt_core.precision import PRECISIONS
from sadtrt_core.session import Session

pytestmark = pytest.mark.usefixtures("_one_thread")
MASK, LAST = "/dense_motion_network/mask/Conv", "/decoder/conv_img/Conv"


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return Session(RunConfig(weights="demo", device="cpu", cache=tmp_path_factory.mktemp("cache"), frames=1))


@pytest.fixture(scope="module")
def report(suite):
    """Of sums that are whole, in three convolutions only: each more takes a third of a second."""
    three = ("/decoder/fc/Conv", MASK, "/decoder/up_1/conv_1/Conv")
    with torch.inference_mode():
        return sum_losses(suite, replace(PRECISIONS["fp16"], only_nodes=three), 1)


def test_the_longest_sum_is_named_first(report):
    found = report.content
    worst = max(found["convolutions"], key=lambda one: one["squared_error"])
    assert len(found["convolutions"]) == 3
    assert (worst["node"], worst["products"]) == (MASK, 12348)
    assert found["in_float"]["psnr_min_db"] > found["in_half"]["psnr_min_db"] + 0.5
    # All but the worst one: what is left costs less than all three did.
    assert found["excluded"][0]["count"] == 1
    assert found["excluded"][0]["loss"]["psnr_min_db"] > found["in_half"]["psnr_min_db"]
    assert found["complete"]


def test_it_is_kept_whole_and_read_by_people(report, tmp_path):
    folder = report.write(tmp_path)
    assert "-drift-half-sums-fp16" in folder.name
    assert json.loads((folder / "drift.json").read_text()) == report.content
    text = (folder / "drift.txt").read_text()
    assert text == report.text
    assert text.index(MASK) < text.index("/decoder/fc/Conv")
    assert "12,348" in text


def test_parting_long_sums_helps_and_what_is_kept_in_fp32_sums_in_float(suite):
    mixed = PRECISIONS["fp16-mixed"]
    losses = []
    with torch.inference_mode():
        for split_k in (False, True):
            products, render = half_convolutions(suite, replace(mixed, split_k=split_k))
            assert LAST not in products
            assert (max(products.values()) > 8192) is not split_k
            losses.append(measure_drift(render((), [0]), render(products, [0])).psnr_min)
    assert losses[1] > losses[0] + 1


def test_what_overflows_is_named_before_all_that_only_rounds():
    exact = torch.full((1, 3, 2, 2), 0.5)
    rounded, overflown = exact + 0.25, exact.clone()
    overflown[:, 0] = torch.nan
    overflown[:, 1] = torch.inf
    assert squared_error(rounded, exact) == 0.0625
    assert squared_error(overflown, exact) == pytest.approx(2 / 3), "and a report can hold it"


def test_only_precisions_of_half_are_taken(suite):
    with pytest.raises(ValueError, match="'bf16' computes in bfloat16: kernels that sum in half are those of float16"):
        sum_losses(suite, PRECISIONS["bf16"], 1)
