"""One open file, read by position.

`pread` and not `mmap`: a file that is cut while it is mapped kills the process (SIGBUS), a file
that is cut while it is read is an error like any other. Nothing is read before it is asked for.
"""

from __future__ import annotations

import os
import stat
import sys
import threading
import weakref
import zlib
from collections.abc import Iterator

from ..errors import CheckpointError

CHUNK = 1 << 20


class Source:
    """A regular file, open for reading until nobody holds this object.

    Every read is of exactly the bytes asked for, and fails with `file-changed` once the file's
    size or modification time is not that of the moment it was opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        _refuse_special(os.stat(path), self.path)
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
        """The `count` bytes at `offset`; never fewer."""
        self._refuse_outside(offset, count)
        parts = []
        while count:
            part = self._read_at(offset, min(count, 1 << 30))
            if not part:
                raise self.changed()
            parts.append(part)
            offset += len(part)
            count -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_at(self, offset: int, count: int) -> bytes:
        """At most `count` bytes at `offset`."""
        if sys.platform == "win32":  # has no pread, and one position for all threads
            with self._lock:
                os.lseek(self._fd, offset, os.SEEK_SET)
                return os.read(self._fd, count)
        return os.pread(self._fd, count, offset)

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill `target` with the bytes at `offset`."""
        self._refuse_outside(offset, len(target))
        position = 0
        for part in self.chunks(offset, len(target)):  # macOS has no preadv
            target[position : position + len(part)] = part
            position += len(part)

    def chunks(self, offset: int, count: int) -> Iterator[bytes]:
        """The `count` bytes at `offset`, a piece at a time."""
        end = offset + count
        while offset < end:
            part = self.read(offset, min(CHUNK, end - offset))
            yield part
            offset += len(part)

    def crc(self, offset: int, count: int, crc: int = 0) -> int:
        """CRC-32 of the `count` bytes at `offset`, continued from that of what came before."""
        for part in self.chunks(offset, count):
            crc = zlib.crc32(part, crc)
        return crc

    def check_unchanged(self) -> None:
        """Raise `file-changed` if the file was written to since it was opened."""
        status = os.fstat(self._fd)
        if (status.st_size, status.st_mtime_ns) != self._stamp:
            raise self.changed()

    def changed(self) -> CheckpointError:
        """The error for a file that was written to while it was read."""
        return CheckpointError(
            "file-changed", "the file was changed while it was being read", path=self.path
        )

    def _refuse_outside(self, offset: int, count: int) -> None:
        if offset < 0 or count < 0 or offset + count > self.size:
            raise CheckpointError(
                "truncated",
                f"{count} bytes are announced and the file ends at {self.size}",
                offset=offset,
                path=self.path,
            )


def _open(path: str | os.PathLike[str]) -> int:
    if sys.platform == "win32":
        return os.open(path, os.O_RDONLY | os.O_BINARY | os.O_NOINHERIT)
    # O_NONBLOCK: opening a FIFO that took the file's place must not wait for a writer.
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def _refuse_special(status: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise CheckpointError(
            "not-a-file", f"this is {kind}; give the path of one checkpoint file", path=path
        )
