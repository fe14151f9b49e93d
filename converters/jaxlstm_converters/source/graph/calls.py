"""The calls of modules in a graph, as a tree."""

import heapq
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from typing import NamedTuple, TypeAlias

import numpy as np

from jaxlstm.programs.graph.graph import Graph, ModuleCall, Node, Structure
from jaxlstm.programs.graph.rewrite import rewrite, with_functions
from jaxlstm.programs.graph.values import all_nodes, results_of, used_values, uses_of, values_in
from jaxlstm_converters.source.graph.sizes import Sizes
from jaxlstm_converters.source.spelling.layers import TORCH

Item: TypeAlias = "Node | Invocation"

SEQUENTIAL = f"{TORCH}container.Sequential"
SCAN = "higher_order.scan"


class Parameter(NamedTuple):
    """A parameter of a method: its name in the user's code, "" if unknown, and the values that it takes."""

    name: str
    value: Structure


@dataclass
class Invocation:
    """One call of a module.

    Attributes:
        path: path of the module.
        class_name: full name of its class.
        key: its key in the graph.
        method: the method that is called instead of ``forward``, or "".
        body: its nodes and the calls of other modules, in the order of their dependencies.
        inputs: the values and sizes that it takes from its parent, in the order of the parameters.
        outputs: the values that its parent uses.
        parameters: the parameters of its method.
        results: the outputs as its method returns them.
        is_whole: whether these are all results of the user's forward.
    """

    path: str
    class_name: str
    key: str
    method: str
    body: list[Item]
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    results: Structure = None
    is_whole: bool = False


@dataclass(frozen=True, kw_only=True)
class Function(Graph):
    """A function that a node calls; ``body`` has its nodes and the calls of modules in it."""

    body: Sequence[Item]


Outputs: TypeAlias = Sequence[tuple[Invocation, tuple[str, ...]]]
# Node -> the calls around it that count.
Chains: TypeAlias = Mapping[str, tuple[ModuleCall, ...]]


def call_tree(graph: Graph, sizes: Sizes, method: str) -> Invocation:
    """Return the call of a method of the outermost module; nodes that compute sizes are left out."""
    method = "" if method in ("forward", "__call__") else method
    nodes = (node for node in all_nodes(graph) if not sizes.is_size(node.name))
    chains = _without_strangers({node.name: node.calls for node in nodes})
    root = next((calls[0] for calls in chains.values() if calls), None)
    root = root or ModuleCall("", "", "Model", "")
    return Invocation("", root.class_name, root.key, method, _body(graph.nodes, chains, 0))


def with_tied_buffers(
    graph: Graph, tied: Mapping[str, str], tensors: Mapping[str, np.ndarray]
) -> dict[str, str]:
    """Return other names of tensors, also of the buffers of a module with two names.

    torch calls such a module under one name, so that operators do not read its buffers under both.
    """
    found, used = dict(tied), used_values(graph)
    read = {name for value, name in graph.buffers.items() if value in used}
    modules = {(other.rpartition(".")[0], first.rpartition(".")[0]) for other, first in tied.items()}
    for other, first in sorted(modules):
        own = [name for name in graph.buffers.values() if other and is_under(name, other)]
        pairs = [
            (name, twin) for name in own if (twin := first + name[len(other) :]) in graph.buffers.values()
        ]
        if not any(read.issuperset(pair) for pair in pairs):
            found |= {name: twin for name, twin in pairs if np.array_equal(tensors[name], tensors[twin])}
    return found


def first_paths(graph: Graph, tied: Mapping[str, str]) -> dict[str, str]:
    """Return another path of a module -> the path under which its tensors are stored."""
    names = {*graph.parameters.values(), *graph.buffers.values(), *tied}
    classes = {call.path: call.class_name for node in graph.nodes for call in node.calls}
    found: dict[str, str] = {}
    for other, first in tied.items():
        others, firsts = other.split("."), first.split(".")
        while min(len(others), len(firsts)) > 1 and others[-1] == firsts[-1]:
            others, firsts = others[:-1], firsts[:-1]
            old, new = ".".join(others), ".".join(firsts)
            # A module that holds its own tensors is another one.
            is_same = all(tied.get(name) == new + name[len(old) :] for name in names if is_under(name, old))
            if is_same and classes.get(new, classes.get(old)) == classes.get(old):
                found[old] = new
    return found


def at_first_paths(graph: Graph, paths: Mapping[str, str], prefix: str) -> Graph:
    """Return a graph in which modules are called by the paths of their tensors, see `first_paths`.

    The keys of calls get a prefix.
    """

    def at_first_path(call: ModuleCall) -> ModuleCall:
        old = max((old for old in paths if is_under(call.path, old)), key=len, default="")
        path = paths[old] + call.path[len(old) :] if old else call.path
        return call._replace(path=path, key=prefix + call.key)

    return rewrite(graph, lambda node, site: replace(node, calls=tuple(map(at_first_path, node.calls))))


def nodes_of(item: Item) -> Iterator[Node]:
    """Yield the nodes of an item, including called modules."""
    if isinstance(item, Node):
        yield item
    else:
        for part in item.body:
            yield from nodes_of(part)


def called_by(item: Item) -> list[Function]:
    """Return the functions that an item calls."""
    return [argument for argument in getattr(item, "args", ()) if isinstance(argument, Function)]


def line_of(item: Item, call: Invocation) -> str:
    """Return the line of the user's code in a call that led to an item."""
    node = next(nodes_of(item), None)
    calls = node.calls if node else ()
    return next((around.line for around in calls if around.key == call.key), "")


def is_under(path: str, parent: str) -> bool:
    """Return True if a module or tensor belongs to a module or to one of its submodules."""
    return not parent or path == parent or path.startswith(f"{parent}.")


def _without(chains: Chains, keys: Collection[str]) -> Chains:
    """Return the calls around each node without those with some keys."""
    return {name: tuple(call for call in calls if call.key not in keys) for name, calls in chains.items()}


def _without_strangers(chains: Chains) -> Chains:
    """Drop modules that call a module which does not belong to them: its attribute is out of their reach."""
    while strangers := {
        outer.key
        for calls in chains.values()
        for outer, inner in itertools.pairwise(calls)
        if not is_under(inner.path, outer.path) and outer.class_name != SEQUENTIAL
    }:
        chains = _without(chains, strangers)
    return chains


def _body(nodes: Sequence[Node], chains: Chains, depth: int) -> list[Item]:
    """Return the items of one call, or of a function in it, in an order that their dependencies allow."""
    nodes = [node for node in nodes if node.name in chains]

    def with_body(function: Graph) -> Function:
        return Function(**vars(function), body=_body(function.nodes, chains, depth))

    while True:
        groups: dict[str | int, list[Node]] = {}
        for place, node in enumerate(nodes):
            inner = chains[node.name][depth + 1 : depth + 2]
            groups.setdefault(inner[0].key if inner else place, []).append(node)
        order, stuck = _sorted(list(groups.values()))
        if stuck is None:
            break
        # Two calls that need each other's results: the first one is written out.
        chains = _without(chains, [chains[stuck[0].name][depth + 1].key])
    items: list[Item] = []
    for group in order:
        inner = chains[group[0].name][depth + 1 : depth + 2]
        if inner:
            call, body = inner[0], _body(group, chains, depth + 1)
            items.append(Invocation(call.path, call.class_name, call.key, call.method, body))
        else:
            items.append(with_functions(group[0], with_body))
    return items


def _sorted(groups: Sequence[Sequence[Node]]) -> tuple[list[Sequence[Node]], Sequence[Node] | None]:
    """Sort groups by their dependencies, else by place; or return a group with several nodes on a cycle."""
    owner = {name: index for index, group in enumerate(groups) for node in group for name in results_of(node)}
    needs = {
        index: {owner[name] for node in group for name in uses_of(node) if name in owner} - {index}
        for index, group in enumerate(groups)
    }
    sorter, ready, order = TopologicalSorter(needs), list[int](), list[Sequence[Node]]()
    try:
        sorter.prepare()
    except CycleError as error:
        return [], next(groups[index] for index in sorted(error.args[1]) if len(groups[index]) > 1)
    while sorter.is_active():
        for index in sorter.get_ready():
            heapq.heappush(ready, index)
        first = heapq.heappop(ready)
        order.append(groups[first])
        sorter.done(first)
    return order, None


def connect(calls: Sequence[Invocation], sizes: Sizes, owners: Mapping[str, str], outputs: Outputs) -> None:
    """Fill in the inputs and outputs of all calls, in the order of their use.

    ``outputs`` has each call of the outermost module with its results.
    """
    for call in calls:
        _find_inputs(call, sizes, owners)
    for root, results in outputs:
        _find_outputs(root.body, set(results))
    for group in equal_calls(calls):
        _share_outputs(group)
    for call in calls:
        call.parameters = tuple(Parameter("", name) for name in call.inputs)
        call.results = call.outputs[0] if len(call.outputs) == 1 else call.outputs
    for root, results in outputs:
        # The results may also be inputs, whose variables no other value may have.
        root.outputs = root.results = results


def walk(item: Item) -> Iterator[Invocation]:
    """Yield the calls in an item, also in functions, then the item itself if it is a call."""
    bodies = [item.body] if isinstance(item, Invocation) else [called.body for called in called_by(item)]
    yield from (inner for body in bodies for part in body for inner in walk(part))
    if isinstance(item, Invocation):
        yield item


def equal_calls(calls: Iterable[Invocation]) -> Collection[list[Invocation]]:
    """Return groups of the calls whose modules have one class and the same operators."""
    groups: dict[tuple[str, ...], list[Invocation]] = {}
    for call in calls:
        key = (call.class_name, call.method, *(node.op for node in nodes_of(call)))
        groups.setdefault(key, []).append(call)
    return groups.values()


def _share_outputs(group: Sequence[Invocation]) -> None:
    """Let equal modules return equal results, although a result of one of them may not be used."""
    results = [(call, _results(call)) for call in group]
    places = {names.index(name) for call, names in results for name in call.outputs}
    if len({len(names) for _, names in results}) == 1:
        for call, names in results:
            call.outputs = tuple(names[place] for place in sorted(places))


def _find_inputs(call: Invocation, sizes: Sizes, owners: Mapping[str, str]) -> None:
    """Fill in the inputs of a call, whose inner calls have theirs."""
    defined: set[str] = set()
    inputs: dict[str, None] = {}
    for item in call.body:
        for name in _uses(item):
            owned = name in owners and is_under(owners[name], call.path)
            if not owned and name not in defined and not sizes.is_size(name):
                inputs[name] = None
        defined.update(_results(item))
    # Most sizes can be read from the shape of a value at hand.
    known = {symbol for name in inputs for symbol in sizes.symbols_of(name)}
    for item in call.body:
        for name in _uses(item):
            for symbol in sizes.leaves(name, known) - known:
                inputs[symbol] = None
        known.update(symbol for name in _results(item) for symbol in sizes.symbols_of(name))
    call.inputs = tuple(inputs)


def _find_outputs(items: Sequence[Item], needed: set[str]) -> None:
    """Fill in the outputs of the calls among items, of whose results some are needed elsewhere."""
    # The inputs of a call exclude the values that it computes.
    needed = needed.union(*map(_uses, items))
    for item in items:
        if isinstance(item, Invocation):
            item.outputs = tuple(name for name in _results(item) if name in needed)
            _find_outputs(item.body, needed)
        for function in called_by(item):
            _find_outputs(function.body, {*values_in(function.outputs)})


def _uses(item: Item) -> Iterable[str]:
    return uses_of(item) if isinstance(item, Node) else item.inputs


def _results(item: Item) -> list[str]:
    return [name for node in nodes_of(item) for name in results_of(node)]
