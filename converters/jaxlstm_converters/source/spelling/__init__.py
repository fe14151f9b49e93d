"""The spelling of operators and layers in Flax and ``jax.numpy``."""

from jaxlstm_converters.source.spelling._spell import Spelling as Spelling
from jaxlstm_converters.source.spelling._spell import layer_of as layer_of
from jaxlstm_converters.source.spelling._spell import spell as spell
from jaxlstm_converters.source.spelling._spell import spell_call as spell_call
from jaxlstm_converters.source.spelling.layers import LayerSpelling as LayerSpelling
