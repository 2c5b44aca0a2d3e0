"""The plugin library: read it, find the one that fits the TensorRT in use, load it into the registry.

Libraries are told apart by the TensorRT generation whose headers they were built with: "trt8", "trt10", "trt11",
"rtx1". TensorRT for RTX takes those of 10 and 11 as well (its headers are in its archive only).
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from sadtrt_core.engine.tensorrt_api import tensorrt_module
from sadtrt_core.errors import Unavailable, UserError
from sadtrt_core.files import read_file
from sadtrt_core.graph.plugin_nodes import PLUGIN_VERSION
from sadtrt_core.renderer.sampling import NODE_TYPE

PATH_VARIABLE = "SADTRT_PLUGIN"
"""Environment variable that names the library to use instead of looking in BUILD_FOLDER."""

LIBRARY_VERSION = "1.4.0"
"""The library this package works with: SADTRT_PLUGIN_VERSION in plugin/common/library.h."""

SOURCE_FOLDER = Path(__file__).resolve().parents[2] / "plugin"
BUILD_FOLDER = SOURCE_FOLDER / "build"

HOW_TO_BUILD = "build it with `sadtrt build-plugin` or `cmake -S plugin -B plugin/build && cmake --build plugin/build`"

_SIZE_LIMIT = 1 << 30
_VERSION_MARK = re.compile(rb"sadtrt-plugin-version:([0-9.]+) ([a-z]+)([0-9]+)\.([0-9]+)\.([0-9]+)\0")


@dataclass(frozen=True)
class PluginLibrary:
    """A library file that was read, not loaded."""

    path: Path
    version: str
    """Of the library itself, such as "1.4.0"."""
    generation: str
    """Of the headers it was built with: "trt8", "trt10", "trt11", "rtx1"."""
    headers: str
    """Full version of those headers, such as "8.6.0"."""
    digest: str
    """SHA-256 of the file in hexadecimal: part of an engine's cache key."""


def read_plugin(path: Path) -> PluginLibrary | Unavailable:
    """Read version and digest from a library file, without loading it."""
    try:
        content = read_file(path, _SIZE_LIMIT)
    except UserError as error:
        return Unavailable(f"{error}; {HOW_TO_BUILD}")
    mark = _VERSION_MARK.search(content)
    if mark is None:
        return Unavailable(f"{path} is not a GridSample3D plugin library of this project; {HOW_TO_BUILD}")
    version, family, major, minor, patch = (part.decode() for part in mark.groups())
    if version != LIBRARY_VERSION:
        return Unavailable(
            f"the plugin library {path} has version {version}, {LIBRARY_VERSION} is expected; {HOW_TO_BUILD} again"
        )
    digest = hashlib.sha256(content).hexdigest()
    return PluginLibrary(path, version, family + major, f"{major}.{minor}.{patch}", digest)


def tensorrt_generation(tensorrt: ModuleType) -> str:
    """The generation of a TensorRT module: "trt8", "trt10", "trt11", or "rtx1" for TensorRT for RTX."""
    prefix = "rtx" if "rtx" in tensorrt.__name__ else "trt"
    return prefix + str(tensorrt.__version__).split(".")[0]


def fits(library: PluginLibrary, generation: str) -> bool:
    """Whether a library may be loaded by a TensorRT generation.

    TensorRT for RTX 1.7 was seen to parse and build with libraries made from the headers of 10.13 and of 11.1.
    """
    if library.generation == generation:
        return True
    return generation.startswith("rtx") and library.generation in ("trt10", "trt11")


def find_plugin(
    generation: str | None = None, environment: Mapping[str, str] = os.environ, folder: Path = BUILD_FOLDER
) -> PluginLibrary | Unavailable:
    """Find a usable library for a TensorRT generation such as "trt8", or say why there is none.

    None means the TensorRT that is installed, or any generation where none is.
    SADTRT_PLUGIN names the one to use. Otherwise folder is searched; a library built for just this generation wins
    over one that also fits, and a later generation over an earlier one.
    """
    if generation is None:
        installed = tensorrt_module()
        generation = None if isinstance(installed, Unavailable) else tensorrt_generation(installed)
    named = environment.get(PATH_VARIABLE)
    if named:
        found = _usable(Path(named), generation)
        return Unavailable(f"{PATH_VARIABLE}: {found.reason}") if isinstance(found, Unavailable) else found
    read = [_usable(path, generation) for path in sorted(folder.glob("libsadtrt_plugin_*.so"))]
    libraries = [found for found in read if isinstance(found, PluginLibrary)]
    if libraries:
        return max(libraries, key=lambda library: (library.generation == generation, _age(library)))
    absences = [found for found in read if isinstance(found, Unavailable)]
    return absences[0] if absences else Unavailable(f"no GridSample3D plugin library in {folder}; {HOW_TO_BUILD}")


def _usable(path: Path, generation: str | None) -> PluginLibrary | Unavailable:
    """The library at `path`, or why a TensorRT of that generation (None: any) cannot use it."""
    found = read_plugin(path)
    if isinstance(found, PluginLibrary) and generation is not None and not fits(found, generation):
        return Unavailable(_misfit(found, generation))
    return found


def built_plugin() -> PluginLibrary:
    """The library for the TensorRT that is installed. Raises UserError where there is none."""
    found = find_plugin()
    if isinstance(found, Unavailable):
        raise UserError(f"the GridSample3D plugin is not built: {found.reason}")
    return found


def plugin_absence() -> Unavailable | None:
    """Why nothing can sample with the plugin here; None where it can."""
    try:
        built_plugin()
    except UserError as error:
        return Unavailable(str(error))
    return None


def load_plugin(library: PluginLibrary, tensorrt: ModuleType) -> None:
    """Make GridSample3D known to the registry of an imported TensorRT module; a second call changes nothing.

    Raises UserError when the library is for another generation, when it cannot be loaded, or when TensorRT for
    RTX could not use it afterwards.
    """
    generation = tensorrt_generation(tensorrt)
    if not fits(library, generation):
        raise UserError(_misfit(library, generation))
    registry = tensorrt.get_plugin_registry()
    if _is_registered(registry):
        return
    if generation == "trt8":
        _load_registering_library(library)
    else:
        if generation.startswith("rtx"):
            _check_rtx_library_name()
        registry.load_library(str(library.path))
    if not _is_registered(registry):
        raise UserError(f"TensorRT {tensorrt.__version__} loaded {library.path} but did not register {NODE_TYPE}")


def _is_registered(registry: Any) -> bool:
    # Asking for a creator by name would print an error where there is none. 8.6 has the second list only. One operator
    # stands for all: they are registered together.
    creators = registry.all_creators if hasattr(registry, "all_creators") else registry.plugin_creator_list
    return any((creator.name, creator.plugin_version) == (NODE_TYPE, PLUGIN_VERSION) for creator in creators)


def _load_registering_library(library: PluginLibrary) -> None:
    try:
        loaded = ctypes.CDLL(str(library.path), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise UserError(f"the plugin library {library.path} cannot be loaded: {error}") from error
    loaded.sadtrt_plugin_registration.restype = ctypes.c_char_p
    problem = loaded.sadtrt_plugin_registration().decode()
    if problem:
        raise UserError(f"the plugin library {library.path} was loaded but not registered: {problem}")


def _check_rtx_library_name() -> None:
    """RTX's ONNX parser opens libtensorrt_rtx.so by that name and ends the process when there is none."""
    name = "libtensorrt_rtx.so"
    spec = importlib.util.find_spec("tensorrt_rtx_libs")
    folders = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
    if any((folder / name).exists() for folder in folders):
        return
    try:
        ctypes.CDLL(name)
    except OSError as error:
        where = folders[0] / f"{name}.1" if folders else f"{name}.1"
        raise UserError(
            f"TensorRT for RTX can take no plugin node, because its parser opens {name} and its wheel has {name}.1 "
            f"only: make a link of that name to {where}, in a folder on LD_LIBRARY_PATH"
        ) from error


def _age(library: PluginLibrary) -> tuple[int, ...]:
    return tuple(int(part) for part in library.headers.split("."))


def _misfit(library: PluginLibrary, generation: str) -> str:
    return (
        f"the plugin library {library.path} was built with the headers of {library.generation} ({library.headers}) and "
        f"{generation} is in use; {HOW_TO_BUILD} with the headers of that version"
    )
