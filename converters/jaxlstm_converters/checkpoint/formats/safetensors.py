"""safetensors files, whose tensors are read on demand."""

from jaxlstm._shared.safetensors_header import SafetensorsError, header_length, read_header

from ..checkpoint import Checkpoint
from ..errors import CheckpointError, printable
from ..io._make_tensor import Budget, make_array
from ..io.files import CheckpointFile
from ..io.json_objects import require_memory
from ..io.storage import Storage

CODES = {
    "header": "safetensors-header",
    "layout": "safetensors-layout",
    "dtype": "unsupported-tensor",
    "truncated": "truncated",
    "trailing": "trailing-bytes",
    "repeated": "duplicate-key",
}


def is_safetensors(head: bytes, size: int) -> bool:
    """Return True if a file that starts with `head` may be a safetensors file."""
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size


def read_safetensors(source: CheckpointFile, budget: Budget) -> Checkpoint:
    """Read the tensors, in the order of their data."""
    checkpoint = Checkpoint(source.path, "safetensors")
    try:
        require_memory(source, 8, header_length(source.read(0, 8), source.size), CODES["header"])
        checkpoint.metadata, entries = read_header(source.read, source.size)
    except SafetensorsError as error:
        raise CheckpointError(CODES[error.kind], str(error), error.offset) from None
    for entry in entries:
        storage = Storage(source, entry.start, entry.stop - entry.start)
        label = repr(printable(entry.name))
        array = make_array(storage, entry.dtype, entry.shape, budget=budget, label=label)
        checkpoint.add(entry.name, array)
    return checkpoint
