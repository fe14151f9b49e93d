"""The dtypes and sizes that torch recorded for the values of a graph.

The expression of a symbolic size is never parsed: a size is an integer, a single symbol that matches a
pattern, or unknown. Its text is kept, because equal texts are equal sizes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from jaxlstm.programs.graph import Size, TensorType
from jaxlstm_converters.checkpoint.errors import CheckpointError, printable
from jaxlstm_converters.checkpoint.formats.pt2 import scalar_type
from jaxlstm_converters.pt2.schema.fields import field, malformed, typed, union

# As torch writes a symbol: `Symbol('s77', positive=True, integer=True)`.
_SYMBOL = re.compile(r"Symbol\('([a-z]+[0-9]+)'(?:, [a-z]+=True)*\)", re.ASCII)
_MAX_DEPTH = 20
_LSTM = "torch.ops.aten.lstm.input"


class TensorTypes:
    """The recorded types of values by name.

    Attributes:
        free_axes: the symbols that are sizes of inputs, beside which a symbol is an unknown size; None while
            the inputs are read.
        sizes: the records of the values that are sizes.
    """

    def __init__(self, records: Mapping[str, Any], depth: int = 0) -> None:
        self._records, self._depth = records, depth
        # Values whose recorded type differs from torch's result.
        self._wrong: set[str] = set()
        self.free_axes: Set[str] | None = None
        self.sizes: Mapping[str, Any] = {}

    def of_subgraph(self, records: Mapping[str, Any], context: str) -> TensorTypes:
        """Return the types of the values of a graph inside of this one."""
        types = TensorTypes(records, self._depth + 1)
        types.free_axes = self.free_axes
        if types._depth > _MAX_DEPTH:
            raise CheckpointError("too-deep", f"{context}: graphs are nested more than {_MAX_DEPTH} deep")
        return types

    def of(self, name: str) -> TensorType:
        """Return the type of a tensor."""
        context = f"the type of {printable(name)}"
        record = field(self._records, name, dict, context)
        sizes = field(record, "sizes", list, context)
        dtype = scalar_type(field(record, "dtype", int, context))
        shape = tuple(self._size(size, context) for size in sizes)
        return TensorType(dtype, shape, tuple(_text(size) for size in sizes))

    def example(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor in the example of the export, or ()."""
        sizes = self._records[name]["sizes"]
        hints = [size.get("as_expr", {}).get("hint") or size for size in sizes]
        shape = [hint["as_int"] for hint in hints if isinstance(hint, dict) and "as_int" in hint]
        is_known = len(shape) == len(sizes) and all(type(size) is int and size >= 0 for size in shape)
        return tuple(shape) if is_known else ()

    def of_results(
        self, target: str, results: Sequence[str], arguments: Iterable[str]
    ) -> dict[str, TensorType]:
        """Return the recorded types of the results of a node, without the types that torch recorded wrongly.

        Up to torch 2.12, the final states of an LSTM have an axis too many in the file, and so may everything
        that depends on them.
        """
        if not self._wrong.isdisjoint(arguments):
            self._wrong.update(results)
            return {}
        types = {name: self.of(name) for name in results if name in self._records}
        if target == _LSTM and len(types) == 3:
            output, *states = (types[name] for name in results)
            if any(len(state.shape) != len(output.shape) for state in states):
                self._wrong.update(results[1:])
                return {results[0]: output}
        return types

    def size_of(self, results: Sequence[str], context: str) -> str:
        """Return the text of the size that a node computes, or ""."""
        record = self.sizes.get(results[0]) if len(results) == 1 else None
        tag, content = union(record, context) if record is not None else ("", None)
        return field(content, "expr_str", str, context) if tag == "as_expr" else ""

    def _size(self, value: Any, context: str) -> Size:
        tag, content = union(value, context)
        if tag == "as_int":
            size = typed(content, int, context)
            if size < 0:
                raise malformed(context, f"has the size {size}")
            return size
        if tag != "as_expr":
            raise malformed(context, f"expected as_int or as_expr, got {printable(tag)!r}")
        match = _SYMBOL.fullmatch(field(content, "expr_str", str, context))
        symbol = match[1] if match else None
        return symbol if self.free_axes is None or symbol in self.free_axes else None


def _text(size: Any) -> str:
    """Return the text of a size that was read."""
    _, content = union(size, "a size")
    return str(content) if isinstance(content, int) else str(content["expr_str"])
