"""The parameters and results of calls in the order, structure and names of the user's ``forward``."""

from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

from jaxlstm.programs.graph import CallSignature, Graph, Structure, all_nodes, places_of, uses_of
from jaxlstm_converters.source.calls import Invocation, Parameter, nodes_of
from jaxlstm_converters.source.trees import leaves


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
        self._nodes = {(p, node.name): node for p, g in graphs.items() for node in all_nodes(g)}

    def apply(self, calls: Sequence[Invocation]) -> None:
        """Give calls of equal modules the parameters and results of the one whose signature tells most."""
        layouts: dict[tuple[int, int], _Layout] = {}  # number of inputs and of outputs -> layout
        for call in (call for call in calls if call.key in self._signatures):
            layout, counts = self._layout(call, self._signatures[call.key]), _counts(call)
            layouts[counts] = max(layouts.get(counts, layout), layout, key=_named)
        for call in calls:
            if (layout := layouts.get(_counts(call))) is not None:
                old, new = (*layout.inputs, *layout.outputs), (*call.inputs, *call.outputs)
                names = dict(zip(old, new, strict=True))
                call.parameters = tuple(p._replace(value=_whole(p.value, names)) for p in layout.parameters)
                call.results, call.is_whole = _whole(layout.results, names), layout.is_whole
                call.inputs = tuple(leaf for p in call.parameters for leaf in leaves(p.value))

    def _layout(self, call: Invocation, signature: CallSignature) -> _Layout:
        names = self._present_names(call)
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

    def _present_names(self, call: Invocation) -> dict[str, str]:
        """Return the name of a value in the export -> its name here, known from the nodes that have both."""
        found: dict[str, str] = {}
        for node in nodes_of(call):
            number, _, name = node.name.partition(".")
            before = self._nodes.get((f"{number}.", name.rpartition(".")[2]))  # A function has a prefix too.
            if before is not None and before.op == node.op:
                uses = zip(uses_of(before), uses_of(node), strict=False)
                results = zip(places_of(before), places_of(node), strict=False)
                for old, new in (*uses, *results):
                    if old and new:
                        found.setdefault(old, new)
        return {**{name.rpartition(".")[2]: name for name in (*call.inputs, *call.outputs)}, **found}


def _counts(call: Invocation) -> tuple[int, int]:
    return len(call.inputs), len(call.outputs)


def _named(layout: _Layout) -> int:
    return sum(parameter.name != "" for parameter in layout.parameters)


def _whole(value: Structure, names: Mapping[str, str], allowed: Container[str] | None = None) -> Structure:
    """Return a structure with other names; None unless it is made of values, and all are allowed."""
    if isinstance(value, tuple):
        items = tuple(_whole(item, names, allowed) for item in value)
        return None if None in items or not items else items
    found = names.get(value) if value is not None else None
    return found if found is None or allowed is None or found in allowed else None
