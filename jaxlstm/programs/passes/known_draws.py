"""``known_draws``: comparisons of random numbers that every number decides, such as ``torch.rand(n) < 0``.

Models draw numbers for teacher forcing or masks, and compare them with a probability that is 0 in evaluation.
"""

import math
import operator
from dataclasses import replace

import numpy as np

from jaxlstm.programs.graph import Node, Site

_COMPARISONS = {f"aten.{name}.Scalar": getattr(operator, name) for name in ("lt", "le", "gt", "ge")}
_FILLED = {"aten.rand.default": "aten.full.default", "aten.rand_like.default": "aten.full_like.default"}
_LARGEST = math.nextafter(1, 0)


def known_draws(node: Node, site: Site) -> Node | None:
    """Replace a comparison of uniform numbers from 0 to 1, 1 excluded, if it has the same truth for all."""
    limit, maker = node.kwargs.get("other"), site.maker(node.kwargs.get("self"))
    if node.op not in _COMPARISONS or type(limit) not in (int, float) or not maker or maker.op not in _FILLED:
        return None
    truths = {_COMPARISONS[node.op](number, limit) for number in (0, _LARGEST)}
    sizes = {name: maker.kwargs[name] for name in ("self", "size") if name in maker.kwargs}
    kwargs = {**sizes, "fill_value": min(truths), "dtype": np.dtype(bool)}
    return replace(node, op=_FILLED[maker.op], kwargs=kwargs) if len(truths) == 1 else None
