"""`CheckpointError`, the table of its codes, and text for its messages.

Codes are stable: programs may branch on them. The documentation site lists `CODES`.
"""

import os
from collections.abc import Sequence

CODES: dict[str, str] = {
    # the file
    "not-a-file": "a directory, FIFO, socket or device instead of a regular file",
    "empty-file": "the file has no bytes",
    "unknown-format": "the file starts like none of the supported formats",
    "truncated": "the file ends before the data that it declares",
    "trailing-bytes": "bytes follow the end of the data",
    "file-changed": "the file was modified while it was being read",
    # zip archives
    "zip-directory": "the archive's central directory is malformed",
    "zip-duplicate-name": "two entries of the archive have the same name",
    "zip-overlap": "entries overlap, or bytes belong to no entry",
    "zip-header-mismatch": "an entry's local header differs from the central directory",
    "zip-compressed": "an entry is compressed; only stored entries are supported",
    "zip-encrypted": "an entry is encrypted",
    "zip-layout": "the entries do not form exactly one checkpoint",
    "crc-mismatch": "the bytes of an entry do not match the archive's checksum",
    "byteorder": "the archive declares a byte order other than little or big",
    # pickles
    "pickle-opcode": "an opcode that is undefined, or that checkpoints never use",
    "pickle-malformed": "an invalid sequence of opcodes, or a pickle that is cut off",
    "pickle-global": "a global whose name is dotted or not an identifier",
    "pickle-build": "BUILD on a value that has no state",
    "pickle-budget": "the pickle needs more memory than a file of this size may use",
    "duplicate-key": "a dictionary sets the same key twice",
    "node-budget": "following references visits far more values than the file holds",
    "too-deep": "values are nested too deeply",
    "cycle": "a value contains itself",
    "foreign-root": "the file holds an object that only its own code could turn into tensors",
    "foreign-weight": "a weight is the result of a call that the reader does not make",
    # tensors
    "storage-key": "a storage key is not a plain number",
    "missing-storage": "a tensor uses bytes that the file does not contain",
    "storage-size": "the declared size of a storage differs from its actual size",
    "storage-dtype": "one storage is used with two dtypes",
    "tensor-shape": "sizes, strides or offset are not valid integers",
    "tensor-bounds": "a tensor extends beyond its storage",
    "tensor-budget": "a tensor needs far more memory than the size of the file",
    "unsupported-tensor": "a quantized, sparse, nested, meta or subclassed tensor",
    "duplicate-name": "two tensors would have the same name",
    # other formats
    "legacy-header": "the header of a file from before torch 1.6 is invalid",
    "safetensors-header": "the header of a safetensors file is invalid",
    "safetensors-layout": "the tensors of a safetensors file overlap or leave a gap",
    "shard-path": "an index or a model names a file outside its own directory",
    "shard-mismatch": "an index and its shards disagree, or a file that a model names is missing",
    "onnx-malformed": "the file is not a valid ONNX model",
    "onnx-unsupported": "an ONNX LSTM that torch.nn.LSTM cannot express",
    # TorchScript
    "torchscript-text": "the code of a TorchScript archive is too large, or not the text that torch writes",
    "torchscript-unsupported": "a statement, operator or value in a TorchScript archive is not supported",
    # programs
    "pt2-version": "a .pt2 file of an unknown format or schema version",
    "pt2-malformed": "the JSON texts of a .pt2 file do not describe a program",
    "pt2-unsupported": "a .pt2 file with pickled values, custom objects or several programs",
}


class CheckpointError(ValueError):
    """A checkpoint that the reader refuses.

    Attributes:
        code: a key of `CODES`.
        message: the reason, in one line.
        offset: the byte offset in the file, if there is one.
        path: the file, once known.
    """

    def __init__(
        self, code: str, message: str, offset: int | None = None, path: str | os.PathLike[str] | None = None
    ) -> None:
        assert code in CODES, code
        super().__init__(message)
        self.code = code
        self.message = message
        self.offset = offset
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return CheckpointError, (self.code, self.message, self.offset, self.path)

    def __str__(self) -> str:
        location = "" if self.path is None else f"{printable(os.fspath(self.path), 400)}: "
        position = "" if self.offset is None else f" at byte {self.offset}"
        return f"{location}{self.message} [{self.code}{position}]"


def printable(text: str, limit: int = 100) -> str:
    """Return text from a file as one printable line of at most `limit` characters, escapes aside."""
    short = text if len(text) <= limit else text[: limit - 3] + "..."
    if short.isprintable():
        return short
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in short)


def describe(value: object) -> str:
    """Return any value from a file as one short line.

    Only plain values are written out. The repr of a list or dict visits everything inside, which may
    be deeper than the stack or larger than memory.
    """
    if type(value) is str:
        return printable(repr(value[:100]))
    if value is None or type(value) in (bool, int, float):
        return printable(repr(value))
    if type(value) in (tuple, list):
        return f"a {type(value).__name__} of length {len(value)}"  # type: ignore[arg-type]
    return f"a {type(value).__name__}"


def describe_all(values: Sequence[object]) -> str:
    """Return the first eight values as `describe` writes them, in parentheses."""
    items = [describe(value) for value in values[:8]]
    return f"({', '.join([*items, '...'] if len(values) > 8 else items)})"
