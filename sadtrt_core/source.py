"""A digest of this package's own source files, so that what a cache keeps is not older than the code that made it."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

_PACKAGE = Path(__file__).parent


@functools.cache
def source_digest(*names: str) -> str:
    """SHA-256 in hexadecimal over Python files of this package: `names` are files or folders relative to it.

    Raises FileNotFoundError for a name that does not exist.
    """
    digest = hashlib.sha256()
    for name in names:
        path = _PACKAGE / name
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        for file in files:
            digest.update(file.relative_to(_PACKAGE).as_posix().encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()
