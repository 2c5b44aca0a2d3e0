"""Names the pictures of a run's worst frames and finds them again."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from pathlib import Path

from sadtrt_core.records.schema import RecordKey
from sadtrt_core.records.store import FRAMES_FOLDER

KINDS = ("reference", "candidate", "error")
PICTURE_LIMIT = 4 * 1024 * 1024
"""Bytes of one picture that a report takes in; a 512-pixel frame as PNG has well under one megabyte."""


@dataclass(frozen=True)
class FrameSet:
    """The pictures of one worst frame as (kind, data URI), under the name their files share."""

    name: str
    pictures: tuple[tuple[str, str], ...]


def frame_file(folder: Path, key: RecordKey, kind: str) -> Path:
    """Where a run's folder keeps one picture of the worst frame of `key`; `kind` is one of KINDS.

    Raises ValueError for another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"a frame picture is one of {', '.join(KINDS)} but was asked for as {kind!r}")
    words = [key.stage, key.runner, key.precision, key.grid_sample, f"batch{key.batch}"]
    name = "-".join(re.sub(r"[^A-Za-z0-9]+", "_", word) for word in words if word != "none")
    return folder / FRAMES_FOLDER / f"{name}-{kind}.png"


def frames_of(folder: Path) -> tuple[FrameSet, ...]:
    """Every worst frame in a run's folder, by name; links, files over PICTURE_LIMIT and other formats are left out."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted((folder / FRAMES_FOLDER).glob("*.png")):
        name, _, kind = path.stem.rpartition("-")
        if kind not in KINDS or path.is_symlink() or not path.is_file() or path.stat().st_size > PICTURE_LIMIT:
            continue
        data = path.read_bytes()
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            found.setdefault(name, {})[kind] = "data:image/png;base64," + base64.b64encode(data).decode("ascii")
    return tuple(
        FrameSet(name, tuple((kind, uris[kind]) for kind in KINDS if kind in uris)) for name, uris in found.items()
    )
