"""Layers whose arrays are stacked, as ``nnx.vmap``, ``nn.vmap`` and ``nn.scan`` make them."""

from __future__ import annotations

import flax.linen as nn
from flax import nnx

from jaxlstm_converters.flax.layer import Layer

# By type of layer, one of its arrays that always has the same number of axes.
_AXES: dict[type, tuple[str, int]] = {
    **dict.fromkeys((nnx.Linear, nn.Dense), ("kernel", 2)),
    **dict.fromkeys((nnx.Embed, nn.Embed), ("embedding", 2)),
    **dict.fromkeys((nnx.BatchNorm, nn.BatchNorm), ("mean", 1)),
    **dict.fromkeys((nnx.Conv, nn.Conv, nnx.ConvTranspose, nn.ConvTranspose), ("bias", 1)),
    **dict.fromkeys((nnx.LayerNorm, nnx.GroupNorm, nn.GroupNorm), ("scale", 1)),
}


def require_unstacked(layer: Layer) -> None:
    """Raise ValueError if the arrays of a layer have one axis more than its type has."""
    name, axes = next((_AXES[kind] for kind in type(layer.module).__mro__ if kind in _AXES), ("", 0))
    if name not in layer.slots or len(layer.shape(name)) != axes + 1:
        return
    raise ValueError(
        "its arrays are stacked along one more axis, as by vmap or scan; fill the layers one by one and "
        "stack them, as docs/porting.md shows"
    )
