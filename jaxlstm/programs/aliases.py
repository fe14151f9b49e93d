"""In-place operators on values that share memory in torch.

JAX arrays are immutable. An in-place operator returns a new array, and every other value that shares memory
with its argument must change too. Before a program runs, :func:`plan_writes` follows the views from value to
value. For each in-place node it lists the views to write back, from the argument to the tensor that owns the
memory, and the views to compute again.

The results of ``reshape`` and ``contiguous`` share memory or not depending on strides, which JAX does not
have. A program whose result depends on this is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.graph import Argument, Graph, Node, Value, place_of, values_in
from jaxlstm.programs.operators.registry import Operator, changes_shape, is_in_place


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
      again: the views to compute again from their bases, in this order: those that are used later, and
        their bases.
    """

    target: str
    owner: str
    back: tuple[View, ...] = ()
    again: tuple[View, ...] = ()


def plan_writes(graph: Graph, operators: Sequence[Operator]) -> dict[int, InPlaceWrite]:
    """Return the write of each in-place node, by the index of the node.

    Raises:
      ProgramError: the program depends on whether two values share memory, which is unknown.
    """
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
        self._types = {declared.name: declared.type for declared in graph.inputs if declared.type}
        self._types |= {name: type_ for node in graph.nodes for name, type_ in node.types.items()}
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
        for name in values_in((*node.args, *node.kwargs.values())):
            last[name] = index
    # Buffers keep their contents between calls.
    kept = (*values_in((*graph.outputs, *graph.mutations.values())), *graph.buffers)
    last.update((name, len(graph.nodes)) for name in kept)
    return last
