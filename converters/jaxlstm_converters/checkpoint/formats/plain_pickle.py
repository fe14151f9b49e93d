"""Files that start with a pickle: pickle.dump of arrays or tensors, or torch.save before 1.6."""

from __future__ import annotations

from ..checkpoint import Checkpoint
from ..errors import CheckpointError
from ..io.budget import Budget
from ..io.source import Source
from ..io.stream import ByteReader
from ..pickle._name_tensors import name_tensors
from ..pickle._run_pickle import run_pickle
from .torch_legacy import MAGIC_NUMBER, read_legacy, read_nested_storage


def read_pickle(source: Source, budget: Budget) -> Checkpoint:
    """Read one pickle, or the legacy stream after it if it is torch's magic number."""
    stream = ByteReader(source, 0, source.size)
    result = run_pickle(stream, budget, nested=read_nested_storage)
    if type(result.value) is int:
        if result.value != MAGIC_NUMBER:
            raise CheckpointError(
                "legacy-header",
                "the file starts with a pickled integer that is not torch's magic number",
                offset=0,
            )
        return read_legacy(source, stream.offset, budget)
    stream.require_end()
    container = "torch pickle" if result.has_nested_storages else "numpy pickle"
    checkpoint = Checkpoint(source.path, container)
    name_tensors(checkpoint, result, budget=budget)
    return checkpoint
