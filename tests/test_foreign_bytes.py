"""Every reader of files that others wrote answers any bytes with a value or with one sentence, and nothing else."""

from __future__ import annotations

import codecs
import hashlib
import io
import json
import multiprocessing
import os
import pickle
import resource
import zipfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from sadtrt_core.accuracy.greedy import kept_trials
from sadtrt_core.codec import json_digest
from sadtrt_core.engine.cache import kept_timings, stored_engine
from sadtrt_core.engine.plugin import read_plugin
from sadtrt_core.errors import UserError
from sadtrt_core.gate.limits import Thresholds
from sadtrt_core.graph.calibrate import read_calibration, write_calibration
from sadtrt_core.graph.export import OPSET, cached_export
from sadtrt_core.graph.quantize import Calibration
from sadtrt_core.plan import read_plan
from sadtrt_core.progress import SILENT
from sadtrt_core.records.measurements import Drift
from sadtrt_core.records.store import read_run
from sadtrt_core.renderer.checkpoint import load_checkpoint
from sadtrt_core.renderer.fit import Fitted
from sadtrt_core.renderer.picture import load_picture
from sadtrt_core.renderer.renderer import Renderer, build_networks, seeded_state
from sadtrt_core.renderer.stages import STAGES
from sadtrt_core.renderer.standin import load_standin, save_standin
from sadtrt_core.renderer.workload import recorded_workload

CALIBRATION = Calibration("minimum and maximum", (0,), "w" * 64, "d" * 64, "onnxruntime 1", {"/a/Conv": 2.5})
PLAN = b'format = "sadtrt plan 1"\nbase = "float16"\nwhy = "x"\n[[keep]]\nnodes = ["coordinates"]\nwhy = "x"\n'
GATE = b'[gate]\nfalse_alarm = 0.1\n[[gate.override]]\nstage = "generator"\nslowdown_percent = 2.0\n'


def saved(value: object, **options: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def picture(kind: str, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((24, 24), 60).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def _recording(path: Path, tiny_256: Renderer) -> object:
    image = path.parent / "source_image.pt"
    if not image.exists():
        torch.save(torch.rand(1, 3, 256, 256), image)
        torch.save(torch.zeros(1, 15, 3), path.parent / "kp_source.pt")
    return recorded_workload(path.parent, tiny_256.config)


def _prediction(path: Path, tiny_256: Renderer) -> object:
    if not (path.parent / "kp_driving.pt").exists():
        torch.save(torch.zeros(2, 15, 3), path.parent / "kp_driving.pt")
    return _recording(path, tiny_256)


#: What an engine of four bytes is kept with, which its name has the digest of.
KEY: dict[str, object] = {"gpu": "NVIDIA H200", "inputs": {"x": [2, 3]}}
ENGINE = {
    "key": KEY,
    "engine_sha256": hashlib.sha256(b"plan").hexdigest(),
    "engine_bytes": 4,
    "build_seconds": 1.5,
    "notes": ["a note"],
}


def _engine(path: Path, tiny_256: Renderer) -> object:
    engine = path.with_suffix(".engine")
    engine.write_bytes(b"plan")
    return stored_engine(engine)


def _timings(path: Path, tiny_256: Renderer) -> bytes:
    return kept_timings(path, SILENT)


def _journal(path: Path, tiny_256: Renderer) -> object:
    """What is found is figures of frames, each as often as it is asked for."""
    measured = kept_trials(path, SILENT)
    for frames in filter(None, measured.values()):
        Drift(*zip(*frames.values(), strict=True))
    return measured


def journal(measured: object) -> bytes:
    return json.dumps({"measured": measured, "sha256": json_digest(measured)}).encode()


#: The name of the file, what reads it, and whole files of the kind, to be damaged.
READERS: dict[str, tuple[str, Callable[[Path, Renderer], object], tuple[bytes, ...]]] = {
    "checkpoint": (
        "model.pth",
        lambda path, tiny_256: load_checkpoint(path, 256, None, tiny_256.config),
        (
            saved({"generator": {"fourth.bias": torch.zeros(16)}, "epoch": 3}),
            saved({"fourth.bias": torch.zeros(16)}, _use_new_zipfile_serialization=False),
            save({"generator.fourth.bias": torch.zeros(16)}),
        ),
    ),
    "recording": (
        "kp_driving.pt",
        _recording,
        (
            saved(torch.zeros(2, 15, 3)),
            saved({"value": torch.zeros(2, 15, 3), "jacobian": None}, _use_new_zipfile_serialization=False),
        ),
    ),
    "picture": (
        "face.png",
        lambda path, tiny_256: load_picture(path, 64),
        (picture("PNG"), picture("PNG", "LA"), picture("JPEG"), picture("TIFF", "F"), picture("GIF"), picture("BMP")),
    ),
    "plan": ("mine.toml", lambda path, tiny_256: read_plan(path), (PLAN,)),
    "thresholds": ("gate.toml", lambda path, tiny_256: Thresholds.read(path), (GATE,)),
    "calibration": ("ranges.json", lambda path, tiny_256: read_calibration(path), ()),
    "record": (
        "records.json",
        lambda path, tiny_256: read_run(path),
        (b'{"schema_version": 3, "sha256": "", "run": {}}',),
    ),
    "engine's key": (
        f"mapping-fp16-native-b2-256-{json_digest(KEY)[:12]}.json",
        _engine,
        tuple(
            json.dumps(ENGINE | change).encode()
            for change in ({}, {"notes": [3]}, {"build_seconds": 10**400}, {"engine_bytes": -1}, {"key": {"a": [[]]}})
        ),
    ),
    "timing cache": ("mapping.timing", _timings, ()),
    "search's journal": (
        "journal.json",
        _journal,
        tuple(
            journal(measured)
            for measured in (
                {"a": {"0": [61.5, 0.99, 3, False], "1": [None, 1.0, 0, False]}},
                {"a": {"0": ["61.5", 0.99, 3, False]}},
                {"a": {"0": [61.5]}},
                {"a": []},
                [1],
            )
        ),
    ),
    "prediction": ("prediction.pt", _prediction, (saved(torch.zeros(2, 3, 256, 256, dtype=torch.float16)),)),
    "plugin library": (
        "library.so",
        lambda path, tiny_256: read_plugin(path),
        (b"sadtrt-plugin-version:9.9.9 trt8.6.0\0",),
    ),
    "pointer to the latest run": (
        "latest.txt",
        lambda path, tiny_256: read_run(path.with_suffix("")),
        (b"2026-a\n", b"../x"),
    ),
    "stand-in": ("demo.safetensors", lambda path, tiny_256: load_standin(path, "fitted", 256), ()),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("foreign")


@pytest.fixture(scope="module")
def whole_files(folder, tiny_256):
    """Whole files of the kinds that only their own writers make."""
    states = {name: seeded_state(module.state_dict()) for name, module in build_networks(tiny_256.config).items()}
    save_standin(folder / "whole.safetensors", tiny_256.config, Fitted(states, 30.0, 7), {}, half=False)
    write_calibration(CALIBRATION, folder / "whole.json")
    return {name: (folder / f"whole.{ending}").read_bytes() for name, ending in OWN.items()}


OWN = {"stand-in": "safetensors", "calibration": "json"}


@st.composite
def damaged(draw, whole: bytes) -> bytes:
    """A file with a few bytes changed, most of them near its start, or cut short."""
    content = bytearray(whole[: draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole))))])
    for _ in range(draw(st.integers(0, 3)) if content else 0):
        near = draw(st.sampled_from((len(content), min(len(content), 400))))
        content[draw(st.integers(0, near - 1))] = draw(st.integers(0, 255))
    return bytes(content)


def answer(read: Callable[[Path, Renderer], object], path: Path, tiny_256: Renderer) -> str:
    """What a reader says of a file that it refuses; nothing where it takes it."""
    try:
        read(path, tiny_256)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("reader", READERS)
@settings(
    max_examples=60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_a_reader_answers_any_bytes_with_a_value_or_one_sentence(reader, data, folder, whole_files, tiny_256):
    name, read, wholes = READERS[reader]
    wholes = (*wholes, *([whole_files[reader]] if reader in OWN else []))
    content = data.draw(st.one_of(st.binary(max_size=200), *map(damaged, wholes)))
    path = folder / reader.replace("'", "") / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    sentence = answer(read, path, tiny_256)
    assert "\n" not in sentence
    assert len(sentence) < 700


@settings(max_examples=25, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_lies_in_the_cache_the_graph_is_the_stage_s(data, tiny_256, folder):
    made = cached_export(tiny_256, STAGES["mapping"], OPSET, folder)
    (path,) = (folder / "graphs").glob("mapping-*.onnx")
    changed = data.draw(st.sampled_from([path, path.with_suffix(".sha256")]))
    changed.write_bytes(data.draw(st.one_of(st.binary(max_size=100), damaged(changed.read_bytes()))))
    assert cached_export(tiny_256, STAGES["mapping"], OPSET, folder) == made


def test_a_graph_with_the_sidecar_of_another_key_is_not_used(tiny_256, tmp_path):
    made = cached_export(tiny_256, STAGES["mapping"], OPSET, tmp_path)
    other = cached_export(tiny_256, STAGES["warp"], OPSET, tmp_path)
    (mapping,), (warp,) = ((tmp_path / "graphs").glob(f"{name}-*.onnx") for name in ("mapping", "warp"))
    for ending in (".onnx", ".sha256"):
        mapping.with_suffix(ending).write_bytes(warp.with_suffix(ending).read_bytes())
    assert other != made
    assert cached_export(tiny_256, STAGES["mapping"], OPSET, tmp_path) == made


def zip_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("model/data.pkl", pickle.dumps({}, protocol=2))
        with archive.open("model/data/0", "w", force_zip64=True) as entry:
            for _ in range(600):
                entry.write(bytes(1 << 20))


def sparse_file(path: Path) -> None:
    path.write_bytes(b"{")
    os.truncate(path, 3 << 30)


def large_picture(path: Path) -> None:
    Image.new("1", (13_000, 13_000)).save(path, "PNG")


def transparent_picture(path: Path) -> None:
    Image.new("RGBA", (6_300, 6_300), (90, 0, 0, 9)).save(path, "PNG", compress_level=1)


class Zeros:
    """What unpickling makes gigabytes of, by a name that PyTorch lets pass."""

    def __reduce__(self) -> tuple[object, ...]:
        return bytearray, (1 << 33,)


class Doubled:
    """The same by one that doubles what it is given, over and over."""

    def __init__(self, times: int) -> None:
        self.times = times

    def __reduce__(self) -> tuple[object, ...]:
        return codecs.encode, (Doubled(self.times - 1), "hex") if self.times else ("0" * 999, "latin1")


#: Files that would take gigabytes, most of them small on the disk: the reader, and how the file is made.
LARGE: dict[str, tuple[str, Callable[[Path], None]]] = {
    "zip bomb as a checkpoint": ("checkpoint", zip_bomb),
    "expanded tensor as a checkpoint": (
        "checkpoint",
        lambda path: torch.save({"fourth.bias": torch.zeros(1).expand(1 << 40)}, path),
    ),
    "sparse file as a checkpoint": ("checkpoint", sparse_file),
    "expanded tensor as a recording": (
        "recording",
        lambda path: torch.save(torch.zeros(1, 15, 3).expand(1 << 28, 15, 3), path),
    ),
    "zip bomb as a recording": ("recording", zip_bomb),
    "a million recorded frames": (
        "recording",
        lambda path: torch.save(torch.zeros(1, 15, 3).expand(700_000, 15, 3), path),
    ),
    "zeros as a checkpoint": ("checkpoint", lambda path: torch.save({"generator": Zeros()}, path)),
    "zeros as an older checkpoint": (
        "checkpoint",
        lambda path: torch.save({"generator": Zeros()}, path, _use_new_zipfile_serialization=False),
    ),
    "a text that doubles as a checkpoint": ("checkpoint", lambda path: torch.save({"generator": Doubled(24)}, path)),
    "expanded tensor as a prediction": (
        "prediction",
        lambda path: torch.save(torch.zeros(1).expand(2_000, 3, 256, 256), path),
    ),
    "picture of many pixels": ("picture", large_picture),
    "transparent picture of as many as are taken": ("picture", transparent_picture),
    "sparse file as a picture": ("picture", sparse_file),
    "a key of many parts in a plan": ("plan", lambda path: path.write_text(".".join("a" * 20_000) + " = 1\n")),
    "a key of many parts in thresholds": ("thresholds", lambda path: path.write_text(".".join("a" * 20_000) + "=1\n")),
    "sparse file as a record": ("record", sparse_file),
    "a record of a million objects": ("record", lambda path: path.write_bytes(b"[" + b"{}," * (15 << 20) + b"1]")),
    "a record of lists in lists": (
        "record",
        lambda path: path.write_bytes(b"[" + (b"[" * 99 + b"]" * 99 + b",") * 99_999),
    ),
    "a table of many keys as a plan": (
        "plan",
        lambda path: path.write_text("".join(f"a{n}{'.a' * 99} = 1\n" for n in range(4_500))),
    ),
    "a list of many tables as thresholds": ("thresholds", lambda path: path.write_text("[[a]]\n" * 170_000)),
    "sparse file as a timing cache": ("timing cache", sparse_file),
    "sparse file as a journal": ("search's journal", sparse_file),
    "a journal of objects": ("search's journal", lambda path: path.write_bytes(b"[" + b"{}," * (5 << 19) + b"1]")),
    "sparse file as a plugin library": ("plugin library", sparse_file),
    "sparse file as a pointer": ("pointer to the latest run", sparse_file),
    "sparse file as a calibration": ("calibration", sparse_file),
    "sparse file as stand-in weights": ("stand-in", sparse_file),
    "sparse file as an engine's key": ("engine's key", sparse_file),
}


#: Of these there is nothing to refuse: they are read within the bounds, or left out.
TAKEN = {
    "transparent picture of as many as are taken",
    "sparse file as a timing cache",
    "sparse file as a journal",
    "a journal of objects",
    "sparse file as a plugin library",
}


def _peak(read: Callable[[], object], answers: Connection) -> None:
    """What `read` answers, and by how many bytes this process grew beyond what it had."""
    torch.set_num_threads(1)  # A forked process has none of its parent's others.
    # Seconds of a processor, however many others want it: the kernel ends what takes more.
    resource.setrlimit(resource.RLIMIT_CPU, (2, 2))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said = read()
    answers.send((said, 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)))


def within_bounds(read: Callable[[], object]) -> object:
    """What `read` answers, in a process of its own that takes two seconds of a processor and 500 MB at most."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    # Forked: the child has everything imported, so that what it grows by is the reader's.
    child = multiprocessing.get_context("fork").Process(target=_peak, args=(read, sender))
    child.start()
    sender.close()
    try:
        said, grown = receiver.recv()
    except EOFError:
        pytest.fail("it took more than two seconds of a processor")
    finally:
        child.join()
    assert grown < 500_000_000
    return said


@pytest.mark.parametrize("name", LARGE)
def test_what_would_take_gigabytes_takes_two_seconds_and_500_mb_at_most(name, tmp_path, tiny_256):
    reader, make = LARGE[name]
    path = tmp_path / READERS[reader][0]
    make(path)
    said = within_bounds(lambda: answer(READERS[reader][1], path, tiny_256))
    assert bool(said) == (name not in TAKEN)


def test_a_cached_graph_of_gigabytes_is_exported_again_without_reading_it(tiny_256, tmp_path):
    made = cached_export(tiny_256, STAGES["mapping"], OPSET, tmp_path)
    (path,) = (tmp_path / "graphs").glob("*.onnx")
    os.truncate(path, 2_000_000_000)
    assert within_bounds(lambda: cached_export(tiny_256, STAGES["mapping"], OPSET, tmp_path) == made)
