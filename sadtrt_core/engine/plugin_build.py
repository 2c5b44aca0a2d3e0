"""Build the plugin library, or the kernels of its operators without TensorRT, with nvcc alone.

plugin/CMakeLists.txt does the same for those who prefer CMake; both write the same file names.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from sadtrt_core.engine.plugin import BUILD_FOLDER, SOURCE_FOLDER, PluginLibrary, read_plugin
from sadtrt_core.errors import Unavailable, UserError
from sadtrt_core.files import read_file

# An operator is a folder: its sources are found by their names, here and in plugin/CMakeLists.txt.
KERNEL_SOURCES = ("*/*.cu", "common/version.cpp")
PLUGIN_SOURCES = ("*/*.cu", "common/*.cpp", "*/operator.cpp")
KERNEL_LIBRARY = "libsadtrt_kernels.so"

#: Where github.com/NVIDIA/TensorRT has the headers of a generation.
HEADER_TAGS = {"trt8": "v8.6.0", "trt10": "v10.13.3", "trt11": "v11.1"}
WHERE_HEADERS_ARE = (
    "TensorRT's C++ headers come with its tar archive (name the folder in TENSORRT_ROOT), with the Debian package "
    "libnvinfer-headers-dev, or as the folder include/ of github.com/NVIDIA/TensorRT at the tag of the version in use "
    f"({', '.join(HEADER_TAGS.values())}); no wheel has them"
)
_COMPILE_SECONDS = 900
_HEADER_LIMIT = 1 << 20


def build_plugin(
    include_dir: Path | None = None,
    build_dir: Path | None = None,
    architectures: str | Sequence[str] | None = None,
) -> PluginLibrary:
    """Compile libsadtrt_plugin_<generation>.so into build_dir (plugin/build) and return it.

    include_dir holds NvInfer.h; None takes it from TENSORRT_INCLUDE, TENSORRT_ROOT or TensorRT_ROOT. architectures
    are compute capabilities without the dot ("90", "80;90" or a sequence); None takes those of the GPUs present.
    Raises UserError, leaving an older library as it was, when nvcc, the headers or a GPU to build for are missing
    or nvcc fails.
    """
    include_dir = include_dir if include_dir is not None else headers_folder(os.environ)
    generation, _ = headers_version(include_dir)
    output = (build_dir or BUILD_FOLDER) / f"libsadtrt_plugin_{generation}.so"
    _compile(PLUGIN_SOURCES, output, architectures, ["-DSADTRT_WITH_TENSORRT", "-isystem", str(include_dir)])
    built = read_plugin(output)
    if isinstance(built, Unavailable):
        raise UserError(built.reason)
    return built


def build_kernel(build_dir: Path = BUILD_FOLDER, architectures: str | Sequence[str] | None = None) -> Path:
    """Compile the kernel library, which needs no TensorRT headers; arguments and errors as for build_plugin."""
    output = build_dir / KERNEL_LIBRARY
    _compile(KERNEL_SOURCES, output, architectures, [])
    return output


def headers_folder(environment: Mapping[str, str]) -> Path:
    """The folder of TensorRT's headers that the environment names. Raises UserError when it names none."""
    if environment.get("TENSORRT_INCLUDE"):
        return Path(environment["TENSORRT_INCLUDE"])
    for variable in ("TENSORRT_ROOT", "TensorRT_ROOT"):
        if environment.get(variable):
            return Path(environment[variable]) / "include"
    raise UserError(f"no folder of TensorRT headers was given: {WHERE_HEADERS_ARE}")


def headers_version(include_dir: Path) -> tuple[str, str]:
    """Generation and full version of a folder of headers, such as ("trt8", "8.6.0").

    Raises UserError when the folder has no NvInferVersion.h or that file states no version.
    """
    path = include_dir / "NvInferVersion.h"
    try:
        text = read_file(path, _HEADER_LIMIT).decode(errors="replace")
    except UserError as error:
        raise UserError(f"{error}: {WHERE_HEADERS_ARE}") from error
    defined: dict[str, str] = dict(re.findall(r"^#define +(\w+) +(\w+)", text, re.MULTILINE))
    family = "rtx" if "TRT_MAJOR_RTX" in defined else "trt"
    names = "TRT_{}_RTX" if family == "rtx" else "NV_TENSORRT_{}"
    numbers: list[str] = []
    for part in ("MAJOR", "MINOR", "PATCH"):
        value = defined.get(names.format(part), "")
        value = defined.get(value, value)  # from 10.11 on the number hides behind a second name
        if not value.isdigit():
            raise UserError(f"{path} states no TensorRT version: {WHERE_HEADERS_ARE}")
        numbers.append(value)
    return family + numbers[0], ".".join(numbers)


def present_architectures() -> list[str]:
    """Compute capabilities of the GPUs of this machine, such as ["90"]. Raises UserError when there is none."""
    try:
        answer = subprocess.run(
            ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError("no GPU is present to build for: name the architectures, for example 90 for Hopper") from error
    return sorted({line.strip().replace(".", "") for line in answer.splitlines() if line.strip()})


def _compile(
    sources: Sequence[str], output: Path, architectures: str | Sequence[str] | None, options: list[str]
) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise UserError("nvcc is not on the PATH: the CUDA toolkit is needed to build the plugin")
    if isinstance(architectures, str):
        architectures = re.split(r"[;,\s]+", architectures.strip())
    targets = list(architectures) if architectures is not None else present_architectures()
    if not targets or not all(re.fullmatch(r"[0-9]{2,3}[af]?", target) for target in targets):
        raise UserError(f"architectures {targets} are not compute capabilities without the dot, such as 90")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        unfinished = Path(folder) / output.name
        command = [nvcc, "-std=c++17", "-O3", "-shared", "-cudart", "static", "--threads", "0"]
        command += ["-Xcompiler", "-fPIC,-fvisibility=hidden", "-Xlinker", "--no-undefined", *options]
        for target in targets:
            command += ["-gencode", f"arch=compute_{target},code=sm_{target}"]
        command += ["-o", str(unfinished)]
        command += [str(path) for pattern in sources for path in sorted(SOURCE_FOLDER.glob(pattern))]
        try:
            subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_SECONDS, check=True)
        except subprocess.CalledProcessError as error:
            said = " | ".join([line for line in error.stderr.splitlines() if line.strip()][-6:])
            raise UserError(f"nvcc could not build {output.name}: {said or 'it said nothing'}") from error
        except subprocess.TimeoutExpired as error:
            raise UserError(f"nvcc took longer than {_COMPILE_SECONDS} s to build {output.name}") from error
        unfinished.replace(output)
