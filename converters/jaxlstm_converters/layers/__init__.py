"""Every layer of a state dict: its type, sizes and parameters, as far as the tensors tell."""

from jaxlstm_converters.layers._find_layers import Layer as Layer
from jaxlstm_converters.layers._find_layers import find_layers as find_layers
