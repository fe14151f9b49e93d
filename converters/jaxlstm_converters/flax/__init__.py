"""Whole Flax models from PyTorch state dicts, and back.

`layer_types` is the table of layers. Its `rules` name the tensors of one layer and their `layouts`.
`tree` finds the layers of a model, `plan` applies the rules and the user's `names` to
them, and `fill` checks, converts and writes the tensors that `model_tensors` finds in a source.
"""

from jaxlstm_converters.flax._load_state_dict import load_state_dict as load_state_dict
from jaxlstm_converters.flax._load_state_dict import state_dict as state_dict
from jaxlstm_converters.flax.layer_types import register_layer as register_layer
from jaxlstm_converters.flax.result import LoadResult as LoadResult
from jaxlstm_converters.flax.result import StateDictError as StateDictError
