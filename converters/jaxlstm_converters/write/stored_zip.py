"""Zip archives as torch writes them: stored entries, aligned so that torch can map them into memory."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

_ALIGNMENT = 64
_LOCAL_HEADER = 30  # bytes before the name of an entry


def zip_bytes(entries: Mapping[str, bytes]) -> bytes:
    """Return an archive of these entries, in this order."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in entries.items():
            _add(archive, name, data)
    return buffer.getvalue()


def has_entry(path: Path, name: str) -> bool:
    """Return True if a file is a zip archive with this entry."""
    try:
        with zipfile.ZipFile(path) as archive:
            return name in archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return False


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    """Add a stored entry; an extra field of the right length aligns its data."""
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    assert archive.fp is not None
    start = archive.fp.tell() + _LOCAL_HEADER + len(entry.filename) + 4
    padding = -start % _ALIGNMENT
    entry.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    archive.writestr(entry, data)
