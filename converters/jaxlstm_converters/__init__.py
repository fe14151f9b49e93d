"""Converters between PyTorch checkpoints and jaxlstm parameters, bit for bit and without torch.

The public functions are available as ``jaxlstm.load``, ``jaxlstm.save`` and so on. They are imported on first
use, so that a program loads without the readers of the other formats.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxlstm._shared.lazy_names import lazy_names

if TYPE_CHECKING:
    from jaxlstm_converters.checkpoint._read_checkpoint import read_checkpoint as read_checkpoint
    from jaxlstm_converters.checkpoint.checkpoint import Checkpoint as Checkpoint
    from jaxlstm_converters.checkpoint.errors import CheckpointError as CheckpointError
    from jaxlstm_converters.lstm._find_lstms import find_lstms as find_lstms
    from jaxlstm_converters.lstm._from_torch import from_torch as from_torch
    from jaxlstm_converters.lstm._load import load as load
    from jaxlstm_converters.lstm._to_torch import to_torch as to_torch
    from jaxlstm_converters.optimizer._load_optimizer import load_optimizer as load_optimizer
    from jaxlstm_converters.optimizer.state import OptimizerState as OptimizerState
    from jaxlstm_converters.porting_warning import PortingWarning as PortingWarning
    from jaxlstm_converters.pt2._load_program import load_program as load_program
    from jaxlstm_converters.write._save import save as save

__all__, __getattr__, __dir__ = lazy_names(  # pyright: ignore[reportUnsupportedDunderAll]
    __name__,
    {
        "Checkpoint": "checkpoint.checkpoint",
        "CheckpointError": "checkpoint.errors",
        "OptimizerState": "optimizer.state",
        "PortingWarning": "porting_warning",
        "find_lstms": "lstm._find_lstms",
        "from_torch": "lstm._from_torch",
        "load": "lstm._load",
        "load_optimizer": "optimizer._load_optimizer",
        "load_program": "pt2._load_program",
        "read_checkpoint": "checkpoint._read_checkpoint",
        "save": "write._save",
        "to_torch": "lstm._to_torch",
    },
)
