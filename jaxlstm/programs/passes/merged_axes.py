"""``whole_axes``: arrays of batch and steps instead of rows, as in ``f(x.view(-1, 8)).view(b, t, -1)``.

Sequences that were packed have an unknown number of steps under ``jit``, and as many rows as batch times
steps. A function of each row is the same one of the array before its axes were merged, where padded steps
still can be told from others.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from jaxlstm.programs.graph.graph import Graph, Node, TensorType, Value, same_size, same_sizes
from jaxlstm.programs.graph.rewrite import Site, rewrite
from jaxlstm.programs.graph.values import live_graph, results_of, uses_of, with_arguments, with_results
from jaxlstm.programs.operators.registry import Operator, find_operator
from jaxlstm.programs.passes.orders import dims_of

_VIEWS = ("view", "reshape", "_unsafe_view", "flatten", "ravel", "view_as", "unflatten")
_OF_DIMS = ("along", "over", "without", "inserts", "squeezes")
"""Layouts of operators that leave alone all axes but those in the argument ``dim``."""
_ALSO_OF_DIMS = ("argsort", "gather", "sort", "topk")
_TO_THE_END = 2**63 - 1
_ROWS = {
    "embedding": "indices",
    "layer_norm": "input",
    "linear": "input",
    "matmul": "self",
    "mm": "self",
    "one_hot": "self",
    "prelu": "self",
    "rms_norm": "input",
}
"""Operators of the last axes of one argument."""


class _Merged(NamedTuple):
    """An array, some of whose first axes a view merges into one."""

    array: Value
    axes: int


def whole_axes(graph: Graph, types: Mapping[str, TensorType]) -> Graph:
    """Return the graph in which rows are not merged if they are split again.

    Args:
      graph: a graph without in-place operators.
      types: types of placeholders that the graph does not record, by name of value.
    """
    rule = _WholeAxes()
    changed = rewrite(graph, rule, types=types)
    return live_graph(changed, lambda node: rule.unneeded.isdisjoint(results_of(node)))


class _WholeAxes:
    """The rule.

    Attributes:
      unneeded: values that are left out if nothing uses them.
    """

    def __init__(self) -> None:
        self._merged: dict[str, _Merged] = {}
        self.unneeded: set[str] = set()

    def __call__(self, node: Node, site: Site) -> Node | list[Node] | Value | None:
        name = node.op.split(".")[1]
        used = [value for value in uses_of(node) if value in self._merged]
        if name in _VIEWS and not used:
            self._note(node, site)
        elif name in _VIEWS:
            return self._split(node, site)
        elif name == "slice" and len(used) == 1 and _is_whole(node):
            self._remember(results_of(node)[0], self._merged[used[0]])
        elif used and (twin := self._twin(node, name, used, site)) is not None:
            return [twin, node]
        return None

    def _note(self, node: Node, site: Site) -> None:
        """Remember a view that merges the first axes of an array, whose number of rows is not known."""
        source, made = node.kwargs.get("self"), node.types.get(results_of(node)[0])
        own = site.types.get(source.name) if isinstance(source, Value) else None
        if own is None or made is None or not isinstance(source, Value) or not node.with_gradient:
            return
        count = len(own.shape) - len(made.shape) + 1
        # As many elements in rows of one size: the number of rows is the product of the other axes.
        is_same = own.shape[count:] == made.shape[1:]
        is_known = all(isinstance(size, int) and size > 0 for size in made.shape[1:])
        if count > 1 and is_same and is_known and None in own.shape[:count]:
            self._remember(results_of(node)[0], _Merged(source, count))

    def _remember(self, result: str, merged: _Merged) -> None:
        self._merged[result] = merged
        self.unneeded.add(result)

    def _split(self, node: Node, site: Site) -> Node | Value | None:
        """Return what takes the place of a view that splits the first axis into those that were merged."""
        source, made = node.kwargs.get("self"), node.types.get(results_of(node)[0])
        merged = self._merged.get(source.name) if isinstance(source, Value) else None
        if merged is None or made is None:
            return None
        array, count = merged
        own = site.types[array.name]
        if len(made.shape) < count or not all(same_size(own, axis, made, axis) for axis in range(count)):
            return None
        if same_sizes(own, made) and node.with_gradient:
            return array
        has_size = "size" in node.kwargs or "shape" in node.kwargs
        return replace(node, kwargs={**node.kwargs, "self": array}) if has_size else None

    def _twin(self, node: Node, name: str, used: list[str], site: Site) -> Node | None:
        """Return the node for the arrays before their axes were merged; None if it mixes rows."""
        operator = find_operator(node.op)
        parts, own = [self._merged[value] for value in used], site.types[used[0]]
        whole = [site.types[part.array.name] for part in parts]
        count, results = parts[0].axes, results_of(node)
        is_one = all(
            part.axes == count and all(same_size(whole[0], axis, type_, axis) for axis in range(count))
            for part, type_ in zip(parts, whole, strict=True)
        )
        are_arrays = all(result in node.types and node.types[result].shape for result in results)
        if operator is None or not is_one or not results or not are_arrays:
            return None
        changed = self._changed(node, name, operator, len(own.shape), used, site)
        if changed is None:
            return None
        names = {result: site.fresh(f"{result} whole") for result in results}
        types = {result: _with_first(node.types[result], whole[0], count) for result in results}
        for result in results:
            self._remember(result, _Merged(Value(names[result]), count))
        self.unneeded.update(names.values())
        changed = with_arguments(changed, lambda value: self._whole(value, used))
        return with_results(replace(changed, types=types, size=""), names)

    def _whole(self, value: Value, used: list[str]) -> Value:
        return self._merged[value.name].array if value.name in used else value

    def _changed(
        self, node: Node, name: str, operator: Operator, rank: int, used: list[str], site: Site
    ) -> Node | None:
        """Return the node with axes that are counted from the last one; None if it mixes rows."""
        others = {value: site.types.get(value) for value in uses_of(node) if value not in used}
        ranks = {len(site.types[value].shape) for value in used}
        if name in _ROWS:
            return self._of_last_axes(node, name, rank, used, others)
        if ranks != {rank} or None in others.values():
            return None
        if operator.layout == "elementwise":
            made = node.types[results_of(node)[0]]
            below = all(
                type_ is not None and (len(type_.shape) < rank or type_.shape[0] == 1)
                for type_ in others.values()
            )
            return node if below and len(made.shape) == rank else None
        if others or not (operator.layout in _OF_DIMS or name in _ALSO_OF_DIMS):
            return None
        rank += operator.layout == "inserts"
        named = dims_of(node, operator, rank)
        if named is None or not named[2] or 0 in named[2]:
            return None
        key, value, dims = named
        from_last = tuple(dim - rank for dim in dims)
        changed = from_last[0] if isinstance(value, int) else from_last
        return replace(node, kwargs={**node.kwargs, key: changed})

    def _of_last_axes(
        self, node: Node, name: str, rank: int, used: list[str], others: Mapping[str, TensorType | None]
    ) -> Node | None:
        """Return the node of an operator that takes only the last axes of one argument."""
        if used != [getattr(node.kwargs.get(_ROWS[name]), "name", "")]:
            return None
        taken = 0
        if name in ("linear", "matmul", "mm"):
            taken = 1
        elif name.endswith("norm"):
            normalized = node.kwargs["normalized_shape"]
            taken = len(normalized) if isinstance(normalized, tuple) else rank
        if taken >= rank or (
            name == "prelu" and [type_ and type_.shape for type_ in others.values()] != [(1,)]
        ):
            return None
        if name in ("matmul", "mm"):
            type_ = next(iter(others.values()), None)
            is_matrix = type_ is not None and len(type_.shape) in (1, 2)
            kwargs = {"self": node.kwargs["self"], "other": node.kwargs.get("other", node.kwargs.get("mat2"))}
            return replace(node, op="aten.matmul.default", kwargs=kwargs) if is_matrix else None
        return node


def _is_whole(node: Node) -> bool:
    """Return True for a slice of all elements, with its gradient."""
    start, end, step = (node.kwargs.get(name) for name in ("start", "end", "step"))
    return start in (0, None) and end in (None, _TO_THE_END) and step in (1, None) and node.with_gradient


def _with_first(type_: TensorType, whole: TensorType, count: int) -> TensorType:
    """Return the type with the first axes of another one instead of the first one."""
    texts = type_.expressions and whole.expressions
    expressions = (*whole.expressions[:count], *type_.expressions[1:]) if texts else ()
    return TensorType(type_.dtype, (*whole.shape[:count], *type_.shape[1:]), expressions)
