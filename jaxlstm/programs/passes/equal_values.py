"""Values that a graph computes more than once, as an export leaves them of masks: `EqualValues`."""

from typing import Any

from jaxlstm.programs.graph.graph import Argument, Node, Value
from jaxlstm.programs.graph.values import functions_of, results_of, with_arguments
from jaxlstm.programs.operators.registry import find_operator

_FLAT = {"view", "reshape", "flatten", "unsqueeze", "squeeze", "contiguous", "clone", "alias"}
"""Operators that keep the elements in their order."""


class EqualValues:
    """The values of a graph without in-place operators, which are equal where operators and arguments are."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}  # text of a call -> the first value with it
        self._same: dict[str, str] = {}  # value -> the first value that equals it
        self._flat: dict[str, str] = {}  # value -> the first value with its elements in their order

    def note(self, node: Node) -> None:
        """Take notice of a node, after the nodes before it."""
        kind, (name, *others) = node.op.split(".")[1], results_of(node) or [""]
        operator = find_operator(node.op)
        # Dropout draws numbers in training. Layers, which have several results, may have their own lengths.
        if others or not name or functions_of(node) or (operator and operator.in_training):
            return
        node = with_arguments(node, lambda value: Value(self.first(value.name)))
        # 1, 1.0 and True are equal, but their texts are not.
        self._same[name] = self._first.setdefault(
            f"{node.op} {node.args} {sorted(node.kwargs.items())}", name
        )
        source: Any = node.kwargs.get("self")
        is_flat = kind in _FLAT and isinstance(source, Value)
        self._flat[name] = self._flat.get(source.name, source.name) if is_flat else self._same[name]

    def first(self, name: str) -> str:
        """Return the first value that equals a value."""
        return self._same.get(name, name)

    def are_equal(self, first: Argument, second: Argument, *, flat: bool = False) -> bool:
        """Return True if two values have equal elements, in the same order if they are flattened."""
        if not isinstance(first, Value) or not isinstance(second, Value):
            return False
        names = self._flat if flat else self._same
        return names.get(first.name, first.name) == names.get(second.name, second.name)
