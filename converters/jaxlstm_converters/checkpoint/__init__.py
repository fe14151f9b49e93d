"""A reader of PyTorch checkpoints that needs no torch and executes nothing from the file.

`io` holds files, byte streams, storages and tensors. `pickle` is an interpreter for pickles that
calls only functions of this package. `formats` has one module for each file format, and
`_read_checkpoint` selects among them. Public names are imported on first use.
"""

from typing import TYPE_CHECKING

from jaxlstm._shared.imports import lazy_names

if TYPE_CHECKING:
    from ._read_checkpoint import read_checkpoint as read_checkpoint
    from .checkpoint import Checkpoint as Checkpoint
    from .errors import CODES as CODES
    from .errors import CheckpointError as CheckpointError
    from .io.tensor import Tensor as Tensor

__all__, __getattr__, __dir__ = lazy_names(__name__)  # pyright: ignore[reportUnsupportedDunderAll]
