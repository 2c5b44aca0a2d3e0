"""`sadtrt drift --half-sums`: the convolution whose sums lose the picture is named, and parting its sums helps."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from sadtrt_core.accuracy.drift import write_report
from sadtrt_core.accuracy.tables import as_text, renderables

from sadtrt_core.accuracy.accumulation import SummedGraph, squared_error, sum_losses
from sadtrt_core.accuracy.findings import SumsReport
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
    """Of fp16-mixed with its sums whole, over three convolutions only: each more takes a third of a second."""
    graphs = SummedGraph.__init__

    def few(self, *given):
        graphs(self, *given)
        self.halves = {name: self.halves[name] for name in ("/decoder/fc/Conv", MASK, "/decoder/up_1/conv_1/Conv")}

    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(SummedGraph, "__init__", few)
        yield sum_losses(suite, replace(PRECISIONS["fp16-mixed"], split_k=False), 1)


def test_the_longest_sum_is_named_first(report):
    assert report.ranked()[0].node == MASK
    assert report.ranked()[0].products == 12348
    assert report.in_float.decibels > report.in_half.decibels + 0.5
    # All but the worst one: what is left costs less than all three did.
    assert report.excluded[0].count == 1
    assert report.excluded[0].loss.decibels > report.in_half.decibels
    assert report.complete


def test_it_is_kept_whole_and_read_by_people(report, tmp_path):
    folder = write_report(report, tmp_path)
    assert "-drift-half-sums-fp16-mixed" in folder.name
    assert SumsReport.from_json(json.loads((folder / "drift.json").read_text())) == report
    text = (folder / "drift.txt").read_text()
    assert text == as_text(renderables(report))
    assert text.index(MASK) < text.index("/decoder/fc/Conv")
    assert "12,348" in text


def test_parting_long_sums_helps_and_what_is_kept_in_fp32_sums_in_float(suite):
    mixed = PRECISIONS["fp16-mixed"]
    with torch.inference_mode():
        whole, parted = (SummedGraph(suite, replace(mixed, split_k=short)) for short in (False, True))
        assert LAST not in whole.halves
        assert whole.halves[MASK] > 8192 >= max(parted.halves.values())
        losses = [
            measure_drift(graph.pictures({}, [0]), graph.pictures(dict.fromkeys(graph.halves), [0])).psnr_min
            for graph in (whole, parted)
        ]
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
