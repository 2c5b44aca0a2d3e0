"""A session's own promises: what a run records of its conditions, and that a plan is read once."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from reports import Kept

from sadtrt_core import benchmark
from sadtrt_core.benchmark import measure_drift, skipped
from sadtrt_core.config import RunConfig
from sadtrt_core.errors import UserError
from sadtrt_core.left_out import not_measured
from sadtrt_core.measure.drift import Reference
from sadtrt_core.plan import Plan, Quantize, precision_digest, write_plan
from sadtrt_core.precision import PRECISIONS
from sadtrt_core.progress import make_console
from sadtrt_core.records.measurements import Drift
from sadtrt_core.records.picture import faces
from sadtrt_core.records.schema import Record
from sadtrt_core.records.store import read_run
from sadtrt_core.renderer.renderer import Renderer
from sadtrt_core.report.metrics import METRICS
from sadtrt_core.session import Session

PLAN = 'format = "sadtrt plan 1"\nbase = "float16"\nwhy = "to try"\n[[keep]]\nnodes = ["{}"]\nwhy = "to try"\n'


def make_session(renderer: Renderer, folder: Path, **options: object) -> Session:
    given = {"weights": "seeded", "frames": 1, "device": "cpu", "grid_sample": "native", "cache": folder}
    made = Session(RunConfig(**{**given, "results": folder / "results", **options}))
    made.__dict__["renderer"] = renderer
    return made


def recorded_options(session: Session, precision: str) -> dict[str, str]:
    session.writer.add(skipped(session.case("generator", "onnxruntime", precision), "not of interest"))
    return read_run(session.writer.folder).options


def test_a_plan_is_read_once_and_the_record_says_which_it_was(tiny_256: Renderer, tmp_path: Path) -> None:
    plan = tmp_path / "mine.toml"
    plan.write_text(PLAN.format("coordinates"))
    first = make_session(tiny_256, tmp_path, precisions=(str(plan),))
    first.check()
    plan.write_text(PLAN.format("/decoder/*"))
    assert first.job(first.case("generator", "onnxruntime", str(plan))).precision.keep_coordinates
    second = make_session(tiny_256, tmp_path, precisions=(str(plan),))
    second.check()
    before, after = (recorded_options(session, str(plan))["plan mine"] for session in (first, second))
    assert before != after


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_a_row_that_quantizes_nothing_is_left_out(tiny: Renderer, tmp_path: Path, precision: str) -> None:
    session = make_session(tiny, tmp_path, precisions=(precision,))
    missing = {
        stage: not_measured(session, session.case(stage, "onnxruntime", precision), timed=True)
        for stage in ("keypoints", "mapping", "appearance", "motion", "warp", "decode", "generator")
    }
    assert [stage for stage, why in missing.items() if why is None] == ["decode", "generator"]
    assert f"{precision} quantizes no convolution of the stage motion" in str(missing["motion"])


def test_int8_without_the_norm_operator_is_left_out_on_the_tensorrt_that_spoils_it(
    tiny: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = make_session(tiny, tmp_path, precisions=("int8",))
    monkeypatch.setattr(Session, "unavailable", lambda self, case: None)
    monkeypatch.setattr(Session, "on_gpu", True)
    case = session.case("decode", "tensorrt", "int8")
    lost = "TensorRT 8.6.0 in int8 lose around the decoder's norms"
    for version, flags, reason in (("8.6.0", {}, lost), ("10.13.3", {"STRONGLY_TYPED": 1}, None)):
        flag = SimpleNamespace(**flags)
        trt = SimpleNamespace(__version__=version, __name__="tensorrt", NetworkDefinitionCreationFlag=flag)
        monkeypatch.setattr("sadtrt_core.engine.tensorrt_api.tensorrt_module", lambda trt=trt: trt)
        missing = not_measured(session, case, timed=True)
        assert missing is None if reason is None else reason in str(missing)
    mixed = session.case("decode", "tensorrt", "fp16-mixed")
    assert not_measured(session, mixed, timed=True) is None


@pytest.mark.parametrize(
    ("capability", "flags", "named", "left_out"),
    [
        ((9, 0), {}, (), True),
        ((9, 0), {}, ("int8",), False),
        ((8, 9), {}, (), False),
        ((9, 0), {"STRONGLY_TYPED": 1}, (), False),
        ((9, 0), {}, ("plan",), False),
    ],
)
def test_int8_is_left_out_where_it_takes_longer_than_what_loses_less(
    tiny: Renderer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capability: tuple[int, int],
    flags: dict[str, int],
    named: tuple[str, ...],
    left_out: bool,
) -> None:
    asked = "int8"
    if named == ("plan",):
        asked = str(tmp_path / "mine.toml")
        node = "/decoder/G_middle_0/conv_0/Conv"
        write_plan(Plan("mine", "float16", "by hand", quantize=Quantize("int8", (node,), "by hand")), Path(asked))
        named = (asked,)
    session = make_session(tiny, tmp_path, precisions=named)
    monkeypatch.setattr(Session, "unavailable", lambda self, case: None)
    monkeypatch.setattr(Session, "on_gpu", True)
    monkeypatch.setattr(Session, "grid_sample", "plugin")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    flag = SimpleNamespace(**flags)
    trt = SimpleNamespace(__version__="8.6.0", __name__="tensorrt", NetworkDefinitionCreationFlag=flag)
    monkeypatch.setattr("sadtrt_core.engine.tensorrt_api.tensorrt_module", lambda: trt)
    missing = not_measured(session, session.case("decode", "tensorrt", asked), timed=True)
    assert (missing is not None) == left_out
    assert missing is None or "has no convolutions in eight bits for this generation" in str(missing)


def test_the_number_of_threads_is_recorded_where_it_sets_the_times(tiny_256: Renderer, tmp_path: Path) -> None:
    options = recorded_options(make_session(tiny_256, tmp_path), "fp32")
    assert options["threads"] == str(torch.get_num_threads())
    assert not [name for name in options if name.startswith("plan ")]


def test_variables_that_override_the_arithmetic_are_recorded(
    tiny_256: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "NVIDIA_TF32_OVERRIDE" not in recorded_options(make_session(tiny_256, tmp_path), "fp32")
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert recorded_options(make_session(tiny_256, tmp_path), "fp32")["NVIDIA_TF32_OVERRIDE"] == "0"


def test_a_reference_as_far_off_as_tf32_judges_nothing() -> None:
    def against(decibels: float) -> Reference:
        return Reference(torch.zeros(1, 3, 8, 8), True, Drift((decibels,), (1.0,), (0,), (False,)))

    assert against(110.0).sound
    assert not against(90.0).sound
    # What is far below its own error may be judged all the same.
    assert against(91.0).good_for_db == 81.0
    assert Reference(torch.zeros(1, 3, 8, 8), False, against(110.0).against_float64).good_for_db == -math.inf


@pytest.mark.parametrize(("error", "judged"), [(1e-3, True), (3e-5, False)])
def test_a_weak_reference_judges_what_is_far_below_it(
    tiny_256: Renderer, tmp_path: Path, error: float, judged: bool
) -> None:
    session = make_session(tiny_256, tmp_path)
    frames = session.reference.frames
    weak = Drift((91.0,), (1.0,), (0,), (False,))
    session.__dict__["reference"] = Reference(frames, True, weak, "a frame")
    case = session.case("generator", "onnxruntime", "fp32")
    if judged:
        record, _ = measure_drift(session, case, lambda _: frames + error)
        assert "judged by a weak reference, good up to 81.0 dB: repeatable, 91.0 dB against" in "; ".join(record.notes)
    else:
        with pytest.raises(UserError, match=r"cannot judge 90\.5 dB, only up to 81\.0"):
            measure_drift(session, case, lambda _: frames + error)
    # The reference's own row says how weak it is.
    record, _ = measure_drift(session, session.case("generator", "pytorch", "fp32"), lambda _: frames)
    assert "91.0 dB against float64 in a frame where 100 are needed" in "; ".join(record.notes)


def test_a_reference_with_nan_in_any_frame_judges_no_row(tiny_256: Renderer, tmp_path: Path) -> None:
    session = make_session(tiny_256, tmp_path, frames=3)
    first, source = session.frame_inputs()[0], session.frame_inputs()[2]["source_image"]
    session.frame_inputs()[2]["source_image"] = source.clone().fill_(math.nan)
    session._frames["generator"] = [first, session.frame_inputs()[2]]
    reference = session.reference
    assert (reference.good_for_db, reference.against_float64) == (-math.inf, None)
    words = "the reference cannot judge anything: it holds NaN or infinity in 1 of 2 frames, frame 1 first"
    for precision in ("fp32", "fp16"):
        with pytest.raises(UserError, match=words):
            measure_drift(session, session.case("generator", "onnxruntime", precision), lambda _: reference.frames)


def test_the_frames_own_rendering_is_judged_by_the_generators(tiny_256: Renderer, tmp_path: Path) -> None:
    session = make_session(tiny_256, tmp_path, frames=2, stages=("frame",))
    inputs = session.frame_inputs("frame")
    assert [sorted(frame) for frame in inputs] == [["feature_3d", "kp_driving", "kp_source"]] * 2
    assert inputs[0]["feature_3d"].data_ptr() == inputs[1]["feature_3d"].data_ptr(), "a source is encoded once"
    case = session.case("frame", "pytorch", "fp16")
    record, drift = measure_drift(session, case, lambda runner: runner.frames(inputs))
    assert record.key.stage == "frame"
    assert 30 < drift.psnr_min < 110
    pictures = session.writer.folder / "frames"
    assert (pictures / f"{case.slug}.png").exists()
    # In a run of both there are pictures of the generator alone.
    both = make_session(tiny_256, tmp_path / "both", frames=2)
    measure_drift(both, case, lambda _: both.reference.frames)
    assert not (both.writer.folder / "frames").exists()


@pytest.fixture
def portraits(tmp_path: Path) -> Path:
    folder = tmp_path / "portraits"
    folder.mkdir()
    for shade, name in enumerate(("b.png", "a.png", "c.png")):
        Image.new("RGB", (64, 48), (80 * shade, 120, 60)).save(folder / name)
    (folder / "README.md").write_text("whose faces these are")
    return folder


def test_drift_is_over_every_face_and_says_which_is_the_worst(
    tiny_256: Renderer, portraits: Path, tmp_path: Path
) -> None:
    session = make_session(tiny_256, tmp_path, frames=2, source_images=(portraits, portraits / "a.png"))
    assert [workload.name for workload in session.workloads] == ["a.png", "b.png", "c.png"]
    assert session.workload.name == "a.png"
    assert len(session.frame_inputs()) == 6
    recorded = session.recorded_workload
    assert (recorded.name, recorded.frames) == ("a.png and 2 more", 2)
    alone = make_session(tiny_256, tmp_path, frames=2, source_images=(portraits / "a.png",)).recorded_workload
    assert alone.digest == session.workload.digest != recorded.digest
    frames = torch.rand((6, 3, 256, 256), generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    session.__dict__["reference"] = Reference(frames, True, Drift((110.0,), (1.0,), (0,), (False,)))
    worse = torch.tensor([1e-3, 1e-3, 2e-3, 0.01, 1e-2, 3e-3])[:, None, None, None]
    drift = session.drift(frames + worse)
    assert [(round(psnr), name) for psnr, name in faces(drift)] == [(40, "b.png"), (40, "c.png"), (60, "a.png")]
    record = Record(session.case("generator", "pytorch", "fp16"), "measured", drift=drift)
    shown = {name: METRICS[name].text(record, None) for name in ("psnr_min", "worst_face", "median_face_db")}
    assert shown == {"psnr_min": "40.0", "worst_face": "b.png", "median_face_db": "40.0"}
    assert METRICS["worst_frame"].text(record, None) == "1", "counted within its face"
    assert Record.from_json(record.to_json()) == record


def test_source_pictures_are_bounded_and_an_empty_folder_is_refused(
    tiny_256: Renderer, portraits: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="3 source pictures make more than 2000 frames"):
        make_session(tiny_256, tmp_path, frames=1000, source_images=(portraits,)).check()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty is a folder without pictures"):
        make_session(tiny_256, tmp_path, source_images=(tmp_path / "empty",)).check()


def test_on_a_cpu_one_small_frame_is_checked_and_said(tiny_256: Renderer, tmp_path: Path) -> None:
    reference = make_session(tiny_256, tmp_path, frames=3).reference
    assert reference.frames.shape == (3, 3, 256, 256)
    assert len(reference.against_float64.psnr_db) == 1
    assert "a frame of 128 pixels" in reference.sentence()
    assert reference.sound


def test_a_slow_reference_says_how_long_it_takes(
    tiny_256: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Seconds until the first frame, which loads, say nothing of the others.
    clock = itertools.chain([0.0, 100.0, 130.0, 160.0], itertools.repeat(160.0))
    monkeypatch.setattr("sadtrt_core.measure.drift.time.monotonic", lambda: next(clock))
    session = make_session(tiny_256, tmp_path, frames=3)
    session.report = said = Kept()
    assert session.reference.sound
    assert said.lines[0] == "rendering the reference: 3 frames, about 30 s to go"
    assert "a frame of 128 pixels" in said.lines[1]


def test_without_a_number_of_frames_there_are_32(tiny_256: Renderer, tmp_path: Path) -> None:
    assert make_session(tiny_256, tmp_path, frames=None).workload.kp_driving.shape[0] == 32


@pytest.mark.parametrize("weights", ["/home/somebody/second.safetensors", "second.safetensors"])
def test_the_record_names_a_weights_file_without_its_folder(tiny_256: Renderer, tmp_path: Path, weights: str) -> None:
    assert recorded_options(make_session(tiny_256, tmp_path, weights=weights), "fp32")["weights"] == (
        "second.safetensors"
    )


def test_a_precision_s_digest_is_what_it_computes() -> None:
    from dataclasses import replace

    fp16 = PRECISIONS["fp16"]
    assert precision_digest(replace(fp16, name="mine", why="because")) == precision_digest(fp16)
    assert precision_digest(replace(fp16, keep_picture=True)) != precision_digest(fp16)


def test_a_runner_that_loads_no_plugin_takes_the_native_form_where_the_plugin_is_built(
    tiny_256: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sadtrt_core.session.plugin_absence", lambda: None)
    monkeypatch.setattr(Session, "on_gpu", True)
    session = make_session(tiny_256, tmp_path, grid_sample="auto")
    forms = {runner: session.case("warp", runner, "fp32").grid_sample for runner in ("tensorrt", "onnxruntime")}
    assert forms == {"tensorrt": "plugin", "onnxruntime": "native"}
    assert session.plain_job(session.case("decode", "onnxruntime", "fp32")).grid_sample == "native"
    asked = make_session(tiny_256, tmp_path, grid_sample="plugin")
    assert asked.case("warp", "onnxruntime", "fp32").grid_sample == "plugin"


def test_no_engine_is_built_that_is_not_measured(
    tiny: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = make_session(tiny, tmp_path)
    monkeypatch.setattr(Session, "unavailable", lambda self, case: None)
    monkeypatch.setattr(benchmark, "engine_job", lambda job: f"{job.stage.name} {job.precision.name}")
    built: list[str] = []

    def build(jobs: list[str], processes: int, console: object) -> tuple[None, ...]:
        built.extend(jobs)
        return (None,) * len(jobs)

    monkeypatch.setattr(benchmark, "build_engines", build)
    asked = [("decode", "fp16"), ("motion", "int8"), ("warp", "fp8")]
    cases = [session.case(stage, "tensorrt", precision) for stage, precision in asked]
    benchmark.prebuild(session, cases, make_console())
    assert built == ["decode fp16"]
