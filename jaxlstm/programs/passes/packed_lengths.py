"""The lengths of packed sequences in a graph, and the numbers that follow from them."""

from collections.abc import Iterator, Set

from jaxlstm.programs.graph.graph import Argument, Graph, Node, Value
from jaxlstm.programs.graph.values import results_of

ITEMS = ("aten.item.default", "aten._local_scalar_dense.default")
_PACK = "jaxlstm.pack_padded.default"
_SAME = {"clone", "detach", "to", "sort"}
"""Operators whose first result has the elements of their argument."""
_PARTS = _SAME | {"unbind", "select", "index"}
"""Operators whose first result, or each of whose results, has elements of their argument and no others."""


class PackedLengths:
    """The tensors that hold the lengths of the packed sequences of a graph."""

    def __init__(self, graph: Graph) -> None:
        self._makers = {name: node for node in graph.nodes for name in results_of(node)}
        self._types = graph.types
        packs = (node for node in graph.nodes if node.op == _PACK)
        # Name of a tensor with all lengths -> the packed batch.
        self._packed = {name: node for node in packs for name in self._owners(node.kwargs["lengths"], _SAME)}

    def has(self, number: Node) -> bool:
        """Return True for a length that is read as a number. torch packs no sequence of length 0."""
        return number.op in ITEMS and self.hold(number.kwargs["self"])

    def hold(self, value: Argument) -> bool:
        """Return True for a tensor whose elements are lengths, or for a length that is read as a number."""
        maker = self._makers.get(value.name) if isinstance(value, Value) else None
        if maker is not None and maker.op in ITEMS:
            value = maker.kwargs["self"]
        return not self._packed.keys().isdisjoint(self._owners(value, _PARTS))

    def cut_by(self, number: Node) -> tuple[str, int] | None:
        """Return the packed batch and its axis whose size is a number, the largest length; or None."""
        *_, last = "", *self._owners(number.kwargs["self"], _SAME)
        maximum = self._makers.get(last)
        if maximum is None or maximum.op != "aten.max.default":
            return None
        names = self._owners(maximum.kwargs["self"], _SAME)
        pack = next((self._packed[name] for name in names if name in self._packed), None)
        return pack and (results_of(pack)[0], 1 if pack.kwargs["batch_first"] else 0)

    def _owners(self, value: Argument, kinds: Set[str]) -> Iterator[str]:
        """Yield the names of a tensor and of those from which operators make it, of large integers."""
        while isinstance(value, Value) and value.name in self._types:
            dtype, maker = self._types[value.name].dtype, self._makers.get(value.name)
            if dtype.kind != "i" or dtype.itemsize < 4:
                return
            yield value.name
            kind, first = (maker.op.split(".")[1], results_of(maker)[0]) if maker else ("", "")
            is_made = kind in kinds and (kind == "unbind" or first == value.name)
            value = maker.kwargs["self"] if maker is not None and is_made else None
