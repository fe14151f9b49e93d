"""Files: errors for missing paths, and files that are replaced atomically.

After a crash, either the old file or the new one is there, complete. The new file is written under a
temporary name in the same directory, read back, hashed, flushed to the disk and renamed over the old one.
"""

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path


def require_replaceable(path: Path, *, overwrite: bool, is_ours: Callable[[Path], bool]) -> None:
    """Raise if writing a file at ``path`` would destroy something that jaxlstm did not write.

    ``overwrite`` permits replacing any file, but never a directory or a device.
    """
    if not os.path.lexists(path):
        return
    if path.exists() and not path.is_file():
        kind = "a directory" if path.is_dir() else "not a regular file"
        raise FileExistsError(f"{path} is {kind}; choose another path")
    if not overwrite and not is_ours(path):
        raise FileExistsError(
            f"{path} exists and was not written by jaxlstm; choose another path, or pass overwrite=True to "
            "replace it"
        )


def write_atomically(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Replace the file at ``path`` by one with these bytes; on an error it is unchanged."""
    write_together({path: parts})


def write_together(files: Mapping[Path, Iterable[bytes | memoryview]]) -> None:
    """Replace several files by the given bytes. All of them are written before the first is replaced."""
    with contextlib.ExitStack() as stack:
        temporaries = {}
        for path, parts in files.items():
            require_folder_of(path)
            temporaries[path] = stack.enter_context(_temporary_beside(path))
            _write_and_compare(temporaries[path], parts, path)
        for path, temporary in temporaries.items():
            os.replace(temporary, path)
    for folder in {path.parent for path in files}:
        _sync_directory(folder)


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary name for a large file, which replaces the file at ``path`` if the body succeeds.

    Temporary files that killed processes left for this path are removed first. A living process, which may
    write the same path, holds a lock on its file.
    """
    require_folder_of(path)
    for name in os.listdir(path.parent):
        if re.fullmatch(rf"\.{re.escape(path.name)}\.[0-9a-f]{{16}}\.tmp", name):
            with contextlib.suppress(OSError), _locked(path.parent / name) as is_abandoned:
                if is_abandoned:
                    (path.parent / name).unlink(missing_ok=True)
    with _temporary_beside(path) as temporary:
        try:
            with _locked(temporary):
                yield temporary
                with open(temporary, "r+b") as file:  # Windows flushes only files that are open for writing.
                    os.fsync(file.fileno())
                os.replace(temporary, path)
        except OSError as error:
            if error.filename in (None, str(temporary)):  # A full disk names no file.
                error.filename = str(path)
            raise
    _sync_directory(path.parent)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Lock a file until the end of the context or of the process. Yield False if that is impossible.

    Windows has no such locks, but does not remove a file that is open.
    """
    if os.name != "posix":
        yield True
        return
    import fcntl

    with open(path, "ab") as file:
        is_locked = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # another process has the lock, or the file system has none
            is_locked = False
        yield is_locked


def _write_and_compare(temporary: Path, parts: Iterable[bytes | memoryview], path: Path) -> None:
    """Write a file, flush it to the disk, read it back, and compare the hashes."""
    expected = hashlib.sha256()
    with open(temporary, "xb") as file:
        for part in parts:
            file.write(part)
            expected.update(part)
        file.flush()
        os.fsync(file.fileno())
    with open(temporary, "rb") as file:
        actual = hashlib.file_digest(file, "sha256")
    if actual.digest() != expected.digest():
        raise OSError(f"{path}: the bytes read back differ from those written; check the disk")


@contextlib.contextmanager
def _temporary_beside(path: Path) -> Iterator[Path]:
    """Yield an unused name in the directory of ``path``; remove the file if it remains."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
    finally:
        if temporary.exists():  # A read-only folder refuses even to remove a missing file.
            temporary.unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    """Flush a rename to the disk; only POSIX systems can open a directory."""
    if os.name != "posix":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_path(path: object, fix: str) -> None:
    """Raise TypeError, with the fix at the end of its message, if ``path`` is not a path."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a str or os.PathLike, got {type(path).__name__}; {fix}")


def require_exists(path: str | os.PathLike[str]) -> None:
    """Raise FileNotFoundError if neither a file nor a folder exists at ``path``."""
    if not os.path.exists(path):
        raise FileNotFoundError(f"no such file: {os.fspath(path)}")


def require_folder_of(path: Path) -> None:
    """Raise FileNotFoundError if the folder in which ``path`` is to be written does not exist."""
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"{path}: the folder {path.parent} does not exist; create it or choose another path"
        )
