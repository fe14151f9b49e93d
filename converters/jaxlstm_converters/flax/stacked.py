"""Layers whose arrays are stacked, as ``nnx.vmap``, ``nn.vmap`` and ``nn.scan`` make them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
from flax import nnx

import jaxlstm.linen.modules
import jaxlstm.nnx
from jaxlstm_converters.flax.layer import Layer


def _conv_axes(module: Any) -> int:
    return 2 + (1 if isinstance(module.kernel_size, int) else len(module.kernel_size))


# By type of layer, one of its arrays and the number of its axes.
_AXES: dict[type, tuple[str, int | Callable[[Any], int]]] = {
    **dict.fromkeys((nnx.Linear, nn.Dense), ("kernel", 2)),
    nnx.LinearGeneral: ("kernel", lambda module: len(module.in_features) + len(module.out_features)),
    **dict.fromkeys((nnx.Embed, nn.Embed), ("embedding", 2)),
    **dict.fromkeys((nnx.BatchNorm, nn.BatchNorm), ("mean", 1)),
    **dict.fromkeys((nnx.Conv, nn.Conv, nnx.ConvTranspose, nn.ConvTranspose), ("kernel", _conv_axes)),
    **dict.fromkeys((nnx.LayerNorm, nnx.RMSNorm, nnx.InstanceNorm), ("scale", 1)),
    **dict.fromkeys((nnx.GroupNorm, nn.GroupNorm), ("scale", 1)),
    **dict.fromkeys((nnx.MultiHeadAttention, nn.MultiHeadDotProductAttention), ("query.kernel", 3)),
    **dict.fromkeys((nnx.OptimizedLSTMCell, nnx.GRUCell), ("dense_h.kernel", 2)),
    **dict.fromkeys((nnx.LSTMCell, nn.LSTMCell, nn.OptimizedLSTMCell), ("hi.kernel", 2)),
    nn.GRUCell: ("hn.kernel", 2),
    **dict.fromkeys((jaxlstm.nnx.LSTM, jaxlstm.linen.modules.LSTM), ("weight_hh_l0", 2)),
    **dict.fromkeys((jaxlstm.nnx.LSTMCell, jaxlstm.linen.modules.LSTMCell), ("weight_hh", 2)),
}


def require_unstacked(layer: Layer) -> None:
    """Raise ValueError if the arrays of a layer have one axis more than its type has."""
    name, axes = next((_AXES[kind] for kind in type(layer.module).__mro__ if kind in _AXES), ("", 0))
    axes = axes if isinstance(axes, int) else axes(layer.module)
    if name not in layer.slots or len(layer.shape(name)) != axes + 1:
        return
    raise ValueError(
        "its arrays are stacked along one more axis, as by vmap or scan; fill the layers one by one and "
        "stack them, as docs/porting.md shows"
    )
