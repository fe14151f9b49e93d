"""The byte order of an archive of torch.save or torch.export.save."""

from ..errors import CheckpointError, printable
from ..io.zip_archive import Archive


def is_big_endian(archive: Archive, prefix: str) -> bool:
    """Return the byte order of the archive. Before torch 2.1 it was always little-endian."""
    entry = archive.entries.get(f"{prefix}byteorder")
    if entry is None:
        return False
    order = archive.stream(entry).take(entry.size) if entry.size <= 16 else b"?"
    if order not in (b"little", b"big"):
        message = f"the byteorder entry is {printable(repr(order))}, expected b'little' or b'big'"
        raise CheckpointError("byteorder", message, entry.offset)
    return order == b"big"
