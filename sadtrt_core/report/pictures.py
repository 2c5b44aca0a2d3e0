"""The still pictures of a report: the worst frames of a run."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from sadtrt_core.errors import UserError
from sadtrt_core.files import read_file
from sadtrt_core.records.store import FRAMES_FOLDER

PICTURE_LIMIT = 4 * 1024 * 1024
"""Bytes of one picture that a report takes in; a worst frame with its error map has well under a megabyte."""
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Picture:
    """A picture's name (its file's, without the ending) and its content as a data URI."""

    name: str
    uri: str


def frames_of(folder: Path) -> tuple[Picture, ...]:
    """Every PNG in a run's frames/, by name; links, files over PICTURE_LIMIT and other formats are left out."""
    pictures = []
    for path in sorted((folder / FRAMES_FOLDER).glob("*.png")):
        data = frame_file(path, PICTURE_LIMIT)
        if data.startswith(PNG_SIGNATURE):
            pictures.append(Picture(path.stem, "data:image/png;base64," + base64.b64encode(data).decode("ascii")))
    return tuple(pictures)


def frame_file(path: Path, limit: int) -> bytes:
    """A file of frames/; nothing of a link, of one over `limit` bytes and of what is no plain file."""
    try:
        return b"" if path.is_symlink() else read_file(path, limit)
    except UserError:
        return b""
