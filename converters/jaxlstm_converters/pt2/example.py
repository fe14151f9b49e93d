"""The example of an export, which torch saves beside the program."""

from collections.abc import Sequence

import numpy as np

from jaxlstm.programs.graph import Input
from jaxlstm_converters.checkpoint.errors import CheckpointError
from jaxlstm_converters.checkpoint.io._make_tensor import Budget
from jaxlstm_converters.checkpoint.io.files import MemoryFile
from jaxlstm_converters.checkpoint.io.zip_archive import Archive


def example_tensors(saved: bytes, inputs: Sequence[Input]) -> list[np.ndarray] | None:
    """Return the tensors of an example in the order of the inputs; None if they do not fit the inputs.

    ``saved`` is a file of ``torch.save`` that holds (args, kwargs). A program does not need its example, so
    that one which cannot be read is none.
    """
    # Imported here because a program that only runs does without the reader of pickles.
    from jaxlstm_converters.checkpoint.formats.torch_zip import read_torch_zip, root_folder

    try:
        archive = Archive(MemoryFile(saved, "the example"), check_crc=True)
        arrays = [
            np.asarray(t) for t in read_torch_zip(archive, root_folder(archive), Budget(len(saved))).values()
        ]
    except CheckpointError:
        return None
    types = [declared.type for declared in inputs if declared.type]
    fits = len(arrays) == len(types) and all(
        array.dtype == type_.dtype
        and len(array.shape) == len(type_.shape)
        and all(n == size for n, size in zip(array.shape, type_.shape, strict=True) if isinstance(size, int))
        for array, type_ in zip(arrays, types, strict=True)
    )
    return arrays if fits else None
