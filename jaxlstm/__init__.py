"""torch.nn.LSTM in JAX and Flax, with converters for PyTorch checkpoints and a checker.

Public names are imported on first use (PEP 562), so ``import jaxlstm`` loads neither jax nor flax nor torch.
This module is a facade over ``jaxlstm`` and ``jaxlstm_converters``, as are ``jaxlstm.linen`` and
``jaxlstm.inference``; no other module of ``jaxlstm`` outside ``jaxlstm.cli`` imports the converters.
"""

from typing import TYPE_CHECKING

from jaxlstm._shared.imports import lazy_names
from jaxlstm._shared.version import __version__ as __version__

if TYPE_CHECKING:
    from jaxlstm import check as check
    from jaxlstm import inference as inference
    from jaxlstm import kernels as kernels
    from jaxlstm import linen as linen
    from jaxlstm import nnx as nnx
    from jaxlstm import programs as programs
    from jaxlstm import training as training
    from jaxlstm.functional import lstm as lstm
    from jaxlstm.functional import lstm_cell as lstm_cell
    from jaxlstm.layer.cell import LSTMState as LSTMState
    from jaxlstm.layer.config import LSTMCellConfig as LSTMCellConfig
    from jaxlstm.layer.config import LSTMConfig as LSTMConfig
    from jaxlstm.layer.params import Params as Params
    from jaxlstm.layer.params import init_params as init_params
    from jaxlstm.layer.params import param_shapes as param_shapes
    from jaxlstm.layer.ragged import PackedSequence as PackedSequence
    from jaxlstm.layer.ragged import pack_padded_sequence as pack_padded_sequence
    from jaxlstm.layer.ragged import pad_packed_sequence as pad_packed_sequence
    from jaxlstm.programs.errors import ProgramError as ProgramError
    from jaxlstm.programs.program import Program as Program
    from jaxlstm_converters.checkpoint._read_checkpoint import read_checkpoint as read_checkpoint
    from jaxlstm_converters.checkpoint.checkpoint import Checkpoint as Checkpoint
    from jaxlstm_converters.checkpoint.errors import CheckpointError as CheckpointError
    from jaxlstm_converters.flax import LoadResult as LoadResult
    from jaxlstm_converters.flax import StateDictError as StateDictError
    from jaxlstm_converters.flax import load_state_dict as load_state_dict
    from jaxlstm_converters.flax import register_layer as register_layer
    from jaxlstm_converters.flax import state_dict as state_dict
    from jaxlstm_converters.lstm._find_lstms import find_lstms as find_lstms
    from jaxlstm_converters.lstm._load import from_torch as from_torch
    from jaxlstm_converters.lstm._load import load as load
    from jaxlstm_converters.lstm._load import to_torch as to_torch
    from jaxlstm_converters.optimizer._load_optimizer import load_optimizer as load_optimizer
    from jaxlstm_converters.optimizer._save_optimizer import save_optimizer as save_optimizer
    from jaxlstm_converters.optimizer.state import OptimizerState as OptimizerState
    from jaxlstm_converters.porting_warning import PortingWarning as PortingWarning
    from jaxlstm_converters.pt2._from_module import from_module as from_module
    from jaxlstm_converters.pt2._load_program import load_program as load_program
    from jaxlstm_converters.pt2._load_program import load_programs as load_programs
    from jaxlstm_converters.pt2._save_programs import save_programs as save_programs
    from jaxlstm_converters.source._write_source import write_source as write_source
    from jaxlstm_converters.torchscript._load_torchscript import load_torchscript as load_torchscript
    from jaxlstm_converters.write._save import save as save

_HINTS = {name: f"; use jaxlstm.nnx.{name} or jaxlstm.linen.{name}" for name in ("LSTM", "LSTMCell")}
_HINTS |= {name: f"; use jaxlstm.nnx.{name}" for name in ("GRU", "RNN", "GRUCell")}
_NAMES, __getattr__, __dir__ = lazy_names(__name__, _HINTS)
__all__ = [*_NAMES, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]
