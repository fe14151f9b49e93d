"""``without_tiny_offset``: logarithms of a tensor plus a subnormal number, which XLA takes for zero.

``(mask + 1e-45).log()`` is -103.28 in torch where the mask is 0, and would be -inf.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from jaxlstm.programs.graph import Node, Site, Value
from jaxlstm.programs.graph.rewrite import new_node

_LOGARITHMS = {"aten.log.default": math.log, "aten.log2.default": math.log2, "aten.log10.default": math.log10}
_FLOAT = np.dtype(np.float32)
# An operator -> the argument that is its result for 0, and how the elements with this result compare with 0.
_LEAST = {
    "aten.add.Tensor": ("other", "eq"),
    "aten.clamp.default": ("min", "le"),
    "aten.clamp_min.default": ("min", "le"),
}


def without_tiny_offset(node: Node, site: Site) -> list[Node] | None:
    """Set the logarithm where nothing but the number is left."""
    maker, type_ = site.maker(node.kwargs.get("self")), node.types.get(node.name)
    if node.op not in _LOGARITHMS or maker is None or maker.op not in _LEAST or type_ is None:
        return None
    name, comparison = _LEAST[maker.op]
    numbers: list[Any] = [maker.kwargs.get(name), maker.kwargs.get("alpha", 1), maker.kwargs.get("max")]
    number, factor, most = (math.inf if item is None else item for item in numbers)
    are_numbers = all(type(item) in (int, float) for item in (number, factor, most))
    is_small = are_numbers and 0 < number < 1 and 0 < factor < 1e9
    if type_.dtype != _FLOAT or not is_small or not isinstance(maker.kwargs["self"], Value):
        return None
    least = float(np.float32(number) * np.float32(factor))
    if not 0 < least < min(most, np.finfo(_FLOAT).tiny):
        return None
    truths = replace(type_, dtype=np.dtype(bool))
    log = new_node(node, site, node.op, type_, self=node.kwargs["self"])
    is_least = new_node(node, site, f"aten.{comparison}.Scalar", truths, self=maker.kwargs["self"], other=0)
    kwargs = {"self": Value(log.name), "mask": Value(is_least.name), "value": _LOGARITHMS[node.op](least)}
    return [log, is_least, replace(node, op="aten.masked_fill.Scalar", kwargs=kwargs)]
