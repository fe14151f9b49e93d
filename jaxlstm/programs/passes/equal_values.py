"""Values that a graph computes more than once, as an export leaves them of masks: `EqualValues`."""

from typing import Any

from jaxlstm.programs.graph.graph import Argument, Node, Value
from jaxlstm.programs.graph.values import results_of

_FLAT = {"view", "reshape", "flatten", "unsqueeze", "squeeze", "contiguous", "clone", "alias"}
"""Operators that keep the elements in their order."""
_PURE = _FLAT | {"expand", "expand_as", "transpose", "permute", "t", "select", "slice", "to", "detach", "eq"}
_PURE |= {"ne", "gt", "ge", "lt", "le", "logical_not", "bitwise_not", "logical_and", "bitwise_and"}


class EqualValues:
    """The values of a graph without in-place operators, which are equal where operators and arguments are."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}  # text of a call -> the first value with it
        self._same: dict[str, str] = {}  # value -> the first value that equals it
        self._flat: dict[str, str] = {}  # value -> the first value with its elements in their order

    def note(self, node: Node) -> None:
        """Take notice of a node, after the nodes before it."""
        kind, (name, *others) = node.op.split(".")[1], results_of(node) or [""]
        if kind not in _PURE or others:
            return
        kwargs = {
            key: Value(self._same.get(value.name, value.name)) if isinstance(value, Value) else value
            for key, value in node.kwargs.items()
        }
        # 1, 1.0 and True are equal, but their texts are not.
        self._same[name] = self._first.setdefault(f"{node.op} {sorted(kwargs.items())}", name)
        source: Any = node.kwargs.get("self")
        is_flat = kind in _FLAT and isinstance(source, Value)
        self._flat[name] = self._flat.get(source.name, source.name) if is_flat else self._same[name]

    def are_equal(self, first: Argument, second: Argument, *, flat: bool = False) -> bool:
        """Return True if two values have equal elements, in the same order if they are flattened."""
        if not isinstance(first, Value) or not isinstance(second, Value):
            return False
        names = self._flat if flat else self._same
        return names.get(first.name, first.name) == names.get(second.name, second.name)
