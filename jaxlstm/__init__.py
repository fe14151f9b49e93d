"""torch.nn.LSTM in JAX and Flax, with converters for PyTorch checkpoints and a checker.

Public names are imported on first use (PEP 562), so ``import jaxlstm`` loads neither jax nor flax nor torch.
This module is the facade over ``jaxlstm`` and ``jaxlstm_converters``; no other module of ``jaxlstm`` outside
``jaxlstm.cli`` imports the converters.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from jaxlstm._version import __version__ as __version__

if TYPE_CHECKING:
    from jaxlstm import check as check
    from jaxlstm import inference as inference
    from jaxlstm import kernels as kernels
    from jaxlstm import linen as linen
    from jaxlstm import models as models
    from jaxlstm import nnx as nnx
    from jaxlstm import training as training
    from jaxlstm.cell import LSTMState as LSTMState
    from jaxlstm.config import LSTMCellConfig as LSTMCellConfig
    from jaxlstm.config import LSTMConfig as LSTMConfig
    from jaxlstm.functional import lstm as lstm
    from jaxlstm.functional import lstm_cell as lstm_cell
    from jaxlstm.models.errors import ProgramError as ProgramError
    from jaxlstm.models.program import Program as Program
    from jaxlstm.packed import PackedSequence as PackedSequence
    from jaxlstm.packed import pack_padded_sequence as pack_padded_sequence
    from jaxlstm.packed import pad_packed_sequence as pad_packed_sequence
    from jaxlstm.params import Params as Params
    from jaxlstm.params import init_params as init_params
    from jaxlstm.params import param_shapes as param_shapes
    from jaxlstm_converters import Checkpoint as Checkpoint
    from jaxlstm_converters import CheckpointError as CheckpointError
    from jaxlstm_converters import OptimizerState as OptimizerState
    from jaxlstm_converters import PortingWarning as PortingWarning
    from jaxlstm_converters import find_lstms as find_lstms
    from jaxlstm_converters import from_torch as from_torch
    from jaxlstm_converters import load as load
    from jaxlstm_converters import load_optimizer as load_optimizer
    from jaxlstm_converters import load_program as load_program
    from jaxlstm_converters import read_checkpoint as read_checkpoint
    from jaxlstm_converters import save as save
    from jaxlstm_converters import to_torch as to_torch
    from jaxlstm_converters.flax import LoadResult as LoadResult
    from jaxlstm_converters.flax import StateDictError as StateDictError
    from jaxlstm_converters.flax import load_state_dict as load_state_dict
    from jaxlstm_converters.flax import register_layer as register_layer
    from jaxlstm_converters.flax import state_dict as state_dict
    from jaxlstm_converters.pt2._from_module import from_module as from_module

_NAMES_OF_MODULE = {
    "jaxlstm.cell": ("LSTMState",),
    "jaxlstm.config": ("LSTMCellConfig", "LSTMConfig"),
    "jaxlstm.functional": ("lstm", "lstm_cell"),
    "jaxlstm.models.errors": ("ProgramError",),
    "jaxlstm.models.program": ("Program",),
    "jaxlstm.packed": ("PackedSequence", "pack_padded_sequence", "pad_packed_sequence"),
    "jaxlstm.params": ("Params", "init_params", "param_shapes"),
    "jaxlstm_converters": (
        "Checkpoint",
        "CheckpointError",
        "OptimizerState",
        "PortingWarning",
        "find_lstms",
        "from_torch",
        "load",
        "load_optimizer",
        "load_program",
        "read_checkpoint",
        "save",
        "to_torch",
    ),
    "jaxlstm_converters.pt2._from_module": ("from_module",),
    "jaxlstm_converters.flax": (
        "LoadResult",
        "StateDictError",
        "load_state_dict",
        "register_layer",
        "state_dict",
    ),
}
_LAYERS = ("LSTM", "LSTMCell")
_MODULES = ("check", "inference", "kernels", "linen", "models", "nnx", "training")
_MODULE_OF = {name: module for module, names in _NAMES_OF_MODULE.items() for name in names}

__all__: list[str] = sorted((*_MODULE_OF, *_MODULES, "__version__"))  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"jaxlstm.{name}")
    else:
        fix = f"; use jaxlstm.nnx.{name} or jaxlstm.linen.{name}" if name in _LAYERS else ""
        raise AttributeError(f"module 'jaxlstm' has no attribute {name!r}{fix}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
