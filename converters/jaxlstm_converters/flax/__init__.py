"""Whole Flax models from PyTorch state dicts, and back.

`rules` is the table of layers; a rule names the tensors of one layer and their `layouts`. `nnx_tree` finds
the layers of a model, `plan` applies the rules and the user's `names` to them, and `fill` checks and converts
the tensors of a `source`.
"""

from jaxlstm_converters.flax._load_state_dict import load_state_dict as load_state_dict
from jaxlstm_converters.flax._state_dict import state_dict as state_dict
from jaxlstm_converters.flax.result import LoadResult as LoadResult
from jaxlstm_converters.flax.result import StateDictError as StateDictError
from jaxlstm_converters.flax.rules import register_layer as register_layer
