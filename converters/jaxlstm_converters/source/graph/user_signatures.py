"""The parameters and results of calls in the order, structure and names of the user's ``forward``."""

from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

from jaxlstm.programs.graph import Graph, Node, Structure, all_nodes, places_of, uses_of
from jaxlstm_converters.source.graph.calls import Invocation, Parameter, nodes_of
from jaxlstm_converters.source.syntax.trees import leaves


class _Layout(NamedTuple):
    """The inputs and outputs of a call, and its parameters and results, which consist of them."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    results: Structure
    is_whole: bool


class UserSignatures:
    """The signatures that exports recorded, for calls in graphs that passes have changed."""

    def __init__(self, graphs: Mapping[str, Graph]) -> None:
        """Take the graphs before the passes, each with the prefix of its names and keys after them."""
        self._signatures = {p + key: found for p, g in graphs.items() for key, found in g.signatures.items()}
        nodes = [(p, node, call) for p, g in graphs.items() for node in all_nodes(g) for call in node.calls]
        self._nodes = {call.key: dict[tuple[str, str], Node]() for _, _, call in nodes}
        for prefix, node, call in nodes:
            self._nodes[call.key][prefix, node.name] = node
        callees = {call.key: (call.path, call.class_name, call.method) for _, _, call in nodes}
        self._equal: dict[object, list[str]] = {}  # the module and the operators of calls -> their keys
        for key in filter(self._signatures.__contains__, callees):
            self._equal.setdefault((callees[key], *self._operators(key)), []).append(key)
        self._twins = {key: keys for keys in self._equal.values() for key in keys}

    def apply(self, calls: Sequence[Invocation]) -> None:
        """Give calls of equal modules the parameters and results of the one whose signature tells most."""
        layouts: dict[tuple[int, int], _Layout] = {}  # number of inputs and of outputs -> layout
        for call in (call for call in calls if call.key in self._signatures):
            # The first step of a loop may give one value twice, such as a state of zeros.
            most = max(self._twins.get(call.key, [call.key]), key=self._distinct)
            for key in dict.fromkeys((call.key, most)):
                layout, counts = self._layout(call, key), _counts(call)
                layouts[counts] = max(layouts.get(counts, layout), layout, key=_named)
        for call in calls:
            if (layout := layouts.get(_counts(call))) is not None:
                old, new = (*layout.inputs, *layout.outputs), (*call.inputs, *call.outputs)
                names = dict(zip(old, new, strict=True))
                call.parameters = tuple(p._replace(value=_whole(p.value, names)) for p in layout.parameters)
                call.results, call.is_whole = _whole(layout.results, names), layout.is_whole
                call.inputs = tuple(leaf for p in call.parameters for leaf in leaves(p.value))

    def _layout(self, call: Invocation, key: str) -> _Layout:
        """Return the layout of a call by the signature of the call with a key, its twin."""
        signature, names = self._signatures[key], self._present_names(call, key)
        left = dict.fromkeys(call.inputs)
        parameters = list[Parameter]()
        for name, value in signature.arguments:
            found = _whole(value, names, left)
            parts = [found] if found else [_whole(leaf, names, left) for leaf in leaves(value)]
            for part in filter(None, parts):
                parameters.append(Parameter(name if found else "", part))
                for leaf in leaves(part):
                    left.pop(leaf, None)
        parameters += [Parameter("", value) for value in left]
        results = _whole(signature.results, names, call.outputs)
        is_whole = {*leaves(results)} == {*call.outputs}
        if not is_whole:
            ordered = [names[leaf] for leaf in leaves(signature.results) if names.get(leaf) in call.outputs]
            flat = tuple(dict.fromkeys((*ordered, *call.outputs)))
            results = flat[0] if len(flat) == 1 else flat
        return _Layout(call.inputs, call.outputs, tuple(parameters), results, is_whole)

    def _present_names(self, call: Invocation, key: str) -> dict[str, str]:
        """Return the name of a value in the export -> its name here, known from the nodes that have both."""
        found: dict[str, str] = {}
        twins = dict(zip(self._nodes.get(call.key, ()), self._nodes.get(key, {}).values(), strict=True))
        for node in nodes_of(call):
            number, _, name = node.name.partition(".")
            before = twins.get((f"{number}.", name.rpartition(".")[2]))  # A function has a prefix too.
            if before is not None and before.op == node.op:
                uses = zip(uses_of(before), uses_of(node), strict=False)
                results = zip(places_of(before), places_of(node), strict=False)
                for old, new in (*uses, *results):
                    if old and new:
                        found.setdefault(old, new)
        own = (*call.inputs, *call.outputs) if key == call.key else ()
        return {**{name.rpartition(".")[2].removesuffix(" last"): name for name in own}, **found}

    def _operators(self, key: str) -> tuple[str, ...]:
        return tuple(node.op for node in self._nodes[key].values())

    def _distinct(self, key: str) -> int:
        """Return the number of different values among the arguments of a call."""
        return len({leaf for _, value in self._signatures[key].arguments for leaf in leaves(value)})


def _counts(call: Invocation) -> tuple[int, int]:
    return len(call.inputs), len(call.outputs)


def _named(layout: _Layout) -> int:
    """Return the number of parameters with names, less those without."""
    return sum(1 if parameter.name else -1 for parameter in layout.parameters)


def _whole(value: Structure, names: Mapping[str, str], allowed: Container[str] | None = None) -> Structure:
    """Return a structure with other names; None unless it is made of values, and all are allowed."""
    if isinstance(value, tuple):
        items = tuple(_whole(item, names, allowed) for item in value)
        return None if None in items or not items else items
    found = names.get(value) if value is not None else None
    return found if found is None or allowed is None or found in allowed else None
