"""Finding a plugin library, reading it without loading it, and saying why there is none."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from sadtrt_core.engine.plugin import PluginLibrary, find_plugin, load_plugin, read_plugin, tensorrt_generation
from sadtrt_core.engine.plugin_build import headers_folder, headers_version
from sadtrt_core.errors import Unavailable, UserError


def write_library(folder: Path, generation: str, version: str = "1.4.0", headers: str = "0.0") -> Path:
    """A file that a reader takes for a plugin library: the mark among other bytes."""
    path = folder / f"libsadtrt_plugin_{generation}.so"
    path.write_bytes(b"\x7fELF\0\0" + f"sadtrt-plugin-version:{version} {generation}.{headers}".encode() + b"\0rest")
    return path


def test_a_library_tells_its_version_generation_and_digest(tmp_path: Path) -> None:
    library = read_plugin(write_library(tmp_path, "trt10", headers="13.3"))
    assert isinstance(library, PluginLibrary)
    assert (library.version, library.generation, library.headers) == ("1.4.0", "trt10", "10.13.3")
    changed = tmp_path / "changed.so"
    changed.write_bytes(library.path.read_bytes() + b"!")
    other = read_plugin(changed)
    assert isinstance(other, PluginLibrary)
    assert other.digest != library.digest


def test_the_library_of_the_generation_in_use_is_found_among_others(tmp_path: Path) -> None:
    for generation in ("trt8", "trt10", "trt11"):
        write_library(tmp_path, generation)
    found = find_plugin("trt10", {}, tmp_path)
    assert isinstance(found, PluginLibrary)
    assert found.path.name == "libsadtrt_plugin_trt10.so"


def test_rtx_prefers_its_own_library_and_takes_a_later_tensorrts(tmp_path: Path) -> None:
    for generation in ("trt8", "trt10", "trt11"):
        write_library(tmp_path, generation)
    found = find_plugin("rtx1", {}, tmp_path)
    assert isinstance(found, PluginLibrary)
    assert found.generation == "trt11"
    write_library(tmp_path, "rtx1")
    found = find_plugin("rtx1", {}, tmp_path)
    assert isinstance(found, PluginLibrary)
    assert found.generation == "rtx1"


def test_a_library_of_another_generation_is_named_with_what_to_do(tmp_path: Path) -> None:
    write_library(tmp_path, "trt8", headers="6.0")
    found = find_plugin("trt10", {}, tmp_path)
    assert isinstance(found, Unavailable)
    assert "headers of trt8 (8.6.0) and trt10 is in use" in str(found)
    assert "sadtrt build-plugin" in str(found)


def test_an_empty_folder_is_named_with_what_to_do(tmp_path: Path) -> None:
    found = find_plugin("trt8", {}, tmp_path)
    assert isinstance(found, Unavailable)
    assert str(tmp_path) in found.reason
    assert "sadtrt build-plugin" in found.reason


def test_the_variable_wins_over_the_folder_and_its_faults_are_named(tmp_path: Path) -> None:
    write_library(tmp_path, "trt8")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    named = write_library(elsewhere, "trt8", headers="6.1")
    found = find_plugin("trt8", {"SADTRT_PLUGIN": str(named)}, tmp_path)
    assert isinstance(found, PluginLibrary)
    assert found.path == named
    for path, words in (
        (tmp_path / "none.so", "cannot be read (No such file or directory)"),
        (Path(__file__), "is not a GridSample3D plugin library"),
        (write_library(elsewhere, "trt11"), "trt8 is in use"),
    ):
        absent = find_plugin("trt8", {"SADTRT_PLUGIN": str(path)}, tmp_path)
        assert isinstance(absent, Unavailable)
        assert absent.reason.startswith("SADTRT_PLUGIN: ")
        assert words in absent.reason


def test_a_library_of_another_version_is_refused(tmp_path: Path) -> None:
    absent = read_plugin(write_library(tmp_path, "trt8", version="0.9.0"))
    assert isinstance(absent, Unavailable)
    assert "has version 0.9.0, 1.4.0 is expected" in absent.reason


class Registry:
    """A registry as TensorRT 10's, that knows what was loaded into it."""

    def __init__(self, registers: bool = True) -> None:
        self.loaded: list[str] = []
        self._registers = registers

    @property
    def all_creators(self) -> list[SimpleNamespace]:
        known = [("ROIAlign_TRT", "2")] + [("GridSample3D", "1")] * (self._registers and bool(self.loaded))
        return [SimpleNamespace(name=name, plugin_version=version) for name, version in known]

    def load_library(self, path: str) -> object:
        self.loaded.append(path)
        return object()


def module(name: str, version: str, registry: Registry) -> SimpleNamespace:
    return SimpleNamespace(__name__=name, __version__=version, get_plugin_registry=lambda: registry)


def test_loading_twice_registers_once(tmp_path: Path) -> None:
    library = read_plugin(write_library(tmp_path, "trt10"))
    registry = Registry()
    for _ in range(2):
        load_plugin(library, module("tensorrt", "10.13.3.9", registry))  # type: ignore[arg-type]
    assert registry.loaded == [str(library.path)]  # type: ignore[union-attr]


def test_loading_into_another_generation_is_refused(tmp_path: Path) -> None:
    library = read_plugin(write_library(tmp_path, "trt8"))
    registry = Registry()
    with pytest.raises(UserError, match="headers of trt8"):
        load_plugin(library, module("tensorrt", "10.13.3.9", registry))  # type: ignore[arg-type]
    assert registry.loaded == []


def test_a_library_that_registers_nothing_is_an_error(tmp_path: Path) -> None:
    library = read_plugin(write_library(tmp_path, "trt10"))
    with pytest.raises(UserError, match="did not register GridSample3D"):
        load_plugin(library, module("tensorrt", "10.13.3.9", Registry(registers=False)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "version", "generation"),
    [("tensorrt", "8.6.1", "trt8"), ("tensorrt", "11.3.0.5", "trt11"), ("tensorrt_rtx_bindings", "1.7.1.116", "rtx1")],
)
def test_generations(name: str, version: str, generation: str) -> None:
    assert tensorrt_generation(module(name, version, Registry())) == generation  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("#define NV_TENSORRT_MAJOR 8 //!< major\n#define NV_TENSORRT_MINOR 6\n#define NV_TENSORRT_PATCH 0\n", "8.6.0"),
        (
            "".join(
                f"#define TRT_{part}_ENTERPRISE {number}\n#define NV_TENSORRT_{part} TRT_{part}_ENTERPRISE\n"
                for part, number in (("MAJOR", 10), ("MINOR", 13), ("PATCH", 3))
            ),
            "10.13.3",
        ),
        ("#define TRT_MAJOR_RTX 1\n#define TRT_MINOR_RTX 7\n#define TRT_PATCH_RTX 1\n", "1.7.1"),
    ],
)
def test_header_versions(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "NvInferVersion.h").write_text(text)
    generation, version = headers_version(tmp_path)
    assert version == expected
    assert generation == ("rtx1" if expected == "1.7.1" else f"trt{expected.split('.')[0]}")


def test_missing_headers_are_named_with_where_they_come_from(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"github\.com/NVIDIA/TensorRT"):
        headers_folder({})
    with pytest.raises(UserError, match=r"NvInferVersion\.h cannot be read"):
        headers_version(tmp_path)
    (tmp_path / "NvInferVersion.h").write_text("#pragma once\n")
    with pytest.raises(UserError, match="states no TensorRT version"):
        headers_version(tmp_path)
    assert headers_folder({"TENSORRT_ROOT": "/opt/trt"}) == Path("/opt/trt/include")
    assert headers_folder({"TENSORRT_ROOT": "/opt/trt", "TENSORRT_INCLUDE": "/opt/inc"}) == Path("/opt/inc")
