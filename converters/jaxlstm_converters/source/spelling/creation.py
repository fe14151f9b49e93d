"""Templates of tensors made of a shape and numbers, and of arithmetic on sizes."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from jaxlstm_converters.source.spelling.typed_node import Rule, TypedNode


def _dtype(operation: TypedNode, default: Any) -> str:
    """Return the keyword for the dtype of a created tensor unless it is the default of the function."""
    result = operation.result
    if result is None or result.dtype == default:
        return ""
    operation.extra["to"] = result.dtype
    return ", dtype=to"


def _filled(function: str, operation: TypedNode) -> str:
    size = "size[0]" if len(operation["size"]) == 1 else "size"
    return f"jnp.{function}({size}{_dtype(operation, np.float32)})"


def _filled_like(arguments: str, operation: TypedNode) -> str | None:
    own = operation.type("self")
    return None if own is None else f"jnp.{arguments}{_dtype(operation, own.dtype)})"


def _number(name: str, operation: TypedNode) -> str:
    """Return a number, with a dtype unless JAX gives it the same one as torch."""
    of_number = {bool: np.bool_, int: np.int64, float: np.float32}.get(type(operation[name]))
    return name + _dtype(operation, of_number)


def _full(operation: TypedNode) -> str:
    size, number = operation["size"], _number("fill_value", operation)
    if not size:
        return f"jnp.array({number})"
    return f"jnp.full({'size[0]' if len(size) == 1 else 'size'}, {number})"


def _arange(operation: TypedNode) -> str | None:
    start, end, step = (operation[name] for name in ("start", "end", "step"))
    if operation.result is not None and operation.result.dtype.kind == "u":
        return None
    whole = not any(isinstance(bound, float) for bound in (start, end, step))
    dtype = _dtype(operation, np.int64 if whole else np.float32)
    if step != 1:
        return f"jnp.arange(start, end, step{dtype})"
    return f"jnp.arange({'' if start == 0 else 'start, '}end{dtype})"


def _added(operation: TypedNode) -> str:
    """Return the sum with its number behind, as torch writes it in front."""
    first, second = operation["a"], operation["b"]
    if not isinstance(first, int) or isinstance(second, int):
        return "a + b"
    operation.extra["a"] = abs(first)
    return "b - a" if first < 0 else "b + a"


_COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "and_": "&", "or_": "|"}
RULES: dict[str, Rule] = {
    "fill": "jnp.full_like(self, value)",
    "zero": "jnp.zeros_like(self)",
    **dict.fromkeys(("zeros", "empty", "new_zeros", "new_empty"), partial(_filled, "zeros")),
    **dict.fromkeys(("ones", "new_ones"), partial(_filled, "ones")),
    **dict.fromkeys(("zeros_like", "empty_like"), partial(_filled_like, "zeros_like(self")),
    "ones_like": partial(_filled_like, "ones_like(self"),
    **dict.fromkeys(("full", "new_full"), _full),
    "full_like": partial(_filled_like, "full_like(self, fill_value"),
    "scalar_tensor": lambda op: f"jnp.array({_number('s', op)})",
    "arange": _arange,
    "tril": "jnp.tril(self, k=diagonal)",
    "triu": "jnp.triu(self, k=diagonal)",
    # Sizes
    "sym_size": "self.shape[dim]",
    "sym_numel": "self.size",
    "_operator.add": _added,
    "_operator.sub": "a - b",
    "_operator.mul": "a * b",
    "_operator.floordiv": "a // b",
    "_operator.truediv": "a / b",
    "_operator.mod": "a % b",
    "_operator.pow": "a ** b",
    "_operator.neg": "-a",
    "_operator.pos": "a",
    **{f"_operator.{name}": f"a {symbol} b" for name, symbol in _COMPARISONS.items()},
    "math.trunc": "int(a)",
    "math.floor": "int(a // 1)",
    "math.ceil": "-int(-a // 1)",
    "torch.sym_int": "int(a)",
    "torch.sym_float": "float(a)",
    "torch.sym_max": "max(a, b)",
    "torch.sym_min": "min(a, b)",
    "torch.sym_not": "not a",
    "torch.sym_sqrt": "a ** 0.5",
    "torch.sym_ite": "b if a else c",
    # Assertions have no result.
    **dict.fromkeys(("_assert_scalar", "_assert_async", "_assert_tensor_metadata"), "None"),
    **dict.fromkeys(("sym_constrain_range", "sym_constrain_range_for_size"), "None"),
}
