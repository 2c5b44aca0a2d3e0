"""Runs of several GPUs in one table: what it holds, who is the cheapest, what does not compare."""

from __future__ import annotations

import dataclasses

import pytest
from record_examples import ENVIRONMENT, WORKLOAD, Weights, drift, key, latency, measured, run_of
from typer.testing import CliRunner

from sadtrt_core.cli import app
from sadtrt_core.errors import UserError
from sadtrt_core.records.measurements import Sustained
from sadtrt_core.records.store import write_run
from sadtrt_core.report.fleet import fleet_offers, fleet_page, fleet_sentences, fleet_table, parse_prices


def run_on(gpu, *rows, **changes):
    """A run of generators with (precision, ms, dB) on a GPU."""
    records = [
        measured(key(precision=name), latency=latency(ms, ms, seed=index), drift=drift((psnr, psnr + 1)))
        for index, (name, ms, psnr) in enumerate(rows)
    ]
    return run_of(*records, environment=dataclasses.replace(ENVIRONMENT, gpu=gpu), **changes)


L4 = run_on("NVIDIA L4", ("fp32", 100.0, 110.0), ("fp16", 20.0, 45.0), ("fp16-mixed", 18.0, 75.0))
L40S = run_on("NVIDIA L40S", ("fp32", 30.0, 110.0), ("fp16-mixed", 7.0, 75.0))
H100 = run_on("NVIDIA H100 80GB HBM3", ("fp32", 20.0, 110.0), ("fp16-mixed", 4.0, 75.0))
PRICES = ["L4=0.70", "L40S=2.00", "H100=3.60"]


def test_a_row_that_another_of_its_gpu_beats_is_left_out_and_cost_is_price_times_time():
    offers = fleet_offers([L4, H100], parse_prices(PRICES[:1] + PRICES[2:]))
    assert [(offer.gpu, offer.record.key.precision) for offer in offers] == [
        ("NVIDIA L4", "fp16-mixed"),
        ("NVIDIA L4", "fp32"),
        ("NVIDIA H100 80GB HBM3", "fp16-mixed"),
        ("NVIDIA H100 80GB HBM3", "fp32"),
    ]
    # 1,000 frames of 4 ms are 4 s of 3.60 an hour.
    assert offers[2].cost == pytest.approx(0.004, rel=0.01)
    assert offers[0].cost == pytest.approx(0.0035, rel=0.01)
    table = fleet_table(offers)
    assert table.headings[-2:] == ("price an hour", "1,000 frames")
    assert table.breaks == {2}
    assert fleet_page(offers, ()).count('class="point"') == len(offers)


def test_pictures_of_two_stages_do_not_compare():
    frames = [dataclasses.replace(one, key=dataclasses.replace(one.key, stage="frame")) for one in H100.records]
    with pytest.raises(UserError, match="give runs of one stage"):
        fleet_offers([L4, dataclasses.replace(H100, records=tuple(frames))], {})


def test_the_cheapest_is_another_than_the_fastest_and_changes_with_the_asked_picture():
    runs = [L4, L40S, H100]
    offers = fleet_offers(runs, parse_prices(PRICES))
    fastest, cheapest = fleet_sentences(runs, offers, 60)
    assert fastest.startswith("fastest at 60 dB: NVIDIA H100 80GB HBM3, tensorrt fp16-mixed")
    # A price of L4 is none of L40S, whose 7 ms would else cost least.
    assert cheapest.startswith("cheapest at 60 dB: NVIDIA L4, tensorrt fp16-mixed")
    assert fleet_sentences(runs, offers, 100)[1].startswith("cheapest at 100 dB: NVIDIA L40S, tensorrt fp32")
    assert fleet_sentences(runs, offers, 130) == ("no row holds 130 dB: the best has 110.0",)
    unpriced = fleet_sentences(runs, fleet_offers(runs, parse_prices(PRICES[:1])), 60)
    assert unpriced[-1] == "no --price was given for NVIDIA L40S, NVIDIA H100 80GB HBM3"


def test_a_frame_costs_the_time_until_the_next_one_not_the_device_s_alone():
    """The kernels of an eager row take 5 ms, and the GPU waits 15 ms for the host to launch them."""
    eager = measured(key(precision="fp16", runner="pytorch"), latency=latency(5.0, 20.0), drift=drift((75.0, 76.0)))
    graph = measured(key(), latency=latency(6.0, 6.1), drift=drift((75.0, 76.0)), sustained=Sustained(100, 0.65))
    (offer,) = fleet_offers([run_of(eager, graph)], {"H200": 3.6})
    assert (offer.record, offer.clock, offer.ms) == (graph, "back to back", 6.5)
    assert offer.cost == pytest.approx(0.0065)
    (alone,) = fleet_offers([run_of(eager)], {"H200": 3.6})
    assert (alone.clock, alone.ms) == ("host", pytest.approx(20.0, rel=0.01))
    assert fleet_table((alone,)).rows[0][5] == f"{1000 / alone.ms:.1f}"


def test_a_row_that_failed_is_no_offer_and_the_demo_renderer_none_beside_a_full_one():
    failed = [dataclasses.replace(one, status="failed", reason="CUDA error") for one in L4.records[2:]]
    offers = fleet_offers([dataclasses.replace(L4, records=(*L4.records[:2], *failed))], {})
    assert [offer.record.key.precision for offer in offers] == ["fp16", "fp32"]
    small = dataclasses.replace(L4, weights=Weights("demo", "demo", "d8"))
    with pytest.raises(UserError, match="the small demo renderer was measured on NVIDIA L4, a full-size one elsewhere"):
        fleet_offers([small, H100], {})
    assert len(fleet_offers([small], {})) == 2


def test_what_does_not_compare_is_said_or_refused():
    other = dataclasses.replace(H100, weights=Weights("fitted", "mine", "other"), complete=False, finished_utc=None)
    said = fleet_sentences([L4, other], fleet_offers([L4, other], {}), 60)
    assert "the runs differ in more than the GPU: weights" in said
    assert "the run of NVIDIA H100 80GB HBM3 was interrupted: rows are missing" in said
    newer = dataclasses.replace(
        H100,
        options={**H100.options, "optimization_level": "3"},
        records=tuple(dataclasses.replace(one, benchmark_version=one.benchmark_version + 1) for one in H100.records),
    )
    said = fleet_sentences([L4, newer], fleet_offers([L4, newer], {}), 60)
    assert "the runs differ in more than the GPU: benchmark version, builder level" in said
    large = dataclasses.replace(H100, workload=dataclasses.replace(WORKLOAD, size=512))
    with pytest.raises(UserError, match="pictures of several sizes"):
        fleet_offers([L4, large], {})
    with pytest.raises(UserError, match="--price A100 is the price of no run here"):
        fleet_offers([L4, H100], {"A100": 2.0})


@pytest.mark.parametrize("text", ["L4", "=0.7", "L4=", "L4=free", "L4=-1", "L4=0", "L4=nan"])
def test_a_price_is_a_gpu_and_a_number(text):
    with pytest.raises(UserError, match="is no price an hour of a GPU"):
        parse_prices([text])


def test_the_command_shows_several_gpus_in_one_table_and_writes_the_page(tmp_path):
    files = []
    for run in (L4, H100):
        files.append(tmp_path / f"{run.environment.gpu.split()[1]}.json")
        write_run(run, files[-1])
    page = tmp_path / "fleet.html"
    words = ["--price", "L4=0.70", "--price", "H100=3.60", "--html", str(page)]
    result = CliRunner().invoke(app, ["report", *map(str, files), *words])
    assert result.exit_code == 0, result.output
    assert "cheapest at 60 dB: NVIDIA L4" in result.output
    assert "frames a second" in result.output
    text = page.read_text()
    assert text.count("<tr") == 5
    assert text.count('class="point"') == 4
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    refused = CliRunner().invoke(app, ["report", str(files[0]), "--price", "L4=0.70"])
    assert refused.exit_code == 2
    assert "runs of different GPUs" in refused.output.replace("\n", " ")
