"""MultiHeadAttention: torch's projections, packed or separate, and Flax's four linear layers."""

from __future__ import annotations

from jaxlstm_converters.flax.layer import Entry, Layer, entry
from jaxlstm_converters.flax.layouts import Layout, Reshape, Split, Transpose, chain, linear

_PROJECTIONS = ("query", "key", "value")
_SEPARATE = ("q_proj_weight", "k_proj_weight", "v_proj_weight")


def rule(layer: Layer) -> list[Entry]:
    """Split ``in_proj_weight`` in three, or read the three separate weights.

    torch packs the weights if queries, keys and values have the size of the embedding. A source with linear
    layers named ``query``, ``key`` and ``value`` is left to the rule of those layers.
    """
    if layer.has("query.weight"):
        return []
    kernels = [layer.shape(f"{name}.kernel") for name in _PROJECTIONS]
    packed = layer.has("in_proj_weight") or (
        not layer.has("q_proj_weight") and len({kernel[0] for kernel in kernels}) == 1
    )
    entries = _packed(kernels[0]) if packed else _separate(kernels)
    if "query.bias" in layer.slots:
        heads = layer.shape("query.bias")
        layout = chain(Split(3), Reshape((heads[0] * heads[1],), heads))
        entries.append(Entry(("in_proj_bias",), tuple(f"{name}.bias" for name in _PROJECTIONS), layout))
    entries.append(entry("out_proj.weight", "out.kernel", linear(layer.shape("out.kernel"), inputs=2)))
    if "out.bias" in layer.slots:
        entries.append(entry("out_proj.bias", "out.bias"))
    return entries


def _packed(kernel: tuple[int, ...]) -> list[Entry]:
    layout = chain(Split(3), *_heads(kernel))
    return [Entry(("in_proj_weight",), tuple(f"{name}.kernel" for name in _PROJECTIONS), layout)]


def _separate(kernels: list[tuple[int, ...]]) -> list[Entry]:
    return [
        entry(torch, f"{name}.kernel", chain(*_heads(kernel)))
        for torch, name, kernel in zip(_SEPARATE, _PROJECTIONS, kernels, strict=True)
    ]


def _heads(kernel: tuple[int, ...]) -> list[Layout]:
    """Return the layouts from (heads * size, in) to (in, heads, size)."""
    features, heads, size = kernel
    return [Transpose((1, 0)), Reshape((features, heads * size), kernel)]
