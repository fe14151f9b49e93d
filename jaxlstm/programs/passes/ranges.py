"""``from_zero``: ``arange`` over an unknown number of elements, which starts with zero.

``jit`` knows that ``torch.arange(x[mask].shape[0])`` is as long as the rows, also if another number is added
to both ends or if it counts down to the other end.
"""

from dataclasses import replace

import numpy as np

from jaxlstm.programs.graph import Node, Site, Value
from jaxlstm.programs.graph.graph import Argument
from jaxlstm.programs.graph.rewrite import new_node

_ADDITIONS = {"_operator.add": 1, "_operator.sub": -1}
_MOST_ADDITIONS = 8
"""The most additions that make one end, so that a file with many of them loads in a short time."""


def from_zero(node: Node, site: Site) -> list[Node] | None:
    """Add the lower end to ``arange(n)``, for ``arange(b, n + b)`` and for the same numbers downwards."""
    type_, step = node.types.get(node.name), node.kwargs.get("step", 1)
    is_range = node.op in ("aten.arange.start", "aten.arange.start_step")
    if not is_range or type(step) is not int or step not in (1, -1):
        return None
    if type_ is None or type_.shape != (None,) or type_.dtype not in (np.int64, np.float32):
        return None
    # Downwards, the end is not among the numbers and the start is: from n + b - 1 to b.
    ends = (node.kwargs["end"], node.kwargs["start"])[::step]
    (size, above), (other, least) = (_sum(number, site, int(step == -1)) for number in ends)
    if size is None or other is not None or above != least or (least == 0 and step == 1):
        return None
    integers = replace(type_, dtype=np.dtype(np.int64))
    nodes = [new_node(node, site, "aten.arange.default", integers, end=size, dtype=integers.dtype)]
    for op, kwargs, is_needed in (
        ("aten.flip.default", {"dims": (0,)}, step == -1),
        ("aten.add.Scalar", {"other": least}, least != 0),
    ):
        if is_needed:
            nodes.append(new_node(node, site, op, integers, self=Value(nodes[-1].name), **kwargs))
    kwargs = {"self": Value(nodes[-1].name), "dtype": type_.dtype}
    return [*nodes, replace(node, op="aten._to_copy.default", kwargs=kwargs)]


def _sum(number: Argument, site: Site, more: int) -> tuple[Argument, int]:
    """Return the value, or None, and the integer whose sum a number and ``more`` are."""
    for _ in range(_MOST_ADDITIONS):
        maker = site.maker(number)
        if maker is None or maker.op not in _ADDITIONS:
            break
        first, second = maker.args
        if type(first) is int and maker.op == "_operator.add":
            first, second = second, first
        if type(second) is not int:
            break
        number, more = first, more + _ADDITIONS[maker.op] * second
    return (None, number + more) if type(number) is int else (number, more)
