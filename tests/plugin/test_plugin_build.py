"""The kernel and both adaptors compile for every architecture and TensorRT generation, and RTX builds with the plugin.

The adaptors need TensorRT's headers, which no wheel has: SADTRT_TEST_HEADERS names a folder that holds one folder of
headers a version (8.6, 10.13, 11.1), each the include/ of github.com/NVIDIA/TensorRT at that version's tag.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from sadtrt_core.engine.kernels import kernels_version, load_kernels
from sadtrt_core.engine.plugin import PluginLibrary
from sadtrt_core.engine.plugin_build import KERNEL_LIBRARY, build_kernel, build_plugin
from sadtrt_core.errors import UserError
from sadtrt_core.graph.export import export_stage, typed_graph
from sadtrt_core.graph.fixed_shapes import fix_shapes
from sadtrt_core.graph.quantize import Calibration
from sadtrt_core.graph.typed import apply_precision
from sadtrt_core.precision import PRECISIONS
from sadtrt_core.renderer.renderer import Renderer
from sadtrt_core.renderer.stages import STAGES

HEADERS_VARIABLE = "SADTRT_TEST_HEADERS"
REPOSITORY = Path(__file__).resolve().parents[2]
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on the PATH")


def headers_of(version: str) -> Path:
    """The folder of headers of a version; skips the test, saying why, where there is none."""
    root = os.environ.get(HEADERS_VARIABLE)
    if not root:
        pytest.skip(f"{HEADERS_VARIABLE} names no folder of TensorRT headers")
    folder = Path(root) / version
    if not (folder / "NvInfer.h").exists():
        pytest.skip(f"{folder} has no NvInfer.h")
    return folder


@pytest.fixture
def quick_nvcc(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked is whether kernels compile, so that nvcc leaves out optimizations, where it knows how to."""
    known = subprocess.run(["nvcc", "--help"], capture_output=True, text=True, timeout=60, check=True).stdout
    if "--Ofast-compile" in known:
        monkeypatch.setenv("NVCC_APPEND_FLAGS", "-Ofc max")


# Turing, which lacks what later kernels use, and Hopper; CMake compiles for Blackwell, below.
@needs_nvcc
def test_the_kernel_compiles_for_several_architectures(quick_nvcc: None, tmp_path: Path) -> None:
    library = build_kernel(tmp_path, ["75", "90"])
    assert kernels_version(load_kernels(library)) == "1.4.0 kernel"
    assert sorted(path.name for path in tmp_path.iterdir()) == [KERNEL_LIBRARY]


@pytest.fixture(scope="module", params=["8.6", "10.13", "11.1"])
def headers(request: pytest.FixtureRequest) -> Path:
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not on the PATH")
    return headers_of(request.param)


@pytest.fixture(scope="module")
def built(headers: Path, tmp_path_factory: pytest.TempPathFactory) -> PluginLibrary:
    return build_plugin(headers, tmp_path_factory.mktemp("built"), "90")


def test_the_adaptor_compiles(built: PluginLibrary, headers: Path) -> None:
    generation = {"8.6": "trt8", "10.13": "trt10", "11.1": "trt11"}[headers.name]
    assert built.generation == generation
    assert built.headers.startswith(headers.name)
    assert built.path.name == f"libsadtrt_plugin_{generation}.so"
    loaded = ctypes.CDLL(str(built.path))  # every symbol is resolved without a TensorRT library
    loaded.sadtrt_plugin_version.restype = ctypes.c_char_p
    assert loaded.sadtrt_plugin_version().decode() == f"1.4.0 {generation[:3]}{built.headers}"
    if generation == "trt8":
        loaded.sadtrt_plugin_registration.restype = ctypes.c_char_p
        assert b"no TensorRT library is loaded" in loaded.sadtrt_plugin_registration()
    else:
        assert loaded.getCreators
        assert loaded.setLoggerFinder


@pytest.mark.parametrize("calls", ["adaptor_calls", "operator_calls", "spade_calls"])
def test_the_adaptor_answers_tensorrts_questions(
    built: PluginLibrary, headers: Path, tmp_path: Path, calls: str
) -> None:
    # Attributes, what an engine keeps of a layer, shapes, types and formats, workspace, and every refusal.
    program = tmp_path / calls
    command = ["nvcc", "-std=c++17", "-w", "-isystem", str(headers), "-Xcompiler", "-rdynamic", "-cudart", "static"]
    source = Path(__file__).parent / f"{calls}.cpp"
    subprocess.run([*command, "-o", str(program), str(source), "-ldl"], timeout=120, check=True)
    said = subprocess.run([program, str(built.path)], capture_output=True, text=True, timeout=60, check=True)
    expected = source.with_name(f"{calls}_v{2 if built.generation == 'trt8' else 3}.txt")
    assert said.stdout == expected.read_text()


@needs_nvcc
def test_a_failed_build_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    headers = tmp_path / "include"
    headers.mkdir()
    (headers / "NvInferVersion.h").write_text(
        "#define NV_TENSORRT_MAJOR 8\n#define NV_TENSORRT_MINOR 6\n#define NV_TENSORRT_PATCH 0\n"
    )
    with pytest.raises(UserError, match=r"nvcc could not build libsadtrt_plugin_trt8\.so: .*NvInfer\.h"):
        build_plugin(headers, tmp_path / "build", ["90"])
    assert list((tmp_path / "build").iterdir()) == []


def test_architectures_that_are_none_are_refused(tmp_path: Path) -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not on the PATH")
    with pytest.raises(UserError, match="not compute capabilities"):
        build_kernel(tmp_path, "hopper")


def test_a_missing_compiler_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="nvcc is not on the PATH"):
        build_kernel(tmp_path, ["90"])


@needs_nvcc
@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not on the PATH")
def test_cmake_builds_the_kernel_and_says_where_headers_come_from(quick_nvcc: None, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.upper().startswith("TENSORRT")}
    configure = ["cmake", "-S", str(REPOSITORY / "plugin"), "-B", str(tmp_path), "-DSADTRT_ARCHITECTURES=120"]
    said = subprocess.run(configure, capture_output=True, text=True, timeout=120, check=True, env=environment)
    assert "github.com/NVIDIA/TensorRT" in said.stderr
    subprocess.run(["cmake", "--build", str(tmp_path)], capture_output=True, timeout=300, check=True)
    assert kernels_version(load_kernels(tmp_path / KERNEL_LIBRARY)) == "1.4.0 kernel"
    assert (tmp_path / "libsadtrt_host_reference.so").exists()


@pytest.fixture(scope="module")
def rtx_plugin(tmp_path_factory: pytest.TempPathFactory) -> PluginLibrary:
    """The plugin for TensorRT for RTX, whose own headers are in its archive only: those of 11.1 do as well."""
    if importlib.util.find_spec("tensorrt_rtx_bindings") is None:
        pytest.skip("TensorRT for RTX is not installed (tensorrt-rtx-cu13-libs, tensorrt-rtx-cu13-bindings)")
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not on the PATH")
    return build_plugin(headers_of("11.1"), tmp_path_factory.mktemp("rtx"), ["120"])


def rtx_libraries() -> Path:
    spec = importlib.util.find_spec("tensorrt_rtx_libs")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


def rtx_engine(plugin: PluginLibrary, folder: Path | None, *arguments: object) -> dict[str, object]:
    """Run rtx_engine.py; folder gets the link that RTX's parser wants, None leaves it out."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    environment.pop("LD_LIBRARY_PATH", None)
    if folder is not None:
        (folder / "libtensorrt_rtx.so").symlink_to(rtx_libraries() / "libtensorrt_rtx.so.1")
        environment["LD_LIBRARY_PATH"] = str(folder)
    script = Path(__file__).parent / "rtx_engine.py"
    command = [sys.executable, str(script), str(plugin.path), *map(str, arguments)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert said.returncode == 0, said.stderr
    return dict(json.loads(said.stdout.splitlines()[-1]))


@pytest.mark.parametrize("feature_type", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("channels", [4, 32])
def test_rtx_parses_and_builds_with_the_plugin(
    rtx_plugin: PluginLibrary, tmp_path: Path, feature_type: str, channels: int
) -> None:
    built = rtx_engine(rtx_plugin, tmp_path, feature_type, channels, 0)
    assert built["parsed"], built["errors"]
    assert built["output_shape"] == [-1, channels, 4, 8, 8]
    assert {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16"}[feature_type] in str(built["output_type"])
    assert isinstance(built["engine_bytes"], int)
    assert built["engine_bytes"] > 10_000


@pytest.mark.parametrize("stage", ["motion", "generator"])
def test_rtx_builds_dense_motion_with_the_plugin(
    rtx_plugin: PluginLibrary, seeded_demo: Renderer, tmp_path: Path, stage: str
) -> None:
    how = PRECISIONS["fp16-mixed"]
    model = onnx.load_from_string(typed_graph(seeded_demo, STAGES[stage], how, "plugin", tmp_path))
    assert {"MotionInput", "MotionSum", "SplitSum", "SplitSumJoin", "FoldDepth"} <= {
        node.op_type for node in model.graph.node
    }
    inputs, outputs = (specs(seeded_demo.config) for specs in (STAGES[stage].inputs, STAGES[stage].outputs))
    fix_shapes(model, {spec.name: spec.batched(1) for spec in inputs})
    onnx.save(model, tmp_path / "graph.onnx")
    built = rtx_engine(rtx_plugin, tmp_path, tmp_path / "graph.onnx")
    assert built["parsed"], built["errors"]
    assert built["output_shape"] == list(outputs[0].batched(1))
    assert isinstance(built["engine_bytes"], int)
    assert built["engine_bytes"] > 10_000


@pytest.mark.parametrize("precision", ["fp16-mixed", "bf16", "int8", "fp8"])
def test_rtx_builds_a_decoder_whose_norms_are_nodes_of_the_plugin(
    rtx_plugin: PluginLibrary, tmp_path: Path, tiny: Renderer, precision: str
) -> None:
    how = replace(PRECISIONS[precision], operators=True)
    graph = export_stage(tiny, STAGES["decode"])
    ranges = {node.name: 4.0 for node in graph.graph.node if node.op_type == "Conv"}
    calibration = Calibration("a test", (0,), tiny.weights.digest, "workload", "exporter", ranges)
    model = apply_precision(graph, how, calibration, has_plugin=True)
    operators = {node.op_type for node in model.graph.node}
    assert {"SpadeNorm", "SpadeNormAdd"} <= operators
    assert ({"SpadeNormInt8", "SpadeNormAddInt8"} <= operators) == (precision == "int8")
    onnx.save(model, tmp_path / "decode.onnx")
    built = rtx_engine(rtx_plugin, tmp_path, tmp_path / "decode.onnx")
    assert built["parsed"], built["errors"]
    size = tiny.config.image_size
    assert built["output_shape"] == [-1, 3, size, size]
    assert isinstance(built["engine_bytes"], int)
    assert built["engine_bytes"] > 10_000


def test_rtx_reports_an_attribute_out_of_range(rtx_plugin: PluginLibrary, tmp_path: Path) -> None:
    built = rtx_engine(rtx_plugin, tmp_path, "fp32", 4, 5)
    assert built["parsed"] is False
    assert any("attribute padding is 5; an integer from 0 to 2" in error for error in built["errors"])  # type: ignore[attr-defined]


def test_rtx_without_the_link_is_refused_instead_of_ending_the_process(rtx_plugin: PluginLibrary) -> None:
    if (rtx_libraries() / "libtensorrt_rtx.so").exists():
        pytest.skip("libtensorrt_rtx.so is beside libtensorrt_rtx.so.1 here, so nothing is missing")
    refused = rtx_engine(rtx_plugin, None, "fp32", 4, 0)
    assert "make a link of that name" in str(refused.get("refused")), refused
