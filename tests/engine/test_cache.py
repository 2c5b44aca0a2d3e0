"""The engine cache: the same inputs hit, any other miss, and whatever is not whole is built again with its reason."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from reports import Kept

from sadtrt_core.codec import json_digest
from sadtrt_core.engine import cache as engine_cache
from sadtrt_core.engine import tensorrt_api as api
from sadtrt_core.engine.build import BuiltEngine
from sadtrt_core.engine.cache import discard, engine_key, ensure_engine
from sadtrt_core.engine.job import BuildJob
from sadtrt_core.engine.plugin import PluginLibrary
from sadtrt_core.errors import BuildError
from sadtrt_core.precision import PRECISIONS
from sadtrt_core.progress import Reporter

MakeJob = Callable[..., BuildJob]
MakeGraph = Callable[..., onnx.ModelProto]
RTX = SimpleNamespace(__name__="tensorrt_rtx", __version__="1.7.1")
GPU = ("NVIDIA H200", "9.0")


class CountingBuilder:
    """Stands in for a build that would take minutes."""

    def __init__(self) -> None:
        self.builds = 0
        self.timing_caches: list[bytes] = []

    def __call__(self, trt: Any, job: BuildJob, timing_cache: bytes, report: Reporter) -> BuiltEngine:
        self.builds += 1
        self.timing_caches.append(timing_cache)
        return BuiltEngine(b"plan of " + job.graph.read_bytes(), b"tactics", 12.5, ("2 layers pinned",))


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> CountingBuilder:
    monkeypatch.setattr(api, "tensorrt_module", lambda: RTX)
    return CountingBuilder()


def library(digest: str) -> PluginLibrary:
    return PluginLibrary(Path("libplugin.so"), "1.0.0", "trt8", "8.6.0", digest)


def test_the_same_job_is_built_once(make_job: MakeJob, builder: CountingBuilder) -> None:
    first = ensure_engine(make_job(), builder=builder)
    second = ensure_engine(make_job(), builder=builder)
    assert builder.builds == 1
    assert second == first
    assert second.seconds == 12.5
    assert second.notes == ("2 layers pinned",)


def test_the_file_name_and_the_key_can_be_read_by_people(make_job: MakeJob, builder: CountingBuilder) -> None:
    engine = ensure_engine(make_job(), builder=builder)
    assert engine.path.name.startswith("mapping-fp16-native-b2-256-")
    record = json.loads(engine.path.with_suffix(".json").read_text())
    assert record["key"]["flavour"] == "tensorrt-rtx"
    assert record["key"]["inputs"] == {"x": [2, 3]}
    assert record["engine_bytes"] == len(engine.plan)


CHANGES: dict[str, Callable[[BuildJob], BuildJob]] = {
    "batch": lambda job: replace(job, input_shapes=(("x", (4, 3)),)),
    "optimization level": lambda job: replace(job, optimization_level=1),
    "tf32": lambda job: replace(job, precision=PRECISIONS["tf32"]),
    "plugin": lambda job: replace(job, plugin=library("aa")),
    "another plugin": lambda job: replace(job, plugin=library("bb")),
}


def test_every_part_of_the_key_makes_another_engine(
    half_graph: MakeGraph, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    job = make_job()
    keys = {"unchanged": engine_key(job, RTX, GPU)}
    keys |= {name: engine_key(change(job), RTX, GPU) for name, change in CHANGES.items()}
    keys["graph"] = engine_key(make_job(half_graph("Tanh").SerializeToString()), RTX, GPU)
    keys["version"] = engine_key(job, SimpleNamespace(__name__="tensorrt_rtx", __version__="1.7.2"), GPU)
    keys["product"] = engine_key(job, SimpleNamespace(__name__="tensorrt", __version__="1.7.1"), GPU)
    keys["gpu"] = engine_key(job, RTX, ("NVIDIA H100", "9.0"))
    keys["capability"] = engine_key(job, RTX, ("NVIDIA H200", "10.0"))
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    keys["override"] = engine_key(job, RTX, GPU)
    digests = {name: json_digest(key) for name, key in keys.items()}
    assert len(set(digests.values())) == len(digests), digests


@pytest.mark.parametrize("part", CHANGES)
def test_a_changed_job_misses(part: str, make_job: MakeJob, builder: CountingBuilder, monkeypatch: Any) -> None:
    monkeypatch.setattr(engine_cache, "load_plugin", lambda library, trt: None)
    job = make_job()
    ensure_engine(job, builder=builder)
    ensure_engine(CHANGES[part](job), builder=builder)
    assert builder.builds == 2


def test_a_stale_engine_says_what_changed(half_graph: MakeGraph, make_job: MakeJob, builder: CountingBuilder) -> None:
    kept = Kept()
    ensure_engine(make_job(), builder=builder)
    ensure_engine(make_job(half_graph("Tanh").SerializeToString()), kept, builder)
    assert builder.builds == 2
    assert "rebuilding, because" in kept.lines[0]
    assert "is stale: graph_sha256 changed" in kept.lines[0]


def damage_truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def damage_swap_bytes(path: Path) -> None:
    path.write_bytes(b"X" * path.stat().st_size)


def damage_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def damage_too_large(path: Path) -> None:
    os.truncate(path, 9 << 30)


def damage_no_key(path: Path) -> None:
    path.with_suffix(".json").unlink()


def damage_broken_key(path: Path) -> None:
    path.with_suffix(".json").write_text('{"key": {')


def damage_empty_key(path: Path) -> None:
    path.with_suffix(".json").write_text("{}")


def damage_other_gpu(path: Path) -> None:
    record = json.loads(path.with_suffix(".json").read_text())
    record["key"]["gpu"] = "NVIDIA T4"
    path.with_suffix(".json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (damage_truncate, r"is truncated: \d+ of \d+ bytes"),
        (damage_swap_bytes, "its bytes are not those that were built"),
        (damage_pipe, "it is no plain file"),
        (damage_too_large, "has more than the 8590 MB"),
        (damage_no_key, r"its key .*\.json is missing"),
        (damage_broken_key, r"its key .*\.json cannot be read"),
        (damage_empty_key, r"its key .*\.json lacks"),
        (damage_other_gpu, "gpu was NVIDIA T4, is none"),
    ],
)
def test_a_damaged_engine_is_rebuilt_with_the_reason(
    damage: Callable[[Path], None], reason: str, make_job: MakeJob, builder: CountingBuilder, monkeypatch: Any
) -> None:
    monkeypatch.setattr(api, "current_gpu", lambda: ("none", ""))
    whole = ensure_engine(make_job(), builder=builder)
    damage(whole.path)
    kept = Kept()
    again = ensure_engine(make_job(), kept, builder)
    assert builder.builds == 2
    assert again.plan == whole.plan
    assert len([line for line in kept.lines if "rebuilding, because" in line]) == 1
    assert re.search(reason, kept.lines[0])
    assert ensure_engine(make_job(), builder=builder) == again


def test_a_folder_in_the_place_of_an_engine_is_said_before_anything_is_built(
    make_job: MakeJob, builder: CountingBuilder
) -> None:
    path = ensure_engine(make_job(), builder=builder).path
    path.unlink()
    path.mkdir()
    with pytest.raises(BuildError, match="is a folder where the engine should be"):
        ensure_engine(make_job(), builder=builder)
    assert builder.builds == 1


@pytest.mark.parametrize(("make", "kept"), [(os.mkfifo, True), (Path.mkdir, False)])
def test_a_timing_cache_that_is_no_file_is_left_out_and_said(
    make: Callable[[Path], None], kept: bool, make_job: MakeJob, builder: CountingBuilder, monkeypatch: Any
) -> None:
    monkeypatch.setattr(api, "keeps_timing_cache", lambda trt: True)
    job = make_job()
    ensure_engine(job, builder=builder)
    (timing,) = (job.cache / "engines").glob("*.timing")
    timing.unlink()
    make(timing)
    said = Kept()
    engine = ensure_engine(CHANGES["batch"](job), said, builder)
    assert engine.path.is_file()
    assert builder.timing_caches == [b"", b""]
    assert any("building without what was timed before: cannot read" in line for line in said.lines)
    assert any("what was timed is not kept" in line for line in said.lines) != kept
    assert timing.is_file() == kept


def test_a_discarded_engine_is_built_again(make_job: MakeJob, builder: CountingBuilder) -> None:
    discard(ensure_engine(make_job(), builder=builder))
    ensure_engine(make_job(), builder=builder)
    assert builder.builds == 2


def test_a_failing_build_leaves_nothing_that_looks_like_an_engine(make_job: MakeJob, builder: CountingBuilder) -> None:
    def failing(*arguments: Any) -> BuiltEngine:
        raise BuildError("no tactic")

    job = make_job()
    with pytest.raises(BuildError, match="no tactic"):
        ensure_engine(job, builder=failing)
    assert [path.suffix for path in (job.cache / "engines").iterdir()] == [".lock"]


def test_two_that_want_the_same_engine_build_it_once(make_job: MakeJob, builder: CountingBuilder) -> None:
    waiting = threading.Event()

    def slow(*arguments: Any) -> BuiltEngine:
        assert waiting.wait(20), "the second caller did not wait"
        return builder(*arguments)

    class Waiting(Kept):
        def log(self, line: str) -> None:
            super().log(line)
            waiting.set()

    kept = Waiting()

    job = make_job()
    threads = [threading.Thread(target=ensure_engine, args=(job, kept, slow)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert builder.builds == 1
    assert any("waiting for another process" in line for line in kept.lines)


def test_without_tensorrt_the_reason_is_given(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "tensorrt_module", lambda: api.Unavailable("TensorRT is not installed: pip install it"))
    with pytest.raises(BuildError, match=r"mapping fp16.*TensorRT is not installed"):
        ensure_engine(make_job())


def test_a_row_that_is_built_again_gets_its_own_timing_cache_and_no_others(
    make_job: MakeJob, builder: CountingBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = SimpleNamespace(__name__="tensorrt", __version__="0.1")
    monkeypatch.setattr(api, "tensorrt_module", lambda: full)
    monkeypatch.setattr(api, "current_gpu", lambda: GPU)
    job = make_job()
    ensure_engine(job, builder=builder)
    ensure_engine(replace(job, case=replace(job.case, batch=4)), builder=builder)
    ensure_engine(CHANGES["optimization level"](job), builder=builder)
    assert builder.timing_caches == [b"", b"", b"tactics"]
    names = sorted(path.name for path in (job.cache / "engines").glob("*.timing"))
    assert names == [f"mapping-fp16-native-b{batch}-256-tensorrt-0.1-NVIDIA-H200.timing" for batch in (2, 4)]


def test_a_real_engine_goes_through_the_cache(trt: Any, make_job: MakeJob) -> None:
    built = ensure_engine(make_job())
    assert ensure_engine(make_job()).plan == built.plan
