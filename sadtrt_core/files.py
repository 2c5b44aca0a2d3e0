"""Files that several processes write: one lock for each, whole or not at all; and a digest of this package's code."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import os
import secrets
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sadtrt_core import LAYERS
from sadtrt_core.errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_TOML_LIMIT = 1 << 20
#: In a line, and in all.
_MOST_DOTS, _ALL_DOTS = 100, 20_000


@contextlib.contextmanager
def locked(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock beside `path` (`<name>.lock`) inside the block; the kernel releases it if the process dies.

    `waiting` is called once where another process has it. Raises UserError where nothing can be written there.
    """
    with contextlib.ExitStack() as held:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = held.enter_context(open(path.with_name(f"{path.name}.lock"), "w"))
        except OSError as error:
            raise _cannot_write(path, error) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def write_whole(path: Path, content: bytes, durable: bool = False) -> None:
    """Write a file in an existing folder so that a reader sees all of it or what was there before.

    The temporary name is no other writer's, and nothing is left of it on an error. What is `durable` is on the disk,
    not only on its way there, when this returns. Raises OSError; the old file, if any, is then still there whole.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if durable:
        _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    # A rename survives a power cut only once its folder is flushed; some systems cannot open folders, and need not.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_file(path: Path, limit: int) -> bytes:
    """All of a plain file of at most `limit` bytes; UserError for whatever else there is, or is not, at `path`."""
    return _read(path, limit, whole=True)


def file_start(path: Path, count: int) -> bytes:
    """The first `count` bytes of a plain file; UserError for whatever else there is, or is not, at `path`."""
    return _read(path, count, whole=False)


def _read(path: Path, count: int, whole: bool) -> bytes:
    try:
        # Opening a pipe would wait for somebody to write to it, and a device may have no end.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UserError(f"cannot read {path}: it is no plain file")
            if whole and status.st_size > count:
                raise UserError(f"{path} has more than the {count / 1e6:.0f} MB that such a file may have")
            # Python takes as much memory as it is asked to read, whatever there is.
            return file.read(min(count, status.st_size + 1))
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file of at most 1 MiB; UserError for whatever else there is at `path`."""
    try:
        text = read_file(path, _TOML_LIMIT).decode("utf-8")
        # The parser keeps every beginning of a key: memory grows with the square of its parts.
        if text.count(".") > _ALL_DOTS or any(line.count(".") > _MOST_DOTS for line in text.split("\n")):
            raise ValueError(f"a line has more than {_MOST_DOTS} dots, or all have more than {_ALL_DOTS}")
        return tomllib.loads(text)
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        words = "its values are nested too deep" if isinstance(error, RecursionError) else error
        raise UserError(f"{path} is not a TOML file: {words}") from error


def write_file(path: Path, content: bytes | str) -> None:
    """Write `path`, whole and flushed to the disk (`write_whole`).

    A link is followed, and what is no plain file, such as /dev/stdout, is written to where it is. Raises UserError
    naming the path and the system's reason; the old file, if any, is then still there whole.
    """
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    try:
        target = path.resolve()
        if target.exists() and not target.is_file():
            target.write_bytes(data)
        else:
            write_whole(target, data, durable=True)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot write {path}: {error.strerror or error}; free some space or choose a folder that can be written"
    )


def keep_file(path: Path, content: bytes | str) -> None:
    """Put a plain file at `path`, whole (`write_whole`), its folder made where there is none. Raises UserError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise _cannot_write(path, error) from error


def require_writable(path: Path, *, file: bool = False) -> None:
    """Find out now, not after minutes of work, that nothing can be written in a folder, or no `file` at a path.

    Where there is no such folder, the nearest one above is tried, so that nothing is left behind by what is refused
    later; what is no plain file, such as /dev/stdout, is left alone. Raises UserError.
    """
    folder = path.parent if file else path
    try:
        if file and path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if file and path.exists() and not path.is_file():
            return
        while not _is_there(folder):
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"probe")
    except OSError as error:
        raise _cannot_write(path, error) from error


def _is_there(path: Path) -> bool:
    # os.path.lexists takes a name that is too long, or under a file, for one that is free.
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def point_at(link: Path, target_name: str) -> None:
    """Make `link` a relative symlink to its sibling `target_name`, replacing an older link in one step.

    Where the file system has no symlinks, `<link>.txt` holding the name is written instead.
    """
    temporary = link.with_name(f".{link.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        os.symlink(target_name, temporary, target_is_directory=True)
    except (OSError, NotImplementedError):
        write_file(link.with_name(link.name + ".txt"), target_name + "\n")
        return
    try:
        os.replace(temporary, link)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise UserError(
            f"cannot point {link} at {target_name}: {error.strerror or error}; move away what is there"
        ) from error
    # A text pointer left by an earlier run on a file system without symlinks would contradict the link.
    with contextlib.suppress(OSError):
        link.with_name(link.name + ".txt").unlink(missing_ok=True)


_PACKAGE = Path(__file__).parent


@functools.cache
def code_digest(layer: str, package: Path = _PACKAGE) -> str:
    """SHA-256 in hexadecimal over the Python files of `layer` and of all layers below it (`sadtrt_core.LAYERS`).

    Cache keys contain it, so that nothing cached is older than the code that made it.
    """
    digest = hashlib.sha256()
    for name in LAYERS[: LAYERS.index(layer) + 1]:
        folder = package / name
        for file in sorted(folder.rglob("*.py")) if folder.is_dir() else [package / f"{name}.py"]:
            digest.update(file.relative_to(package).as_posix().encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()
