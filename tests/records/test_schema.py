from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from record_examples import drift, key, latency, measured, run_of, runs

from sadtrt_core.case import Case
from sadtrt_core.errors import UserError
from sadtrt_core.records.measurements import Drift, Latency, Resources, Telemetry
from sadtrt_core.records.schema import Record, Run, Weights


@settings(max_examples=60, deadline=None)
@given(runs)
def test_json_gives_back_the_same_run(run: Run) -> None:
    text = json.dumps(run.to_json(), allow_nan=False)
    assert Run.from_json(json.loads(text)) == run


def test_keys_sort_and_name_themselves() -> None:
    assert sorted([key("warp"), key("decode", batch=4), key("decode")])[0] == key("decode")
    assert key().label() == "generator/tensorrt/fp16/native/batch 1"
    assert Case("mapping", "pytorch", "fp32", "none", 1).label() == "mapping/pytorch/fp32/batch 1"


def test_latency_medians_come_from_the_samples() -> None:
    made = Latency((3.0, 1.0, 2.0), (np.float32(4.0), 6.0), 5, True)
    assert made.device_ms_median == 2.0
    assert made.host_ms_median == 5.0
    assert made.judged_ms == (3.0, 1.0, 2.0)
    on_cpu = dataclasses.replace(made, device_ms=None)
    assert on_cpu.device_ms_median is None
    assert on_cpu.judged_ms == (4.0, 6.0)


def test_identical_frames_count_at_the_ceiling() -> None:
    made = drift((math.inf, 60.0), lsb=(0, 3))
    assert made.psnr_db == (None, 60.0)
    assert made.psnr_min == 60.0
    assert made.psnr_mean == (120.0 + 60.0) / 2
    assert made.worst_frame == 1
    assert drift((None, 150.0)).psnr_min == 120.0


def test_a_nan_frame_becomes_null_with_its_flag_and_is_the_worst() -> None:
    made = Drift((80.0, math.nan), (0.99, math.nan), (1, 255), (False, True), flicker_db=(math.nan,))
    assert made.psnr_db == (80.0, None)
    assert made.has_non_finite
    assert made.worst_frame == 1
    assert all(math.isnan(value) for value in (made.psnr_min, made.psnr_mean, made.ssim_min, made.flicker_min or 0))
    assert "NaN" not in json.dumps(made.to_json(), allow_nan=False)


def test_numpy_scalars_become_plain_numbers() -> None:
    made = Drift((np.float32(50),), (np.float64(0.5),), (np.int64(3),), (np.bool_(False),))
    assert Drift.from_json(json.loads(json.dumps(made.to_json()))) == made
    assert Resources(np.float32(3), None).to_json()["gpu_memory_mb"] == 3.0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: drift((math.nan, 70.0)), "psnr_db is nan for a frame that is not marked non-finite"),
        (lambda: drift((70.0,), lsb=(1, 2)), "1 frames but 2 values of max_lsb"),
        (lambda: Drift((), (), (), ()), "at least one frame"),
        (lambda: drift(ssim=(math.nan, 1.0)), "ssim must be a finite number"),
        (lambda: Latency(None, (), 0, True), "host_ms needs at least one sample"),
        (lambda: Latency((), (1.0,), 0, True), "device_ms needs at least one sample"),
        (lambda: Latency(None, (math.inf,), 0, True), "host_ms must be a finite number"),
        (lambda: Latency(None, (-1.0,), 0, True), "must not be negative"),
        (lambda: Latency(None, (1e10,), 0, True), "at most 1e.09 ms"),
        (lambda: drift((-1e9, 70.0)), "must lie within 1000 dB"),
        (lambda: latency(disturbed=(60,)), "disturbed names a sample outside the 60"),
        (lambda: latency(late=(60,)), "late names a sample outside the 60"),
        (lambda: latency(visits=(1, 20)), "visits should begin at sample 0 and end within the 60"),
        (lambda: latency(visits=(0, 60)), "visits should begin at sample 0 and end within the 60"),
        (lambda: latency(visits=(0, 20, 20)), "each first sample once, in order"),
        (lambda: latency(visits=(0, 30, 20)), "each first sample once, in order"),
        (lambda: Resources(-1.0, None), "gpu_memory_mb must not be negative"),
        (lambda: Telemetry((3.0, 2.0, 1.0), None, None, None), "minimum, median, maximum"),
        (lambda: Record(key(), "skipped"), "gives no reason"),
        (lambda: Record(key(), "failed", " "), "gives no reason"),
        (lambda: Record(key(), "measured"), "neither latency nor drift"),
        (lambda: Record(key(), "skipped", "no GPU", latency=latency()), "holds a measurement"),
        (lambda: Case("", "a", "b", "none", 1), "stage of a case"),
        (lambda: Case("a\nb", "a", "b", "none", 1), "stage of a case"),
        (lambda: key(batch=0), "at least 1"),
        (lambda: run_of(measured(), measured()), "twice"),
        (lambda: run_of(measured(), weights=Weights("seeded", "a", "b")), "not meaningful"),
        (lambda: run_of(started_utc="yesterday"), "UTC time like"),
        (lambda: run_of(finished_utc=None), "when it finished"),
        (lambda: run_of(schema_version=2), "schema version is 2"),
    ],
)
def test_values_that_contradict_themselves_are_refused(make: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data.update(surprise=1), "unknown field 'surprise'"),
        (lambda data: data.pop("weights"), "lacks the field 'weights'"),
        (lambda data: data["records"][0]["key"].update(batch=True), r"records\[0\].key.batch should be a whole number"),
        (lambda data: data["records"][0]["key"].update(batch=1.0), "should be a whole number but is 1.0"),
        (lambda data: data["weights"].update(kind="guessed"), "weights.kind should be one of 'checkpoint'"),
        (lambda data: data["records"][0]["latency"].update(host_ms=["1"]), r"host_ms\[0\] should be a number"),
        (lambda data: data["records"][0]["latency"].update(host_ms=[10**400]), "not a finite number"),
        (lambda data: data.update(records={}), "records should be a list"),
        (lambda data: data["records"][0].update(status="skipped"), r"records\[0\] is not valid: .* gives no reason"),
        (lambda data: data.update(environment=None), "environment should be an object"),
        (lambda data: data.update(options={"a": 1}), "should be text but is 1"),
        (lambda data: data.update(options={"a\x1b[31m": "1"}), "holds a character that is no text"),
        (lambda data: data["environment"].update(cpu="a\ud800"), "holds a character that is no text"),
        (lambda data: data["records"][0]["key"].update(batch=10**30), "which no count comes to"),
    ],
)
def test_json_of_another_shape_is_refused_with_the_field(change: object, words: str) -> None:
    data = run_of(measured()).to_json()
    change(data)
    with pytest.raises(UserError, match=words):
        Run.from_json(data)


def test_a_record_from_before_a_figure_was_recorded_is_read_without_it() -> None:
    made = run_of(measured(telemetry=Telemetry(None, None, None, None, others_percent=3.0)))
    data = made.to_json()
    for name in ("waited_percent", "yardstick_ms"):
        del data["records"][0]["telemetry"][name]
    assert Run.from_json(data) == made


def test_a_record_from_before_there_were_visits_is_one_stretch() -> None:
    made = run_of(measured())
    data = made.to_json()
    del data["records"][0]["latency"]["visits"]
    assert Run.from_json(data) == made
    assert made.records[0].latency.visits == ()
    assert [len(times) for times in latency(visits=(0, 20, 40)).repetitions()] == [20, 20, 20]
    assert [len(times) for times in latency().repetitions()] == [60]
