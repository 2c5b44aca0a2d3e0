"""A GridSample3D plugin library as a file: its version, generation and digest, read without loading it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from sadtrt_core.errors import Unavailable

LIBRARY_VERSION = "1.1.0"
"""The library this package works with: SADTRT_PLUGIN_VERSION in plugin/grid_sample_3d.h."""

SOURCE_FOLDER = Path(__file__).resolve().parents[2] / "plugin"
BUILD_FOLDER = SOURCE_FOLDER / "build"

HOW_TO_BUILD = "build it with `sadtrt build-plugin` or `cmake -S plugin -B plugin/build && cmake --build plugin/build`"

_VERSION_MARK = re.compile(rb"sadtrt-plugin-version:([0-9.]+) ([a-z]+)([0-9]+)\.([0-9]+)\.([0-9]+)\0")


@dataclass(frozen=True)
class PluginLibrary:
    """A library file that was read, not loaded."""

    path: Path
    version: str
    """Of the library itself, such as "1.1.0"."""
    generation: str
    """Of the headers it was built with: "trt8", "trt10", "trt11", "rtx1"."""
    headers: str
    """Full version of those headers, such as "8.6.0"."""
    digest: str
    """SHA-256 of the file in hexadecimal: part of an engine's cache key."""


def read_plugin(path: Path) -> PluginLibrary | Unavailable:
    """Read version and digest from a library file, without loading it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return Unavailable(f"the plugin library {path} cannot be read ({error.strerror}); {HOW_TO_BUILD}")
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
