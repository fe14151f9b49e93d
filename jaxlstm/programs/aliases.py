"""In-place operators on values that share memory in torch.

JAX arrays are immutable. An in-place operator returns a new array, and every other value that shares memory
with its argument must change too. Before a program runs, :func:`plan_writes` follows the views from value to
value. For each in-place node it lists the views to write back, from the argument to the tensor that owns the
memory, and the views to compute again.

The results of ``reshape`` and ``contiguous`` share memory or not depending on strides, which JAX does not
have. A program whose result depends on this is refused.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.graph import (
    Argument,
    Graph,
    Node,
    TensorType,
    Value,
    place_of,
    results_of,
    uses_of,
    values_in,
)
from jaxlstm.programs.operators.registry import (
    Operator,
    changes_shape,
    find_operator,
    functional_name,
    is_in_place,
    same,
)


@dataclass(frozen=True)
class View:
    """A value that shares memory with ``base``: result number ``index`` of the node ``node``."""

    name: str
    base: str
    node: Node
    operator: Operator
    index: int
    certain: bool


@dataclass(frozen=True)
class InPlaceWrite:
    """The effect of an in-place node on the values that share memory with its argument.

    Attributes:
      target: the argument that the node writes to.
      owner: the value that owns the memory of the target: the target itself if it is not a view.
      back: the views from the target to the owner of the memory, to be written back in this order.
      again: the views to compute again from their bases, in this order: views that are used later, and
        their bases.
    """

    target: str
    owner: str
    back: tuple[View, ...] = ()
    again: tuple[View, ...] = ()


def plan_writes(graph: Graph, operators: Sequence[Operator]) -> dict[int, InPlaceWrite]:
    """Return the write of each in-place node, by the index of the node."""
    last_use = _last_uses(graph)
    views = _Views(graph)
    writes: dict[int, InPlaceWrite] = {}
    for index, (node, operator) in enumerate(zip(graph.nodes, operators, strict=True)):
        if is_in_place(node.op):
            target = target_of(node)
            alive = {name for name in views.family(target) if last_use.get(name, -1) > index}
            writes[index] = views.plan_write(node, target, alive - {target})
        elif changes_shape(node.op) and last_use.get(target_of(node), -1) > index:
            raise ProgramError(
                "unsupported-alias",
                f"node {node.name} ({node.op}, {place_of(node)}) changes the shape of {target_of(node)} in "
                "place, and its old name is used later. Replace the operator by its functional form, and "
                "export again",
            )
        views.add(node, operator)
    return writes


def without_out(graph: Graph) -> Graph:
    """Return the graph in which a function with an argument ``out`` is the function and a copy."""
    types, nodes = dict(graph.types), []
    for node in graph.nodes:
        function, _, overload = node.op.rpartition(".")
        name, out = overload.removesuffix("out").removesuffix("_") or "default", node.kwargs.get("out")
        op = next((op for op in (f"{function}.{name}", f"{function}.Tensor") if find_operator(op)), "")
        type_ = types.get(out.name) if isinstance(out, Value) else None
        # torch resizes a tensor of another shape.
        if op and type_ is not None and [type_] == [types.get(name) for name in results_of(node)]:
            result = f"<{node.name} result>"
            kwargs = {name: argument for name, argument in node.kwargs.items() if name != "out"}
            nodes.append(
                replace(node, name=result, op=op, kwargs=kwargs, outputs=(result,), types={result: type_})
            )
            node = replace(node, op="aten.copy_.default", kwargs={"self": out, "src": Value(result)})
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


def functional_form(graph: Graph, types: Mapping[str, TensorType]) -> tuple[Graph, frozenset[str]]:
    """Return a graph with fewer in-place operators, and the values that the remaining ones write to.

    An elementwise operator such as ``relu_`` becomes ``relu`` if nothing else shares the memory of its
    argument.

    Args:
      graph: the graph.
      types: the type of each value, parameters and buffers included.
    """
    operators = tuple(operator for node in graph.nodes if (operator := find_operator(node.op)))
    writes = plan_writes(graph, operators)
    kept_between_calls = {*graph.parameters, *graph.buffers, *graph.constants}
    kept_between_calls |= {declared.name for declared in graph.inputs}
    renamed: dict[str, str] = {}
    written: set[str] = set()
    nodes = []
    for index, (node, operator) in enumerate(zip(graph.nodes, operators, strict=True)):
        node = with_names(node, renamed)
        if write := writes.get(index):
            views = (*write.back, *write.again)
            names = {write.target, *(name for view in views for name in (view.name, view.base))}
            equal = all(is_in_place(view.node.op) or view.operator.write_back is same for view in views)
            if equal and write.owner not in kept_between_calls and _returns_argument(node, operator, types):
                result = next(iter(results_of(node)), node.name)
                kwargs = {operator.first_parameter if n == "self" else n: a for n, a in node.kwargs.items()}
                node = replace(node, op=functional_name(node.op), kwargs=kwargs, outputs=(result,))
                renamed |= dict.fromkeys(names, result)
            else:
                written |= names
        elif changes_shape(node.op):
            node = replace(node, op=functional_name(node.op))
        nodes.append(node)
    return graph_with_nodes(graph, nodes, renamed), frozenset(written)


def graph_with_nodes(graph: Graph, nodes: Sequence[Node], renamed: Mapping[str, str]) -> Graph:
    """Return a graph with other nodes and other names in its results: old name of a value -> new name."""
    return replace(
        graph,
        nodes=tuple(nodes),
        outputs=tuple(renamed_argument(output, renamed) for output in graph.outputs),
        mutations={name: renamed_argument(value, renamed) for name, value in graph.mutations.items()},
    )


def _returns_argument(node: Node, operator: Operator, types: Mapping[str, TensorType]) -> bool:
    """Return True if the functional form of a node has the dtype, shape and gradient of the in-place form."""
    if operator.layout != "elementwise" or not node.with_gradient:
        return False
    found = [types.get(name) for name in values_in(tuple(node.kwargs.values()))]
    if any(type_ is None for type_ in found):
        return False
    dtypes = {type_.dtype for type_ in found if type_ is not None} - {np.dtype(bool)}
    return len(dtypes) == 1 and (dtype := dtypes.pop()).kind in "fV" and types[target_of(node)].dtype == dtype


def with_names(node: Node, renamed: Mapping[str, str]) -> Node:
    """Return a node whose arguments have other names: old name of a value -> new name."""
    args = tuple(renamed_argument(argument, renamed) for argument in node.args)
    kwargs = {name: renamed_argument(argument, renamed) for name, argument in node.kwargs.items()}
    return replace(node, args=args, kwargs=kwargs)


def renamed_argument(argument: Argument, renamed: Mapping[str, str]) -> Argument:
    """Return an argument with other names of its values."""
    if isinstance(argument, Value):
        return Value(renamed.get(argument.name, argument.name))
    if isinstance(argument, tuple):
        return tuple(renamed_argument(item, renamed) for item in argument)
    return argument


def target_of(node: Node) -> str:
    """Return the name of the value that an in-place node writes to."""
    value = node.kwargs.get("self")
    if not isinstance(value, Value):
        raise ProgramError(
            "malformed-graph", f"node {node.name}: the in-place operator {node.op} has no tensor self"
        )
    return value.name


class _Views:
    """The views that the nodes of a graph have defined so far."""

    def __init__(self, graph: Graph) -> None:
        self._types = graph.types
        self._views: dict[str, View] = {}
        self._owners: dict[str, str] = {}
        self._families: dict[str, list[str]] = {}

    def add(self, node: Node, operator: Operator) -> None:
        """Add the results of a node that are views."""
        for view in self._views_of(node, operator):
            owner = self.owner(view.base)
            self._views[view.name] = view
            self._owners[view.name] = owner
            self._families.setdefault(owner, [owner]).append(view.name)

    def owner(self, name: str) -> str:
        """Return the value that owns the memory of a value: itself if it is not a view."""
        return self._owners.get(name, name)

    def family(self, name: str) -> list[str]:
        """Return the values that share memory with a value, in the order of their definition."""
        owner = self.owner(name)
        return self._families.get(owner, [owner])

    def plan_write(self, node: Node, target: str, alive: set[str]) -> InPlaceWrite:
        """Return the effect of a write to ``target`` if the values ``alive`` are used later."""
        if not alive:
            return InPlaceWrite(target, self.owner(target))
        certain = self._certain_family(target)
        if unknown := sorted(alive - certain):
            raise self._unknown_sharing(node, target, unknown[0])
        back, name = [], target
        while name in self._views and self._views[name].certain:
            back.append(self._views[name])
            name = self._views[name].base
        needed: set[str] = set()
        for name in alive:
            while name in self._views and name not in needed:
                needed.add(name)
                name = self._views[name].base
        again = [self._views[name] for name in self.family(target) if name in certain & needed]
        views_again = tuple(view for view in again if view.certain)
        return InPlaceWrite(target, self.owner(target), tuple(back), views_again)

    def _unknown_sharing(self, node: Node, target: str, other: str) -> ProgramError:
        links = [self._views[name] for name in self.family(target) if name in self._views]
        link = next(view for view in links if not view.certain).node
        return ProgramError(
            "unsupported-alias",
            f"node {node.name} ({node.op}, {place_of(node)}) changes {target} in place, and {other} is used "
            f"later. They share memory or not depending on the strides at node {link.name} ({link.op}). "
            "Replace the in-place operator by its functional form, or insert .clone() before it, and export "
            "again",
        )

    def _certain_family(self, target: str) -> set[str]:
        """Return the values that share memory with the target whatever the strides."""
        top = target
        while top in self._views and self._views[top].certain:
            top = self._views[top].base
        found = {top}
        for name in self.family(target):
            view = self._views.get(name)
            if view is not None and view.certain and view.base in found:
                found.add(name)
        return found

    def _views_of(self, node: Node, operator: Operator) -> Iterator[View]:
        if is_in_place(node.op):
            # The result of an in-place operator is its argument.
            if node.outputs and isinstance(node.outputs[0], str):
                yield View(node.outputs[0], target_of(node), node, operator, 0, certain=True)
            return
        if not (operator.write_back or operator.may_alias):
            return
        results = node.outputs[0] if len(node.outputs) == 1 else node.outputs
        results = results if isinstance(results, tuple) else (results,)
        for index, (name, base) in enumerate(zip(results, _bases(node, operator, len(results)), strict=True)):
            if base is None or not isinstance(name, str):
                continue
            if not (operator.may_alias and self._differ_in_dtype(base.name, name)):
                yield View(name, base.name, node, operator, index, certain=operator.write_back is not None)

    def _differ_in_dtype(self, before: str, after: str) -> bool:
        """Return True if a value is known to be a conversion of another, which copies."""
        types = self._types.get(before), self._types.get(after)
        return types[0] is not None and types[1] is not None and types[0].dtype != types[1].dtype


def _bases(node: Node, operator: Operator, count: int) -> Sequence[Value | None]:
    """Return the value whose memory each of ``count`` results shares."""
    tensors = node.kwargs.get("tensors")
    if isinstance(tensors, tuple) and len(tensors) == count > 1:
        # broadcast_tensors and meshgrid: a view of each tensor.
        return [_only_value(tensor) for tensor in tensors]
    return [_only_value(node.kwargs.get(operator.first_parameter)) or _only_value(tensors)] * count


def _only_value(argument: Argument) -> Value | None:
    """Return the value that an argument is, or that it is a list of; None if there are several or none."""
    if isinstance(argument, tuple) and len(argument) == 1:
        (argument,) = argument
    return argument if isinstance(argument, Value) else None


def _last_uses(graph: Graph) -> dict[str, int]:
    """Return the index of the last node that reads each value; results are read after all nodes."""
    last: dict[str, int] = {}
    for index, node in enumerate(graph.nodes):
        for name in uses_of(node):
            last[name] = index
    # Buffers keep their contents between calls.
    kept = (*values_in((*graph.outputs, *graph.mutations.values())), *graph.buffers)
    last.update((name, len(graph.nodes)) for name in kept)
    return last
