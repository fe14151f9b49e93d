"""The one error of the reader, and the table of its codes.

A code is stable: programs may branch on it. `docs/containers.md` explains each, and a test holds
that page and this table together.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

CODES: dict[str, str] = {
    # the file
    "not-a-file": "a directory, a FIFO, a socket or a device, not a regular file",
    "empty-file": "the file has no bytes",
    "unknown-format": "the first bytes are those of no container that is read here",
    "truncated": "the bytes end before what they announce",
    "trailing-bytes": "bytes follow the end of the container",
    "file-changed": "the file was written to between two reads",
    # zip archives
    "zip-directory": "the directory of the archive is malformed",
    "zip-duplicate-name": "two entries of the archive have one name",
    "zip-overlap": "entries of the archive overlap, or leave bytes that belong to none",
    "zip-header-mismatch": "the local header of an entry differs from the central directory",
    "zip-compressed": "an entry is compressed; only stored entries are read",
    "zip-encrypted": "an entry is encrypted",
    "zip-layout": "the entries are those of no checkpoint, or of two",
    "crc-mismatch": "the bytes of an entry do not have the checksum that the archive states",
    "byteorder": "the archive states a byte order that is neither little nor big",
    # pickles
    "pickle-opcode": "an opcode that no checkpoint needs, or that the format does not have",
    "pickle-malformed": "the opcodes do not fit together, or the bytes end early",
    "pickle-global": "a global whose name is dotted or not a plain name",
    "pickle-build": "BUILD on something that has no state of its own",
    "pickle-budget": "the pickle would need more memory than a file of this size may",
    "duplicate-key": "a dictionary sets the same key twice",
    "node-budget": "following the references visits far more values than the file holds",
    "too-deep": "containers are nested too deeply",
    "cycle": "a container holds itself",
    "foreign-root": "the file holds an object that only its own code could turn into tensors",
    "foreign-weight": "a weight is the result of a call that is not made here",
    # tensors
    "storage-key": "a storage key is not a plain number",
    "missing-storage": "a tensor needs a storage that the file lacks",
    "storage-size": "a storage states another size than its bytes have",
    "storage-dtype": "one storage is used with two dtypes",
    "tensor-shape": "sizes, strides or offset are not whole numbers of a possible tensor",
    "tensor-bounds": "a tensor reaches outside its storage",
    "tensor-budget": "a tensor would need far more memory than the file has bytes",
    "unsupported-tensor": "a quantized, sparse, nested, meta or subclassed tensor",
    "duplicate-name": "two tensors would have the same name",
    # other containers
    "legacy-header": "the head of a stream from before torch 1.6 is wrong",
    "tar-entry": "an entry of a legacy tar is a link, a path, or unknown",
    "safetensors-header": "the header of a safetensors file breaks the format",
    "safetensors-layout": "the tensors of a safetensors file overlap or leave a hole",
    "numpy-header": "the head of a numpy array is malformed",
    "shard-path": "an index names a shard outside its own directory",
    "shard-mismatch": "an index and its shards disagree",
    "onnx-malformed": "the bytes are not those of an ONNX model",
    "onnx-unsupported": "an ONNX LSTM that torch.nn.LSTM cannot express",
    # Flax's own files
    "flax-file": "a Flax msgpack file or Orbax directory that jaxlstm.save did not write",
}


class CheckpointError(ValueError):
    """A checkpoint that is refused: a stable `code`, one line of text, and where.

    Attributes:
        code: a key of `CODES`.
        message: what is wrong, in one line.
        offset: byte offset in the file, where there is one.
        path: the file, once known.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        offset: int | None = None,
        path: str | os.PathLike[str] | None = None,
    ) -> None:
        assert code in CODES, code
        super().__init__(message)
        self.code = code
        self.message = message
        self.offset = offset
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (self.code, self.message, self.offset, self.path)

    def __str__(self) -> str:
        where = "" if self.path is None else f"{shown(os.fspath(self.path), 400)}: "
        at = "" if self.offset is None else f" at byte {self.offset}"
        return f"{where}{self.message} [{self.code}{at}]"


def _rebuild(
    code: str, message: str, offset: int | None, path: str | os.PathLike[str] | None
) -> CheckpointError:
    return CheckpointError(code, message, offset=offset, path=path)


def sketch(value: object) -> str:
    """A value of a file in one short line, whatever it is.

    Only plain values are written out: the repr of a container visits all that it leads to, which may
    be deeper than the stack or more than memory holds.
    """
    if type(value) is str:
        return shown(repr(value[:100]))
    if value is None or type(value) in (bool, int, float):
        return shown(repr(value))
    if type(value) in (tuple, list):
        return f"a {type(value).__name__} of {len(value)}"  # type: ignore[arg-type]
    return f"a {type(value).__name__}"


def sketches(values: Sequence[object]) -> str:
    """The first of several values, as `sketch` writes them."""
    items = [sketch(value) for value in values[:8]]
    return f"({', '.join([*items, '...'] if len(values) > 8 else items)})"


def shown(name: str, limit: int = 100) -> str:
    """`name` as one printable line: what a file says may hold anything."""
    text = name if len(name) <= limit else name[: limit - 3] + "..."
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
