"""The .npy and .npz files of NumPy."""

import re
import zlib

import numpy as np

from ..checkpoint import Checkpoint
from ..errors import printable
from ..io._make_tensor import Budget, make_array
from ..io.files import CheckpointFile
from ..io.storage import ByteReader, Storage
from ..io.tensor import Tensor
from ..io.zip_archive import Archive
from ..pickle.calls import NUMERIC

NPY_MAGIC = b"\x93NUMPY"
MAX_HEADER = 4096
OWN_METADATA = "jaxlstm"
"""The name under which `jaxlstm.save` stores its metadata."""
MAX_METADATA = 1 << 16
HEADER = re.compile(
    r"\{'descr': '(?P<descr>[^']*)', 'fortran_order': (?P<fortran>True|False), "
    r"'shape': \((?P<shape>(?:\d{1,19}, ?)*(?:\d{1,19})?)\), \}\s*",
    re.ASCII,
)


def is_npz(archive: Archive) -> bool:
    """Return True if every entry of an archive is an array."""
    return bool(archive.entries) and all(name.endswith(".npy") for name in archive.entries)


def read_npz(archive: Archive, budget: Budget) -> Checkpoint:
    """Read an archive of arrays, each under the name of its entry without ".npy"."""
    archive.refuse_compressed()
    checkpoint = Checkpoint(archive.source.path, "npz")
    for name, entry in archive.entries.items():
        stream = archive.stream(entry, "numpy-header")
        if name == f"{OWN_METADATA}.npy" and entry.size <= MAX_METADATA:
            archive.verify(entry)
            text = _read_text(stream)
            if text is not None:
                checkpoint.metadata[OWN_METADATA] = text
                continue
            stream = archive.stream(entry, "numpy-header")
        array = _read_array(stream, budget, archive.crc(entry))
        _add(checkpoint, name.removesuffix(".npy"), array)
    return checkpoint


def read_npy(source: CheckpointFile, budget: Budget) -> Checkpoint:
    """Read one array, whose name is ""."""
    checkpoint = Checkpoint(source.path, "npy")
    stream = ByteReader(source, 0, source.size, "numpy-header")
    _add(checkpoint, "", _read_array(stream, budget, None))
    return checkpoint


def _add(checkpoint: Checkpoint, name: str, array: Tensor | None) -> None:
    if array is None:
        checkpoint.warnings.append(f"{printable(name)!r} is not numeric and is skipped")
    else:
        checkpoint.add(name, array)


def _read_array(stream: ByteReader, budget: Budget, crc: int | None) -> Tensor | None:
    """Return the array that makes up the stream; None if its dtype is not numeric.

    `crc` is the declared checksum of header and data.
    """
    start = stream.offset
    header = _read_header(stream)
    descr = header["descr"]
    if not NUMERIC.fullmatch(descr[1:]) or descr[0] not in "<>|=":
        return None
    crc_start = zlib.crc32(stream.source.read(start, stream.offset - start))
    data = stream.span(stream.remaining)
    storage = Storage(stream.source, data.offset, data.length, descr[0] == ">", crc=crc, crc_start=crc_start)
    return make_array(
        storage,
        np.dtype(descr[1:]),
        [int(n) for n in header["shape"].replace(" ", "").split(",") if n],
        budget=budget,
        fortran_order=header["fortran"] == "True",
    )


def _read_text(stream: ByteReader) -> str | None:
    """Return the string that makes up the stream; None if it is another array.

    `jaxlstm.save` stores its metadata in this form, an array of shape () of UTF-32 characters.
    """
    header = _read_header(stream)
    if header["shape"] or not header["descr"].startswith("<U"):
        return None
    return stream.take(stream.remaining).decode("utf-32-le", "replace").rstrip("\0")


def _read_header(stream: ByteReader) -> re.Match[str]:
    """Read the header of an array."""
    if stream.take(6) != NPY_MAGIC:
        raise stream.malformed(f"the array does not start with {NPY_MAGIC!r}")
    major, _minor = stream.take(2)
    if major not in (1, 2, 3):
        raise stream.malformed(f"the array has format version {major}, expected 1 to 3")
    length = stream.number("<H" if major == 1 else "<I")
    if length > MAX_HEADER:
        raise stream.malformed(f"the array header has {length} bytes; the limit is {MAX_HEADER}")
    text = stream.take(length).decode("latin1")
    header = HEADER.fullmatch(text)
    if header is None:
        raise stream.malformed(
            f"the array header is {printable(text)!r}, expected descr, fortran_order and shape"
        )
    return header
