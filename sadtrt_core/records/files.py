"""Files of a run: written whole and flushed, every failure a RecordsError, and a link that points at the newest."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from sadtrt_core.files import write_whole
from sadtrt_core.records.codec import RecordsError


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write `path`, whole and flushed to the disk (files.py).

    Raises RecordsError naming the path and the system's reason; the old file, if any, is then still there whole.
    """
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    try:
        write_whole(path, data, durable=True)
    except OSError as error:
        raise RecordsError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose a folder that can be written"
        ) from error


def point_at(link: Path, target_name: str) -> None:
    """Make `link` a relative symlink to its sibling `target_name`, replacing an older link in one step.

    Where the file system has no symlinks, `<link>.txt` holding the name is written instead.
    """
    temporary = link.with_name(f".{link.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        os.symlink(target_name, temporary, target_is_directory=True)
    except (OSError, NotImplementedError):
        write_atomically(link.with_name(link.name + ".txt"), target_name + "\n")
        return
    try:
        os.replace(temporary, link)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise RecordsError(
            f"cannot point {link} at {target_name}: {error.strerror or error}; move away what is there"
        ) from error
    # A text pointer left by an earlier run on a file system without symlinks would contradict the link.
    with contextlib.suppress(OSError):
        link.with_name(link.name + ".txt").unlink(missing_ok=True)
