"""Interleaved comparison: the order of turns, drift that hits both sides alike, other checkouts, and refusals."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from reports import Kept
from typer.testing import CliRunner

from sadtrt_core.benchmark import BENCHMARK_VERSION
from sadtrt_core.case import Case
from sadtrt_core.cli import app
from sadtrt_core.codec import json_digest
from sadtrt_core.compare.compare import compare_interleaved, compare_pictures, compare_sides
from sadtrt_core.compare.sides import LocalSide, Samples, parse_side, question, read_question, remote_side
from sadtrt_core.config import RunConfig
from sadtrt_core.engine import cache as engine_cache
from sadtrt_core.engine.job import parse_file_name
from sadtrt_core.errors import UserError
from sadtrt_core.measure.timing import TimingPlan
from sadtrt_core.runners import tensorrt
from sadtrt_core.runners.pytorch import PyTorchRunner
from sadtrt_core.session import Session
from sadtrt_core.stats import paired_ratio

ROOT = Path(__file__).parents[2]
MAPPING = ["--stage", "mapping", "--weights", "seeded", "--device", "cpu", "--seconds", "0.2"]


class Scripted:
    """A side whose samples take `level` ms, times how slow the machine is by now."""

    call_seconds = 0.01

    def __init__(self, name, level, log, slowness, on_device=False):
        self.name, self.level, self.log, self.slowness, self.on_device = name, level, log, slowness, on_device

    def sample(self, count):
        self.log.append(self.name)
        times = tuple(self.level * next(self.slowness) for _ in range(count))
        return Samples(times, times if self.on_device else None)


def compared(a_level, b_level, slowness=None, **options):
    log: list[str] = []
    slowness = slowness or itertools.repeat(1.0)
    outcome = compare_interleaved(
        Scripted("A", a_level, log, slowness, **options), Scripted("B", b_level, log, slowness, **options), 1.0
    )
    return outcome, "".join(log)


def test_sides_are_sampled_a_b_b_a():
    outcome, log = compared(10.0, 10.0)
    assert log == "ABBA" * outcome.rounds
    assert outcome.rounds >= 8


def test_a_machine_that_slows_down_all_along_shows_no_difference_and_hides_none():
    """Times double in the course of the measurement: A first, then B, would call B 1.5 times slower."""
    slowing = (1.0 + i / 1000 for i in itertools.count())
    outcome, _ = compared(10.0, 10.0, slowing)
    assert outcome.ratio == pytest.approx(1.0, abs=0.01)
    assert outcome.interval.low <= 1.0 <= outcome.interval.high
    slowing = (1.0 + i / 1000 for i in itertools.count())
    outcome, _ = compared(10.0, 10.5, slowing)
    assert outcome.interval.low > 1.03
    assert outcome.interval.high < 1.07


def test_the_device_clock_is_used_where_both_have_it():
    assert compared(10.0, 20.0, on_device=True)[0].clock == "device"
    assert compared(10.0, 20.0)[0].clock == "host"


def test_the_sentence_says_what_may_be_concluded():
    def said(a_level, b_level):
        (sentence,) = compared(a_level, b_level)[0].sentences("a", "b")
        return sentence

    assert said(10.0, 5.0) == "b is 2 times as fast as a (95%: 2 to 2)"
    assert said(5.0, 10.0).startswith("b takes 2 times as long as a")
    assert said(5.0, 5.0).startswith("no difference shown: b takes 1 to 1 times as long")


def test_rounds_must_match():
    with pytest.raises(ValueError, match="rounds should match"):
        paired_ratio([[1.0, 2.0]], [[1.0, 2.0], [1.0, 2.0]])
    with pytest.raises(ValueError, match="rounds should match"):
        paired_ratio([], [])


def test_sides_are_parsed_with_their_defaults():
    side = parse_side("pytorch", "mapping", 2)
    assert (side.case, side.label) == (Case("mapping", "pytorch", "fp32", "auto", 2), "pytorch:fp32")
    side = parse_side("onnxruntime:fp16-mixed:native", "warp", 1)
    assert side.case == Case("warp", "onnxruntime", "fp16-mixed", "native", 1)
    assert side.label == "onnxruntime:fp16-mixed:native"


@pytest.mark.parametrize(
    ("a", "words"),
    [
        ("pytorch:", "should be runner[:precision[:grid_sample]]"),
        ("pytorch:fp32:native:more", "should be runner[:precision[:grid_sample]]"),
        ("caffe", "runner 'caffe' is not known: expected one of pytorch"),
        ("pytorch:fp7", "precision 'fp7' is not known"),
        ("mine.engine", "is no engine of this harness: its name should be stage-precision-sampling-bN-size-digest"),
        ("pytorch:fp32:cubic", "grid sample 'cubic' is not known"),
        ("pytorch:tf32", "pytorch:tf32 cannot run mapping here: TF32 is arithmetic of NVIDIA GPUs"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(a, words):
    result = CliRunner().invoke(app, ["compare", a, "pytorch:fp32", *MAPPING])
    assert result.exit_code == 2
    assert words in result.output.replace("\n", " ")


def test_two_precisions_are_compared_in_one_process(tmp_path):
    file = tmp_path / "outcome.json"
    result = CliRunner().invoke(app, ["compare", "pytorch:fp32", "pytorch:bf16", *MAPPING, "--json", str(file)])
    assert result.exit_code == 0, result.output
    (outcome,) = json.loads(file.read_text())
    assert (outcome["a"], outcome["b"], outcome["clock"]) == ("pytorch:fp32", "pytorch:bf16", "host")
    assert outcome["interval"]["low"] <= outcome["ratio"] <= outcome["interval"]["high"]
    assert outcome["a_ms"] > 0 < outcome["b_ms"]
    assert outcome["pictures"] is None


def test_a_side_that_does_not_compute_its_stage_is_not_timed(monkeypatch):
    def nothing(runner):
        return {spec.name: torch.zeros(spec.batched(runner.job.batch)) for spec in runner.job.outputs}

    monkeypatch.setattr("sadtrt_core.runners.onnxruntime.OnnxRuntimeRunner.fetch", nothing)
    with_demo = ["--weights", "demo", "--device", "cpu", "--stage", "mapping", "--seconds", "0.1"]
    result = CliRunner().invoke(app, ["compare", "pytorch:fp32", "onnxruntime:fp32", *with_demo])
    assert result.exit_code == 2
    words = " ".join(result.output.split())
    assert "onnxruntime:fp32: what was timed is not the stage mapping: output" in words
    assert "times as fast" not in words


def session(**given):
    return Session(RunConfig(**{"weights": "seeded", "device": "cpu", **given}))


SIDE = parse_side("pytorch", "mapping", 1)


def test_an_engine_of_other_weights_is_not_timed(tmp_path, monkeypatch):
    def of_other_weights(job, engine_file):
        return PyTorchRunner(replace(job, renderer=session().renderer))

    monkeypatch.setattr("sadtrt_core.compare.sides.engine_file_absence", lambda path, job: None)
    monkeypatch.setattr("sadtrt_core.compare.sides.TensorRTRunner", of_other_weights)
    engine = parse_side(str(engine_file(tmp_path)), "mapping", 1)
    with pytest.raises(
        UserError, match=rf"{engine.label}: what was timed is not the stage mapping.*; build the engine"
    ):
        compare_sides(SIDE, engine, session(weights="demo"), None, 0.1)


def changed_checkout(checkout, runner, old, new):
    """A checkout of this project with other words in one of its runners."""
    checkout.mkdir()
    for path in ROOT.iterdir():
        if path.name != "sadtrt_core" and not path.name.startswith("."):
            (checkout / path.name).symlink_to(path)
    package = checkout / "sadtrt_core"
    package.mkdir()
    for path in (ROOT / "sadtrt_core").iterdir():
        if path.name not in ("runners", "__pycache__"):
            (package / path.name).symlink_to(path)
    (package / "runners").mkdir()
    for path in (ROOT / "sadtrt_core" / "runners").glob("*.py"):
        (package / "runners" / path.name).write_text(path.read_text())
    file = package / "runners" / f"{runner}.py"
    assert file.read_text().count(old) == 1
    file.write_text(file.read_text().replace(old, new))
    return checkout


def test_another_checkout_is_sampled_in_a_process_of_its_own(tmp_path):
    """A checkout whose mapping stage sleeps 20 ms more."""
    begin = "    def execute(self) -> None:\n"
    sleeping = begin + '        __import__("time").sleep(0.02)\n'
    checkout = changed_checkout(tmp_path / "other", "pytorch", begin, sleeping)
    found = compare_sides(SIDE, SIDE, session(), checkout, 0.2)
    assert found.pictures is None, "mapping makes none"
    assert found.b_ms >= 20, "the other checkout's code ran, which sleeps at least so long"


def test_another_checkout_that_does_not_compute_its_stage_is_not_timed(tmp_path):
    zeros = ("torch.from_numpy(value)", "torch.zeros(value.shape)")
    checkout = changed_checkout(tmp_path / "other", "onnxruntime", *zeros)
    side = parse_side("onnxruntime", "mapping", 1)
    with pytest.raises(UserError, match="other says: onnxruntime:fp32: what was timed is not the stage mapping"):
        compare_sides(side, side, session(weights="demo"), checkout, 0.1)


@pytest.mark.parametrize(("stage", "shown"), [("generator", True), ("frame", True), ("warp", False)])
def test_stages_that_render_a_frame_show_their_pictures(tiny, tmp_path, stage, shown):
    own = Session(RunConfig(device="cpu", frames=2, cache=tmp_path))
    own.__dict__["renderer"] = replace(tiny, weights=replace(tiny.weights, kind="demo"))
    # Not bf16, whose convolutions take some processors minutes.
    sides = [parse_side(name, stage, 1) for name in ("pytorch:fp32", "onnxruntime:fp32")]
    found = compare_sides(*sides, own, None, 0.05)
    assert (found.pictures is not None) == shown
    assert found.pictures is None or len(found.pictures.psnr_db) == 2


def test_a_checkout_that_cannot_take_part_is_named(tmp_path):
    with pytest.raises(ValueError, match="is no checkout of this project"):
        compare_sides(SIDE, SIDE, session(), tmp_path, 0.2)
    (tmp_path / "sadtrt_core").mkdir()
    (tmp_path / "sadtrt_core" / "__init__.py").touch()
    with pytest.raises(ValueError, match=r"ended with exit status 1 .* older than `sadtrt compare`"):
        compare_sides(SIDE, SIDE, session(), tmp_path, 0.2)


def test_a_checkout_of_other_weights_is_refused_and_of_other_frames_makes_no_pictures(tiny, tmp_path):
    """A time of another network would pass for a time of other code."""
    own, generator = session(frames=1), parse_side("pytorch:fp32", "generator", 1)
    own.__dict__["renderer"] = replace(tiny, weights=replace(tiny.weights, kind="demo"))
    own.report = said = Kept()

    def beside(name, **told):
        checkout = scripted_checkout(tmp_path / name, renders=True, **told)
        return compare_sides(generator, generator, own, checkout, 0.2)

    with pytest.raises(UserError, match="renders with other weights, so that times and pictures are not"):
        beside("other", weights="d9")
    assert beside("frames", weights=own.renderer.weights.digest, workload="d8").pictures is None
    assert said.lines == ["pictures are not compared: the other checkout renders other frames"]


class Painter:
    """A side whose frames are given."""

    call_seconds = 0.01

    def __init__(self, frames):
        self.frames = frames

    def sample(self, count):
        return Samples((10.0,) * count, None)

    def render(self):
        return self.frames


def pictures_sentence(a, b):
    pictures = compare_pictures(Painter(a), Painter(b), "a")
    return replace(compared(10.0, 10.0)[0], pictures=pictures).sentences("a", "b")[1:]


def test_pictures_of_the_two_sides_are_compared_with_each_other():
    frames = torch.full((4, 3, 16, 16), 100 / 255)
    apart = frames.clone()
    apart[2] += 3 / 255
    found = compare_pictures(Painter(frames), Painter(apart), "pytorch:fp32")
    assert found.psnr_min == pytest.approx(38.59, abs=0.01)
    assert (found.max_lsb_worst, found.reference) == (3, "pytorch:fp32")
    expected = "pictures agree to 38.6 dB in the worst of 4 frames, no pixel more than 3 levels apart"
    assert pictures_sentence(frames, apart) == (expected,)
    assert pictures_sentence(frames, frames) == ("the same pictures, bit for bit, over 4 frames",)
    broken = frames.clone()
    broken[1, 0, 0, 0] = float("nan")
    assert pictures_sentence(frames, broken) == ("1 of 4 frames of b hold NaN or infinity",)
    assert pictures_sentence(frames, None) == ()


def test_frames_are_rendered_in_the_batch_that_is_compared():
    class Runner:
        job = SimpleNamespace(batch=2, stage=SimpleNamespace(name="frame"))
        stream = None

        def execute(self):
            pass

        synchronize = execute

        def frames(self, items):
            return torch.cat([item["kp"] for item in items])

    items = [{"kp": torch.full((1, 2), float(i))} for i in range(4)]
    suite = SimpleNamespace(frame_inputs={"frame": items}.get, timing_plan=TimingPlan(1, 0, 0, 1, 1))
    assert LocalSide(Runner(), suite).render()[:, 0].tolist() == [0, 1, 2, 3]


WORKER = """
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    with open("asked.txt", "a") as log:
        log.write(line)
    if "side" in asked:
        answer = {first}
    elif "render" in asked:
        import numpy
        numpy.save(asked["render"], numpy.arange(96, dtype="float32").reshape(2, 3, 4, 4))
        answer = {{}}
    else:
        answer = {{"host_ms": [10.0] * asked["take"], "device_ms": [9.0] * asked["take"], "late": 1}}
    print(json.dumps(answer), flush=True)
"""


def scripted_checkout(folder, **first):
    """A checkout whose worker answers by a script, the first question with `first`, and keeps what it was asked."""
    package = folder / "sadtrt_core"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "compare_worker.py").write_text(WORKER.format(first={"call_seconds": 0.01, **first}))
    return folder


def test_another_checkout_hands_over_its_samples_and_pictures(tmp_path):
    checkout = scripted_checkout(tmp_path / "now", renders=True, benchmark_version=BENCHMARK_VERSION)
    with remote_side(SIDE, RunConfig(), checkout) as remote:
        assert (remote.call_seconds, remote.times_alike) == (0.01, True)
        assert remote.sample(3) == Samples((10.0,) * 3, (9.0,) * 3, 1)
        assert torch.equal(remote.render(), torch.arange(96.0).reshape(2, 3, 4, 4))


def test_an_older_checkout_has_no_pictures_and_host_times_only(tmp_path):
    """One that times in another way falls back to host times, and one that cannot hand over pictures is not asked."""
    with remote_side(SIDE, RunConfig(), scripted_checkout(tmp_path / "then")) as old:
        assert old.sample(2) == Samples((10.0,) * 2, None)
        assert old.render() is None


def test_what_another_checkout_is_asked_has_the_words_that_older_ones_know(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = RunConfig(weights="mine.safetensors", cache=Path("cache"), device="cpu", frames=4)
    with remote_side(parse_side("tensorrt:plans/mine.toml", "warp", 4), config, scripted_checkout(tmp_path / "then")):
        pass
    asked = json.loads((tmp_path / "then" / "asked.txt").read_text())
    assert asked == {
        "side": {"runner": "tensorrt", "precision": str(tmp_path / "plans" / "mine.toml")},
        "conditions": {
            "stage": "warp",
            "batch": 4,
            "size": 256,
            "weights": str(tmp_path / "mine.safetensors"),
            "checkpoint": None,
            "device": "cpu",
            "cache": str(tmp_path / "cache"),
            "optimization_level": 3,
        },
        "benchmark_version": BENCHMARK_VERSION,
    }


@pytest.mark.parametrize("text", ["pytorch:fp32", "onnxruntime:fp16-mixed:native"])
def test_a_worker_reads_what_it_is_asked(tmp_path, text):
    side, config = parse_side(text, "warp", 3), RunConfig(device="cpu", cache=tmp_path, weights="demo")
    read, shared = read_question(json.loads(json.dumps(question(side, config))))
    assert read == side
    assert (shared.device, shared.cache, shared.weights, shared.frames) == ("cpu", tmp_path, "demo", 6)


def test_a_worker_refuses_what_it_does_not_know():
    asked = question(SIDE, RunConfig())
    asked["conditions"]["humidity"] = 3
    with pytest.raises(UserError, match="does not know humidity"):
        read_question(asked)


KEY = {"flavour": "tensorrt", "tensorrt": "8.6.0", "gpu": "NVIDIA H200", "plugin_sha256": None}


def engine_file(folder, key=None, stage="mapping"):
    """An engine as the cache writes it; its name belongs to its key."""
    key = key or KEY
    path = folder / f"{stage}-fp16-mixed-native-b1-256-{json_digest(key)[:12]}.engine"
    path.write_bytes(b"plan")
    record = {"key": key, "engine_sha256": hashlib.sha256(b"plan").hexdigest(), "engine_bytes": 4}
    path.with_suffix(".json").write_text(json.dumps({**record, "build_seconds": 1.0, "notes": []}))
    return path


def test_an_engine_file_is_a_side_by_its_name(tmp_path):
    path = engine_file(tmp_path)
    side = parse_side(str(path), "mapping", 1)
    assert (side.case.runner, side.case.grid_sample, side.engine, side.label) == ("tensorrt", "native", path, path.name)
    assert parse_file_name(path) == (Case("mapping", "tensorrt", "fp16-mixed", "native", 1), 256)
    read, _ = read_question(question(side, RunConfig()))
    assert read == side


def test_a_stored_engine_is_read_whole(tmp_path):
    engine, key = engine_cache.stored_engine(engine_file(tmp_path))
    assert (engine.plan, engine.seconds, key) == (b"plan", 1.0, KEY)


def truncated(path):
    path.write_bytes(b"pla")


def changed(path):
    path.write_bytes(b"plam")


def without_key(path):
    path.with_suffix(".json").unlink()


def with_another_key(path):
    record = json.loads(path.with_suffix(".json").read_text())
    record["key"]["tensorrt"] = "10.13.3"
    path.with_suffix(".json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (Path.unlink, "cannot run mapping here: there is no engine"),
        (truncated, "is truncated: 3 of 4 bytes"),
        (changed, "its bytes are not those that were built"),
        (without_key, "is no engine of this harness: its key"),
        (with_another_key, "its name is not the one that belongs to its key"),
        (lambda path: None, "TensorRT runs on an NVIDIA GPU, not on cpu"),
    ],
)
def test_an_engine_that_cannot_take_part_is_refused_in_one_sentence(tmp_path, harm, words):
    path = engine_file(tmp_path)
    harm(path)
    result = CliRunner().invoke(app, ["compare", str(path), "pytorch:fp32", *MAPPING])
    assert result.exit_code == 2
    assert words in result.output.replace("\n", " ")
    assert "Traceback" not in result.output


def test_an_engine_of_another_stage_or_size_is_refused(tmp_path):
    path = engine_file(tmp_path, stage="decode")
    result = CliRunner().invoke(app, ["compare", str(path), "pytorch:fp32", *MAPPING])
    assert result.exit_code == 2
    assert "is an engine of decode at batch 1 and 256 px, where mapping" in result.output.replace("\n", " ")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        (
            {"tensorrt": "10.13.3"},
            "built by tensorrt 10.13.3 on NVIDIA H200, and here is tensorrt 8.6.0 on NVIDIA H200",
        ),
        ({"gpu": "NVIDIA A10"}, "built by tensorrt 8.6.0 on NVIDIA A10, and here is tensorrt 8.6.0 on NVIDIA H200"),
        ({"plugin_sha256": "77"}, "built with another GridSample3D plugin"),
    ],
)
def test_an_engine_that_was_built_elsewhere_is_refused(monkeypatch, change, words):
    monkeypatch.setattr(tensorrt.api, "tensorrt_module", lambda: SimpleNamespace(__name__="tensorrt"))
    monkeypatch.setattr(tensorrt.api, "version_text", lambda trt: "8.6.0")
    monkeypatch.setattr(tensorrt.api, "current_gpu", lambda: ("NVIDIA H200", "9.0"))
    monkeypatch.setattr(tensorrt.api, "flavour", lambda trt: "tensorrt")
    found = tensorrt._misfit({**KEY, **change})
    assert found is None if words is None else words in str(found)
