"""`CheckpointFile`: an open file that is read by position.

Files are read with `pread` rather than mapped. Truncating a mapped file kills the process (SIGBUS);
truncating a file that is being read raises an ordinary error.
"""

import os
import stat
import sys
import threading
import weakref
import zlib
from collections.abc import Iterator
from typing import Any

from ..errors import CheckpointError, describe, printable

CHUNK = 1 << 20


class CheckpointFile:
    """A regular file, open for reading as long as this object exists.

    Each read returns exactly the requested bytes. Reads of a file that was truncated, and
    `check_unchanged` for any other change, raise `file-changed`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        try:
            _refuse_special(os.stat(path), self.path)
        except FileNotFoundError:
            raise FileNotFoundError(f"no such file: {self.path}") from None
        fd = _open(path)
        self._close = weakref.finalize(self, os.close, fd)
        self._fd = fd
        self._lock = threading.Lock()
        status = os.fstat(fd)
        _refuse_special(status, self.path)
        self.size = status.st_size
        self._stamp = (status.st_size, status.st_mtime_ns)
        if self.size == 0:
            raise CheckpointError("empty-file", "the file is empty", path=self.path)

    def read(self, offset: int, count: int) -> bytes:
        """Return exactly `count` bytes from `offset` on."""
        self._check_range(offset, count)
        parts = []
        while count:
            part = self._read_at(offset, min(count, 1 << 30))
            if not part:
                raise self._changed()
            parts.append(part)
            offset += len(part)
            count -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_at(self, offset: int, count: int) -> bytes:
        """Return at most `count` bytes from `offset` on."""
        # Windows has no pread, and threads share one file position.
        if sys.platform == "win32":
            with self._lock:
                os.lseek(self._fd, offset, os.SEEK_SET)
                return os.read(self._fd, count)
        return os.pread(self._fd, count, offset)

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill `target` with the bytes from `offset` on."""
        self._check_range(offset, len(target))
        position = 0
        while position < len(target):
            count = self._fill(offset + position, target[position : position + (1 << 30)])
            if not count:
                raise self._changed()
            position += count

    def _fill(self, offset: int, target: memoryview) -> int:
        """Read at most `len(target)` bytes from `offset` on into `target`, and return their number."""
        if hasattr(os, "preadv"):
            return os.preadv(self._fd, [target], offset)
        # Windows has no preadv, nor had macOS before version 11.
        part = self._read_at(offset, min(len(target), CHUNK))
        target[: len(part)] = part
        return len(part)

    def chunks(self, offset: int, count: int) -> Iterator[bytes]:
        """Yield `count` bytes from `offset` on, in chunks."""
        end = offset + count
        while offset < end:
            part = self.read(offset, min(CHUNK, end - offset))
            yield part
            offset += len(part)

    def crc(self, offset: int, count: int) -> int:
        """Return the CRC-32 of `count` bytes from `offset` on."""
        crc = 0
        for part in self.chunks(offset, count):
            crc = zlib.crc32(part, crc)
        return crc

    def check_unchanged(self) -> None:
        """Raise `file-changed` if the size or modification time differs from when it was opened."""
        status = os.fstat(self._fd)
        if (status.st_size, status.st_mtime_ns) != self._stamp:
            raise self._changed()

    def _changed(self) -> CheckpointError:
        return CheckpointError(
            "file-changed", "the file was modified while it was being read; read it again", path=self.path
        )

    def _check_range(self, offset: int, count: int) -> None:
        if offset < 0 or count < 0 or offset + count > self.size:
            raise CheckpointError(
                "truncated",
                f"expected {count} more bytes, but the file ends at {self.size}",
                offset,
                path=self.path,
            )


class FilePart(CheckpointFile):
    """A byte range of a file, such as an entry of an archive, as a separate file."""

    def __init__(self, whole: CheckpointFile, offset: int, size: int) -> None:
        self.path = whole.path
        self.size = size
        self._whole = whole
        self._start = offset

    def _read_at(self, offset: int, count: int) -> bytes:
        return self._whole._read_at(self._start + offset, count)

    def _fill(self, offset: int, target: memoryview) -> int:
        return self._whole._fill(self._start + offset, target)

    def check_unchanged(self) -> None:
        """Raise `file-changed` if the whole file has changed."""
        self._whole.check_unchanged()


class MemoryFile(CheckpointFile):
    """Bytes in memory as a file; `path` names them in error messages."""

    def __init__(self, data: bytes, path: str) -> None:
        self.path = path
        self.size = len(data)
        self._data = data

    def _read_at(self, offset: int, count: int) -> bytes:
        return self._data[offset : offset + count]

    def _fill(self, offset: int, target: memoryview) -> int:
        target[:] = memoryview(self._data)[offset : offset + len(target)]
        return len(target)

    def check_unchanged(self) -> None:
        """Do nothing: bytes do not change."""


def open_beside(path: str, name: Any) -> CheckpointFile:
    """Open the file `name` in the folder of the file at `path`; a link must not lead out of the folder."""
    if type(name) is not str or not _is_file_name(name):
        message = f"the file names {describe(name)}, expected a file name without directory"
        raise CheckpointError("shard-path", message)
    folder = os.path.realpath(os.path.dirname(path) or ".")
    target = os.path.realpath(os.path.join(folder, name))
    if os.path.dirname(target) != folder:
        raise CheckpointError(
            "shard-path",
            f"{printable(name)!r} is a link out of the directory of the file that names it; "
            "copy the files into one directory",
        )
    try:
        return CheckpointFile(target)
    except OSError as error:
        message = f"{printable(name)!r} cannot be opened: {error.strerror or 'no such file'}"
        raise CheckpointError("shard-mismatch", message) from None


def _is_file_name(name: str) -> bool:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        # A lone surrogate, which JSON can encode.
        return False
    return name not in ("", ".", "..") and not set(name) & {"/", "\\", "\0"}


def _open(path: str | os.PathLike[str]) -> int:
    if sys.platform == "win32":
        return os.open(path, os.O_RDONLY | os.O_BINARY | os.O_NOINHERIT)
    # O_NONBLOCK: a FIFO that replaced the file since os.stat must not block until it has a writer.
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def _refuse_special(status: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise CheckpointError(
            "not-a-file", f"the path is {kind}; pass the path of one checkpoint file", path=path
        )
