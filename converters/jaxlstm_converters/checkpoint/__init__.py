"""A reader of PyTorch checkpoints that needs no torch and executes nothing from the file.

`io` holds files, byte streams, storages and tensors. `pickle` is an interpreter for pickles that
calls only functions of this package. `formats` has one module for each file format, and
`_read_checkpoint` selects among them.
"""

from __future__ import annotations

from ._read_checkpoint import read_checkpoint
from .checkpoint import Checkpoint
from .errors import CODES, CheckpointError
from .io.tensor import Tensor

__all__ = ["CODES", "Checkpoint", "CheckpointError", "Tensor", "read_checkpoint"]
