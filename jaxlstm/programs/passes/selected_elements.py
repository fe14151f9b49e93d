"""The elements of arrays that a graph selects by masks, or by slices with unknown bounds: `Selections`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxlstm.programs.graph.graph import Argument, Graph, Node, TensorType, Value, same_size, same_sizes
from jaxlstm.programs.graph.rewrite import Site, new_node, twin_of
from jaxlstm.programs.graph.values import results_of, uses_of
from jaxlstm.programs.passes.equal_values import EqualValues
from jaxlstm.programs.passes.packed_lengths import ITEMS, PackedLengths

SELECT, INDEX = "aten.masked_select.default", "aten.index.Tensor"
_TO_THE_END = 2**63 - 1


class Selected(NamedTuple):
    """The elements of an array at a mask.

    Attributes:
      array: the array.
      mask: the mask.
      axis: the first axis of the array that the mask covers.
      covered: the number of axes that the mask covers.
      is_finite: a rule has made the array, whose other elements are finite.
    """

    array: Value
    mask: Value
    axis: int
    covered: int
    is_finite: bool = False


class Selections:
    """Selected elements, and the values that follow from them.

    Attributes:
      selected: name of a value -> the elements that it holds.
      broadcast: the same, where the array or the mask may be broadcast.
      counts: name of a number -> the elements whose number it is.
      twins: name of a number -> the same number, computed from masks.
      numbers: names of all numbers that depend on values of tensors.
      made: names of nodes and values of which nothing is left if nothing uses them.
      made_by: text of arguments -> the value that the rule has made of them.
      equal: the values that are equal.
    """

    def __init__(self, graph: Graph) -> None:
        self.selected: dict[str, Selected] = {}
        self.made: set[str] = set()
        self.broadcast: dict[str, Selected] = {}
        self.counts: dict[str, Selected] = {}
        self.twins: dict[str, Value] = {}
        self._unknown: set[str] = set()  # numbers that the model reads from tensors
        self.numbers: set[str] = set()
        self._positive: set[str] = set()  # numbers that are not negative
        self.made_by: dict[str, Value] = {}
        self.equal = EqualValues()
        self._lengths = PackedLengths(graph)

    def note_number(self, node: Node, site: Site) -> list[Node] | None:
        """Note whether a number depends on values of tensors, and on which numbers of elements."""
        self._positive.update(results_of(node) if self._lengths.has(node) else ())
        is_unknown = node.op in ITEMS or not self._unknown.isdisjoint(uses_of(node))
        self._unknown.update(results_of(node) if is_unknown else ())
        is_number = is_unknown or not self.numbers.isdisjoint(uses_of(node))
        self.numbers.update(results_of(node) if is_number else ())
        twin = twin_of(node, site, self.twins)
        self.made.update((twin.name,) if twin else ())
        return [node, twin] if twin else None

    def note_count(self, node: Node, site: Site) -> list[Node] | None:
        """Note the number of selected elements."""
        part, result = self.selected[next(uses_of(node))], results_of(node)[0]
        if node.kwargs["dim"] != part.axis:
            return None
        self.made.add(result)
        self.counts[result] = part
        self.numbers.add(result)
        count = self.add(node, site, "aten.sum.default", TensorType(np.dtype("int64"), ()), self=part.mask)
        number = self.add(node, site, ITEMS[0], None, self=Value(count.name))
        self.twins[result] = Value(number.name)
        return [count, number, node]

    def note(self, node: Node, site: Site) -> None:
        """Remember the elements at a mask with the sizes of the axes that it covers."""
        *before, mask = masks_of(node)
        array: Any = node.kwargs["self"]
        own, type_ = (site.types.get(getattr(value, "name", "")) for value in (array, mask))
        if any(before) or own is None or type_ is None or type_.dtype != bool or not node.with_gradient:
            return
        axis, covered = len(before), len(type_.shape)
        fits = axis + covered == len(own.shape) or (node.op == INDEX and axis + covered < len(own.shape))
        is_known = fits and all(same_size(type_, n, own, axis + n) for n in range(covered))
        if covered and (is_known or node.op == SELECT):
            places = self.selected if is_known else self.broadcast
            places[results_of(node)[0]] = Selected(array, mask, axis, covered)

    def places(self, node: Node, site: Site) -> tuple[Any, Any, int, TensorType] | None:
        """Return what tells the mask of a slice with unknown bounds from others, its axis and its type."""
        own, dim, bounds = (
            self.type_of(node.kwargs["self"], site),
            node.kwargs.get("dim", 0),
            self._bounds(node),
        )
        is_unknown = any(isinstance(bound, Value) and bound.name in self._unknown for bound in bounds)
        if own is None or not is_unknown or node.kwargs.get("step", 1) != 1 or not isinstance(dim, int):
            return None
        axis = dim % len(own.shape)
        type_ = TensorType(np.dtype(bool), own.shape[axis : axis + 1], own.expressions[axis : axis + 1])
        text = f"{bounds} {type_} {type_.expressions} {[call.key for call in node.calls]}"
        return text, bounds, axis, type_

    def note_slice(self, node: Node, site: Site) -> list[Node] | None:
        """Remember a slice with unknown bounds as the elements at a mask."""
        places = self.places(node, site)
        if places is None or not node.with_gradient:
            return None
        text, (start, end), axis, type_ = places
        array: Any = node.kwargs["self"]
        nodes = [node]
        if text not in self.made_by:
            names = {bound.name for bound in (start, end) if isinstance(bound, Value)}
            kwargs = {"self": array, "dim": axis, "start": start, "end": end}
            wraps = not names <= self._positive or any(isinstance(n, int) and n < 0 for n in (start, end))
            nodes.insert(0, self.add(node, site, "jaxlstm.is_between.default", type_, **kwargs, wraps=wraps))
            self.made_by[text] = Value(nodes[0].name)
        self.selected[results_of(node)[0]] = Selected(array, self.made_by[text], axis, 1)
        return nodes

    def _bounds(self, node: Node) -> tuple[Argument, Argument]:
        """Return the bounds of a slice, None if there is none."""
        start, end = node.kwargs.get("start"), node.kwargs.get("end")
        return None if start == 0 else start, None if end == _TO_THE_END else end

    def always_holds(self, node: Node, site: Site) -> bool:
        """Return True for an assertion that a number of selected elements is at least 0, or at most all."""
        compared = site.maker(node.kwargs["self"])
        size, other = compared.args if compared is not None and len(compared.args) == 2 else (None, None)
        if (
            compared is None
            or not isinstance(size, Value)
            or compared.op not in ("_operator.ge", "_operator.le")
        ):
            return False
        part = self.counts.get(size.name)
        if compared.op == "_operator.ge" and other == 0:
            self._positive.add(size.name)
            is_certain = part is not None
        else:
            maker, is_certain = site.maker(other), False
            type_ = site.types[part.mask.name] if part is not None else None
            if type_ is not None and len(type_.shape) == 1 and compared.op == "_operator.le":
                is_certain = other == type_.shape[0]
                if maker is not None and maker.op == "aten.sym_size.int":
                    known, dim = self.type_of(maker.kwargs["self"], site), maker.kwargs["dim"]
                    is_certain = (
                        known is not None and isinstance(dim, int) and same_size(type_, 0, known, dim)
                    )
        self.made.update(results_of(compared) if is_certain else ())
        return is_certain

    def is_own_size(self, node: Node, site: Site) -> bool:
        """Return True if selected elements are expanded to the number of elements at the same mask."""
        size: Any = node.kwargs.get("size", node.kwargs.get("shape"))
        part = self.selected[next(uses_of(node))]
        count = self.counts.get(getattr(size[part.axis], "name", "")) if len(size) > part.axis else None
        shape = site.types[part.array.name].shape
        others = (*shape[: part.axis], *shape[part.axis + part.covered :])
        is_same = count is not None and self.equal.are_equal(count.mask, part.mask)
        return is_same and (*size[: part.axis], *size[part.axis + 1 :]) == others

    def are_together(self, part: Selected, other: Selected, site: Site) -> bool:
        """Return True if two selections take the same elements of arrays of one shape."""
        own, theirs = (site.types[item.array.name] for item in (part, other))
        is_same = self.equal.are_equal(part.mask, other.mask) and part[2:4] == other[2:4]
        return is_same and same_sizes(own, theirs)

    def type_of(self, value: Argument, site: Site) -> TensorType | None:
        """Return the type of an argument that is a tensor, if known."""
        return site.types.get(value.name) if isinstance(value, Value) else None

    def add(self, node: Node, site: Site, op: str, type_: TensorType | None, /, **kwargs: Any) -> Node:
        """Return a new node, of which nothing is left if nothing uses it."""
        new = new_node(node, site, op, type_, **kwargs)
        self.made.add(new.name)
        return new


def masks_of(node: Node) -> Any:
    """Return the masks or indices by which a node reads or writes elements."""
    return node.kwargs.get("indices", (node.kwargs.get("mask"),))
