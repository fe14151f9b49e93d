"""PyTorch checkpoints into jaxlstm's parameters and back, bit for bit, without torch.

Handed on as ``jaxlstm.load``, ``jaxlstm.save`` and so on, which is how to use them.
"""

from jaxlstm_converters.checkpoint import Checkpoint as Checkpoint
from jaxlstm_converters.checkpoint import CheckpointError as CheckpointError
from jaxlstm_converters.checkpoint import read_checkpoint as read_checkpoint
from jaxlstm_converters.find import find_lstms as find_lstms
from jaxlstm_converters.from_torch import from_torch as from_torch
from jaxlstm_converters.load import load as load
from jaxlstm_converters.optax_state import OptimizerState as OptimizerState
from jaxlstm_converters.optimizer import load_optimizer as load_optimizer
from jaxlstm_converters.to_torch import to_torch as to_torch
from jaxlstm_converters.write import save as save
