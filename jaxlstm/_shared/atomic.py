"""A file replaced so that a crash at any moment leaves the old one or the new one, whole.

The new one is written under another name in the same directory, read back, hashed, flushed to the disk and
then renamed over the old one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path


def write_atomically(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Replace the file at ``path`` by one of these bytes, or leave it as it was."""
    with _temporary_beside(path) as temporary:
        wanted = hashlib.sha256()
        with open(temporary, "xb") as file:
            for part in parts:
                file.write(part)
                wanted.update(part)
            file.flush()
            os.fsync(file.fileno())
        with open(temporary, "rb") as file:
            found = hashlib.file_digest(file, "sha256")
        if found.digest() != wanted.digest():
            raise OSError(f"{path}: what was written does not read back; is the disk failing?")
        os.replace(temporary, path)
    _sync_directory(path.parent)


@contextlib.contextmanager
def _temporary_beside(path: Path) -> Iterator[Path]:
    """An unused name in the directory of ``path``, removed if it is still there at the end."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    """Flush a rename to the disk, where the system lets a directory be opened."""
    if os.name != "posix":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
