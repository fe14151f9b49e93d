"""Reads PyTorch checkpoints without torch, executing nothing that a file says."""

from __future__ import annotations

from ._read_checkpoint import read_checkpoint
from .checkpoint import Checkpoint
from .errors import CODES, CheckpointError
from .io.tensor import Tensor

__all__ = ["CODES", "Checkpoint", "CheckpointError", "Tensor", "read_checkpoint"]
