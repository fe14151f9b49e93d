"""WeightNorm: the direction v and length g of a weight.

torch has two spellings, ``weight_g`` and ``parametrizations.weight.original0``. Names in the new spelling are
replaced when a source is read. torch accepts the old one for both.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

from jaxlstm_converters.flax.layer import Entry, Layer, entry
from jaxlstm_converters.flax.layouts import SAME, Layout, Reshape, chain

_INNER = "layer_instance"
_SCALE = re.compile(r"scales\.kernel|[^/]+/kernel/scale")


def rule(layer: Layer, find_rule: Callable[[Any], Callable[[Layer], list[Entry]] | None]) -> list[Entry]:
    """Return the entries of the wrapped layer, with v for its kernel and g for the scale.

    g has the size of the weight on the feature axes, and size 1 on all others.
    """
    module = layer.module
    inner_rule = find_rule(module.layer_instance)
    # NNX keeps the scales in a dict. Linen joins the path in the name of the parameter.
    scales = [name for name in layer.slots if name.startswith("scales.") or name.endswith("/scale")]
    if inner_rule is None or len(scales) != 1 or not _SCALE.fullmatch(scales[0]):
        raise ValueError(
            "WeightNorm is supported around one layer with the default variable_filter and use_scale; wrap "
            "each layer separately"
        )
    inner = layer.below(_INNER, module.layer_instance)
    entries = []
    for own in inner_rule(inner):
        flax = tuple(f"{_INNER}.{name}" for name in own.flax)
        if own.torch != ("weight",):
            entries.append(dataclasses.replace(own, flax=flax))
            continue
        g = _length_layout(own.layout, inner.shape("kernel"), module.feature_axes)
        entries.append(entry("weight_g", scales[0], g))
        entries.append(dataclasses.replace(own, torch=("weight_v",), flax=flax))
    return entries


def _length_layout(weight: Layout, kernel: tuple[int, ...], feature_axes: Any) -> Layout:
    """Return the layout of g from the layout of v: Flax's scale has only the kernel's feature axes."""
    axes = (feature_axes,) if isinstance(feature_axes, int) else feature_axes or ()
    kept = {axis % len(kernel) for axis in axes}
    if not kept:  # one length for the whole weight, a scalar in torch too
        return SAME
    with_ones = tuple(size if axis in kept else 1 for axis, size in enumerate(kernel))
    return chain(weight, Reshape(with_ones, tuple(kernel[axis] for axis in sorted(kept))))
