"""A graph without in-place operators: each write gives new values, under new names.

JAX arrays are immutable, and in torch a write changes every value that shares memory with the written one.
:func:`functionalize` follows the views from value to value. A write becomes the functional operator, and
nodes that put the written view back into its base, up to the value that owns the memory. Another view of this
memory is computed again where it is used next. The time is linear in the number of nodes that this makes.

The results of ``reshape`` and ``contiguous`` share memory or not depending on strides, which JAX does not
have. A program whose result depends on this is refused.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.graph.graph import (
    RESULT,
    Argument,
    Graph,
    ModuleCall,
    Node,
    TensorType,
    Value,
    place_of,
)
from jaxlstm.programs.graph.rewrite import Site, rewrite
from jaxlstm.programs.graph.values import live_graph, values_in, with_arguments, with_names
from jaxlstm.programs.operators.dtypes import promoted_type
from jaxlstm.programs.operators.registry import (
    Operator,
    changes_shape,
    find_operator,
    functional_name,
    is_in_place,
    same,
    same_values,
)
from jaxlstm.programs.passes.views import bases_of, put_back_node, single_view, target_of

WITH_VALUES = "jaxlstm.with_values.default"
"""The values of one tensor with the gradient of another."""
_MOST_ADDED = 16
"""The number of nodes that writes may add for each node of a graph: more are views of views without end."""
_PREDICATES = {"eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_xor", "logical_not"}
_SUMS = ("cumsum", "cumprod")  # of integers are int64
_KEEP_DTYPE = ("copy", "fill")
_ASSIGNED = "copy__default"
"""The name of a node by which torch writes ``self.buffer = x``, where x may have another shape."""
_PLACES = ("mask", "index", "indices", "condition")
"""Arguments whose dtype does not matter for the result's."""


@dataclass(frozen=True)
class View:
    """A value that surely shares memory with ``base``: result number ``index`` of a node.

    ``node`` is the node in the new graph, in which ``seen`` is the base. No gradient flows from a view that
    was made by ``detach`` or inside of ``no_grad`` to its base, in either direction.
    """

    base: str
    node: Node
    seen: str
    operator: Operator
    index: int
    has_gradient: bool


class _Write(NamedTuple):
    """A write to ``target``, of the memory of ``root``; ``number`` counts the writes of a family."""

    number: int
    root: str
    node: Node
    target: str


def functionalize(graph: Graph, types: Mapping[str, TensorType]) -> tuple[Graph, frozenset[str]]:
    """Return a graph without in-place operators, and the placeholders that the given graph writes to.

    Writes of buffers become mutations.

    Args:
      graph: a graph of registered operators.
      held: the types of parameters, buffers and constants by name of value, if known.

    Raises:
      ProgramError: the result depends on strides, or a value whose shape has changed is used.
    """
    if not any(is_in_place(node.op) or changes_shape(node.op) for node in graph.nodes):
        return graph, frozenset()
    memory = _Memory(graph)
    pure = live_graph(rewrite(graph, memory, types=types), lambda node: node.name not in memory.added)
    placeholders = {*graph.parameters, *graph.buffers, *graph.constants, *(i.name for i in graph.inputs)}
    return pure, frozenset(placeholders & memory.written.keys())


def _items(node: Node) -> int:
    """Return the length of a node: it may have long lists, such as the places where a tensor is split."""
    arguments = (*node.args, *node.kwargs.values())
    return 1 + sum(len(argument) for argument in arguments if isinstance(argument, tuple))


class _Memory:
    """A rule that remembers the values that nodes have made so far, and which of them share memory.

    Values have the names of the given graph; the result of an in-place operator is its argument. Values that
    surely share memory have one *root*, which owns the memory. The roots that share memory or not, depending
    on strides, have one *owner*.
    """

    def __init__(self, graph: Graph) -> None:
        self._site: Site
        self._nodes: list[Node] = []  # that replace the present one
        self._room = _MOST_ADDED * (sum(map(_items, graph.nodes)) + 16)
        self._calls: tuple[ModuleCall, ...] = ()  # of the node that uses a view
        self.added: set[str] = set()  # nodes that are left out if nothing uses them
        self._names: dict[str, str] = {}  # value -> its present name
        self._arguments: dict[str, str] = {}  # result of an in-place operator -> its argument
        self._views: dict[str, View] = {}
        self._roots: dict[str, str] = {}
        self._owners: dict[str, str] = {}
        self._links: dict[str, Node] = {}  # owner -> the first node that may give a view
        self._writes: dict[str, list[_Write]] = {}  # owner -> the last write, and the last of another root
        self.written: dict[str, int] = {}  # root -> the number of its last write
        self._seen: dict[str, int] = {}  # value -> the last write that its present name has seen
        self._born: dict[str, int] = {}  # value -> the last write of its family before it was made
        self._own_gradient: set[str] = set()  # views without gradient that were written
        self._reshaped: dict[str, Node] = {}  # value -> the node that has changed its shape

    def __call__(self, node: Node, site: Site) -> Sequence[Node]:
        """Return the nodes that replace a node."""
        self._site, self._calls, self._nodes = site, node.calls, []
        if node.op == RESULT:
            self._end(node, site.graph)
            return self._nodes
        operator = find_operator(node.op)
        assert operator is not None
        if is_in_place(node.op):
            self._write(node, operator)
            return self._nodes
        pure = with_arguments(node, self._present)
        if changes_shape(node.op):
            pure = replace(pure, op=functional_name(node.op))
            self._reshaped[self._argument(target_of(node))] = node
        self._nodes.append(pure)
        self._add_views(node, pure, operator)
        return self._nodes

    def _end(self, node: Node, graph: Graph) -> None:
        """Add the node with the results, in which buffers keep their contents between calls."""
        present = {name: self._present(Value(value)) for value, name in graph.buffers.items()}
        changed = {name: present[name] for value, name in graph.buffers.items() if value in self.written}
        node = with_arguments(node, self._present)
        self._nodes.append(replace(node, kwargs={**changed, **node.kwargs}))

    # Names

    def _argument(self, name: str) -> str:
        return self._arguments.get(name, name)

    def _now(self, name: str) -> str:
        """Return the present name of a value, which may be out of date."""
        return self._names.get(name, name)

    def _present(self, value: Value) -> Value:
        """Return the present contents of a value that is used."""
        name = self._argument(value.name)
        if name in self._reshaped:
            node = self._reshaped[name]
            raise ProgramError(
                "unsupported-alias",
                f"node {node.name} ({node.op}, {place_of(node)}) changes the shape of {name} in "
                "place, and its old name is used later. Replace the operator by its functional form, and "
                "export again",
            )
        self._require_known_sharing(name)
        stale, root = [name], self._root(name)
        while self._seen.get(stale[-1], 0) != self.written.get(root, 0):
            stale.append(self._views[stale[-1]].base)
        for view in reversed(stale[:-1]):
            self._names[view] = self._viewed(view)
            self._seen[view] = self.written[root]
        return Value(self._now(name))

    def _root(self, name: str) -> str:
        return self._roots.get(name, name)

    def _owner(self, name: str) -> str:
        root = self._root(name)
        return self._owners.get(root, root)

    def _append(self, node: Node, value: str, *, may_fail: bool = False) -> str:
        """Append a node that makes the present contents of a value, and return their name."""
        name = node.name
        self._nodes.append(replace(node, outputs=(name,), types=self._typed(name, value), size=""))
        if not may_fail:
            self.added.add(name)
        self._room -= _items(node)
        if self._room < 0:
            raise ProgramError(
                "unsupported-alias",
                f"node {node.name}: in-place operators on views of views need more than {_MOST_ADDED} times "
                "the nodes of the graph. Replace them by their functional forms, and export again",
            )
        return name

    def _typed(self, name: str, value: str) -> dict[str, TensorType]:
        """Return the type of a new value that is equal to another's."""
        types = self._site.types
        if value in types:
            types[name] = types[value]
        return {name: types[name]} if value in types else {}

    # Views

    def _add_views(self, node: Node, pure: Node, operator: Operator) -> None:
        for index, (name, value) in enumerate(bases_of(node, operator)):
            if value is None or not isinstance(name, str):
                continue
            base = self._argument(value)
            owner = self._owner(base)
            self._born[name] = self._writes[owner][0].number if owner in self._writes else 0
            if operator.write_back is None:
                if not self._differ_in_dtype(base, name):
                    self._owners[name] = owner
                    self._links.setdefault(owner, node)
                continue
            root = self._roots[name] = self._root(base)
            self._seen[name] = self.written.get(root, 0)
            has_gradient = pure.with_gradient and operator.write_back is not same_values
            self._views[name] = View(base, pure, self._now(base), operator, index, has_gradient)

    def _differ_in_dtype(self, before: str, after: str) -> bool:
        """Return True if a value is known to be a conversion of another, which copies."""
        types = self._site.types.get(before), self._site.types.get(after)
        return types[0] is not None and types[1] is not None and types[0].dtype != types[1].dtype

    def _viewed(self, name: str) -> str:
        """Return the name of a view of the present contents of its base."""
        view = self._views[name]
        base, writer = self._now(view.base), self._writes[self._owner(name)][0].node
        if view.operator.write_back is same and view.has_gradient:
            return base
        node = single_view(with_names(view.node, {view.seen: base}), view.index, self._site.types)
        node = replace(node, name=self._site.fresh(f"{writer.name}_{name}"), calls=self._calls)
        view_name = self._append(node, name)
        return (
            self._with_values(name, view_name, self._site.fresh(view_name), node)
            if name in self._own_gradient
            else view_name
        )

    def _with_values(self, name: str, values: str, result: str, node: Node) -> str:
        """Return ``result``, the name of a value with other contents and its own gradient."""
        kwargs: dict[str, Argument] = {"base": Value(self._now(name)), "values": Value(values)}
        with_values = replace(node, name=result, op=WITH_VALUES, args=(), kwargs=kwargs, with_gradient=True)
        return self._append(with_values, name)

    # Writes

    def _write(self, node: Node, operator: Operator) -> None:
        """Add the nodes of an in-place node."""
        target = self._argument(target_of(node))
        pure = with_arguments(node, self._present)
        source = pure.kwargs.get("src")
        if node.name.startswith(_ASSIGNED) and isinstance(source, Value):
            self._names[target] = source.name
            self._put_back(target, node)
            return
        result = next((output for output in node.outputs if isinstance(output, str)), node.name)
        kwargs = {operator.first_parameter if n == "self" else n: a for n, a in pure.kwargs.items()}
        pure = replace(pure, op=functional_name(node.op), kwargs=kwargs)
        *leading, last = self._in_dtype(pure, operator, target, result)
        is_detached = operator.write_back is same_values  # by detach_, which leaves views as they are
        values = result if last.with_gradient or is_detached else self._site.fresh(f"{result}_values")
        types = self._typed(values, target)
        self._nodes += [*leading, replace(last, name=values, outputs=(values,), types=types)]
        if values != result:
            # Inside of no_grad, torch replaces the contents of a tensor and keeps its gradient.
            values = self._with_values(target, values, result, last)
        self._names[target], self._arguments[result] = values, target
        if not is_detached:
            self._put_back(target, node)

    def _in_dtype(self, pure: Node, operator: Operator, target: str, result: str) -> Iterator[Node]:
        """Yield the functional form of an in-place node, and a conversion if it may have another dtype."""
        target_type, dtype = self._site.types.get(target), self._dtype(pure)
        if target_type is not None and (pure.op.split(".")[1] in _KEEP_DTYPE or dtype == target_type.dtype):
            yield pure
            return
        wide, types = self._site.fresh(f"{result}_wide"), {}
        if target_type is not None and dtype is not None and operator.layout == "elementwise":
            types[wide] = self._site.types[wide] = replace(target_type, dtype=dtype)
        yield replace(pure, name=wide, outputs=(wide,), types=types)
        if target_type is not None:
            yield replace(pure, op="aten.to.dtype", kwargs={"self": Value(wide), "dtype": target_type.dtype})
        else:
            copied = {"self": Value(self._now(target)), "src": Value(wide)}
            yield replace(pure, op="aten.copy.default", kwargs=copied)

    def _dtype(self, pure: Node) -> np.dtype | None:
        """Return the dtype of the result of an operator of tensors, if it is known."""
        function = pure.op.split(".")[1]
        arguments = [argument for name, argument in pure.kwargs.items() if name not in _PLACES]
        types = [self._site.types.get(name) for name in values_in(tuple(arguments))]
        known_types = [type_ for type_ in types if type_ is not None]
        if function in _PREDICATES or not known_types or len(known_types) < len(types):
            return np.dtype(bool) if function in _PREDICATES else None
        dtype = promoted_type(known_types)
        return None if function in _SUMS and dtype.kind in "biu" else dtype

    def _put_back(self, target: str, node: Node) -> None:
        """Put a written view back into its base, and so on up to its root."""
        root, owner = self._root(target), self._owner(target)
        last = self._writes.get(owner, [])
        number = last[0].number + 1 if last else 1
        other_roots = [write for write in last if write.root != root]
        self._writes[owner] = [_Write(number, root, node, target), *other_roots[:1]]
        self.written[root] = self._seen[target] = number
        while (view := self._views.get(target)) is not None:
            base, written = Value(self._now(view.base)), Value(self._now(target))
            name = written.name
            if view.operator.write_back not in (same, same_values):
                back, may_fail = put_back_node(view.node, view.index, base, written, self._site.types)
                back_name = self._site.fresh(f"{node.name}_{view.base}")
                back = replace(back, name=back_name, calls=node.calls, with_gradient=view.has_gradient)
                name = self._append(back, view.base, may_fail=may_fail)
            if not view.has_gradient:
                self._own_gradient.add(target)
                name = self._with_values(view.base, name, self._site.fresh(f"{node.name}_{view.base}"), node)
            self._names[view.base], self._seen[view.base] = name, number
            target = view.base

    def _require_known_sharing(self, name: str) -> None:
        """Raise if a value was made before a write of memory that it may share, depending on strides."""
        owner, root = self._owner(name), self._root(name)
        for write in self._writes.get(owner, ()):
            if write.root != root and write.number > self._born.get(name, 0):
                node, link = write.node, self._links[owner]
                raise ProgramError(
                    "unsupported-alias",
                    f"node {node.name} ({node.op}, {place_of(node)}) changes {write.target} in place, and "
                    f"{name} is used later. They share memory or not depending on the strides at node "
                    f"{link.name} ({link.op}). Replace the in-place operator by its functional form, or "
                    "insert .clone() before it, and export again",
                )
