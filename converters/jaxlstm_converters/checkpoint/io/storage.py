"""Storages: byte ranges that tensors are views of."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import CheckpointError
from .files import CheckpointFile


@dataclass(slots=True, eq=False)
class Storage:
    """A byte range that tensors are views of.

    Attributes:
        source: the file; None if `data` holds the bytes.
        offset: the position of the first byte in the file.
        nbytes: the length.
        big_endian: the byte order of the elements.
        crc: the CRC-32 that the file declares, or None.
        crc_start: the CRC-32 of the bytes before this range that `crc` covers too.
        dtype: the dtype of all its tensors; None until the first tensor sets it.
        data: the bytes, for short storages that had to be decoded.
    """

    source: CheckpointFile | None
    offset: int
    nbytes: int
    big_endian: bool = False
    crc: int | None = None
    crc_start: int = 0
    dtype: np.dtype[Any] | None = None
    data: bytes | None = None
    _verified: bool = field(default=False, repr=False)

    def use_as(self, dtype: np.dtype[Any]) -> None:
        """Set the dtype, or raise `storage-dtype` if it has another one."""
        if self.dtype is not None and self.dtype != dtype:
            message = f"one storage is used as {self.dtype.name} and as {dtype.name}"
            raise CheckpointError("storage-dtype", message, self.offset)
        self.dtype = dtype

    def read_into(self, start: int, target: memoryview) -> None:
        """Fill `target` from byte `start` on, after comparing the checksum of the whole storage."""
        if self.source is None:
            assert self.data is not None
            target[:] = self.data[start : start + len(target)]
            return
        self.source.check_unchanged()
        whole = start == 0 and len(target) == self.nbytes
        if not whole and self.crc is not None and not self._verified:
            self._verify(self.source.crc(self.offset, self.nbytes, self.crc_start))
        self.source.read_into(self.offset + start, target)
        if whole and self.crc is not None:
            self._verify(zlib.crc32(target, self.crc_start))
        self.source.check_unchanged()

    def _verify(self, crc: int) -> None:
        if crc != self.crc:
            assert self.source is not None
            raise CheckpointError(
                "crc-mismatch",
                f"a storage has checksum {crc:08x}, but the file declares {self.crc:08x}",
                self.offset,
                path=self.source.path,
            )
        self._verified = True


@dataclass(slots=True, eq=False)
class Latin1Storage(Storage):
    """Bytes that a pickle of protocol 0 to 2 holds as text, in `encoded` bytes of UTF-8."""

    encoded: int = 0

    def read_into(self, start: int, target: memoryview) -> None:
        """Fill `target` from byte `start` on. The text before it is decoded too."""
        assert self.source is not None
        self.source.check_unchanged()
        position, rest, end = 0, b"", start + len(target)
        for part in self.source.chunks(self.offset, self.encoded):
            raw, rest = _decode(rest + part)
            low, high = max(start, position), min(end, position + len(raw))
            if low < high:
                target[low - start : high - start] = raw[low - position : high - position]
            position += len(raw)
            if position >= end:
                break
        self.source.check_unchanged()


def count_latin1(source: CheckpointFile, offset: int, length: int) -> int:
    """Return the number of bytes that UTF-8 text at `offset` stands for.

    Raises:
        CheckpointError: pickle-malformed, if the text is not UTF-8 or not of Latin-1 characters.
    """
    count, rest = 0, b""
    try:
        for part in source.chunks(offset, length):
            raw, rest = _decode(rest + part)
            count += len(raw)
    except UnicodeError:
        rest = b"?"
    if rest:
        message = "bytes are pickled as text, but the text is not Latin-1"
        raise CheckpointError("pickle-malformed", message, offset)
    return count


def _decode(text: bytes) -> tuple[bytes, bytes]:
    """Return the bytes that UTF-8 text stands for, and the first byte of a character cut in two."""
    cut = len(text) - (text[-1] >= 0xC0)
    return text[:cut].decode("utf-8").encode("latin1"), text[cut:]
