"""The spelling of operators and layers in Flax and ``jax.numpy``."""

from jaxlstm_converters.source.spelling._layer_of import LayerSpelling, layer_of, spell_call
from jaxlstm_converters.source.spelling._spell import Spelling, spell

Layer = LayerSpelling
__all__ = ("Layer", "Spelling", "layer_of", "spell", "spell_call")
