"""Templates of operators that make, reshape, join and convert tensors, and of arithmetic on sizes."""

from functools import partial
from typing import Any

import numpy as np

from jaxlstm.programs.graph import Value
from jaxlstm_converters.source.spelling.indexing import index_of
from jaxlstm_converters.source.spelling.typed_node import Rule, TypedNode, cast


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


def _arithmetic(symbol: str, operation: TypedNode) -> str:
    """Return a sum or product as a person writes it: numbers last, and differences for negative numbers."""
    first, last = ("b", "a") if isinstance(operation["a"], int) else ("a", "b")
    number = operation[last]
    if symbol == "+" and isinstance(number, int) and number < 0:
        operation.extra[last], symbol = -number, "-"
    return f"{first} {symbol} {last}"


_COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "and_": "&", "or_": "|"}
_NEW: dict[str, Rule] = {
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
    "linspace": lambda op: (
        None if op.tensors() else f"jnp.linspace(start, end, steps{_dtype(op, np.float32)})"
    ),
    "eye": lambda op: f"jnp.eye(n, M=m{_dtype(op, np.float32)})",
    "tril": "jnp.tril(self, k=diagonal)",
    "triu": "jnp.triu(self, k=diagonal)",
    # Sizes
    **dict.fromkeys(("sym_size", "jaxlstm.sym_size"), "self.shape[dim]"),
    **dict.fromkeys(("sym_numel", "jaxlstm.sym_numel"), "self.size"),
    "_operator.add": partial(_arithmetic, "+"),
    "_operator.sub": "a - b",
    "_operator.mul": partial(_arithmetic, "*"),
    "_operator.floordiv": "a // b",
    "_operator.truediv": "a / b",
    "_operator.mod": "a % b",
    "_operator.pow": "a ** b",
    "_operator.neg": "-a",
    "_operator.pos": "a",
    **{f"_operator.{name}": f"a {symbol} b" for name, symbol in _COMPARISONS.items()},
    "math.trunc": "int(a)",
    "math.floor": "math.floor(a)",
    "math.ceil": "math.ceil(a)",
    "torch.sym_int": "int(a)",
    "torch.sym_float": "float(a)",
    "torch.sym_max": "max(a, b)",
    "torch.sym_min": "min(a, b)",
    "torch.sym_not": "not a",
    "torch.sym_sqrt": "a ** 0.5",
    "torch._sym_sqrt": "a ** 0.5",
    "torch.sym_ite": "b if a else c",
    "higher_order.cond": lambda op: f"lax.cond(a{'.reshape(())' * bool(op.ndim('a'))}, b, c, *d)",
    "higher_order.while_loop": "lax.while_loop(a, b, c)",
    "higher_order.map_impl": "lax.map(a, b)",
    # Assertions have no result.
    # A number of Python has the dtype of the tensor that it is combined with.
    "item": lambda op: (
        "self" if (own := op.type("self")) and not own.shape and own.dtype.kind in "iu" else None
    ),
    **dict.fromkeys(("_assert_scalar", "_assert_async", "_assert_tensor_metadata"), "None"),
    **dict.fromkeys(("sym_constrain_range", "sym_constrain_range_for_size"), "None"),
}


def _reshaped(operation: TypedNode) -> str:
    if operation.same_shape():
        return "self"
    return "self.reshape(*size)" if operation["size"] else "self.reshape(())"


def _replaced(first: int, last: int, sizes: str, operation: TypedNode) -> str:
    """Return a reshape that puts sizes in the place of those from one axis to another."""
    before = [f"*self.shape[:{first}]"] if first > 1 else ["self.shape[0]"] * first
    axes_after = operation.ndim() - last - 1
    after = [f"*self.shape[{last + 1}:]"] if axes_after > 1 else ["self.shape[-1]"] * axes_after
    return f"self.reshape({', '.join([*before, sizes, *after])})"


def _flattened(operation: TypedNode) -> str:
    if operation.ndim() == 0:
        return "self.reshape(1)"
    start, end = (operation.axis(operation[name]) for name in ("start_dim", "end_dim"))
    return "self" if start == end else _replaced(start, end, "-1", operation)


def _unflattened(operation: TypedNode) -> str:
    place = operation.axis(operation["dim"])
    return _replaced(place, place, "*sizes", operation)


def _unsqueezed(operation: TypedNode) -> str:
    dim, ndim = operation["dim"], operation.ndim() + 1
    index = index_of(dim, ndim, "None") if dim < 0 or dim < ndim - 1 or ndim < 4 else "..., None"
    return f"self[{index}]" if index else "jnp.expand_dims(self, dim)"


def _squeezed(operation: TypedNode) -> str | None:
    own, dim = operation.type("self"), operation["dim"]
    if own is None or dim == ():
        return "self"
    if dim is None:
        return "self.squeeze()"
    dims = (dim,) if isinstance(dim, int) else dim
    sizes = [own.shape[operation.axis(dim)] if own.shape else 0 for dim in dims]
    if any(not isinstance(size, int) for size in sizes):
        operation.extra["dims"] = dims
        is_one = "jnp.squeeze(self, dims[0]) if self.shape[dims[0]] == 1 else self"
        return is_one if len(dims) == 1 else None
    operation.extra["ones"] = ones = tuple(dim for dim, size in zip(dims, sizes, strict=True) if size == 1)
    if not ones:
        return "self"
    return "jnp.squeeze(self, ones[0])" if len(ones) == 1 else "jnp.squeeze(self, ones)"


def _expanded(operation: TypedNode) -> str:
    size, own = operation["size"], operation.type("self")
    if operation.same_shape():
        return "self"
    added = len(size) - operation.ndim()

    def item(place: int) -> str:
        known = own.shape[place - added] if own is not None and size[place] == -1 else None
        kept = f"size[{place}]" if size[place] != -1 else f"self.shape[{place - added}]"
        return repr(known) if isinstance(known, int) else kept

    return f"jnp.broadcast_to(self, ({', '.join(map(item, range(len(size))))},))"


def _swapped(operation: TypedNode) -> str:
    first, second = (operation.axis(operation[name]) for name in ("dim0", "dim1"))
    if first == second:
        return "self"
    dims, ndim = {operation["dim0"], operation["dim1"]}, operation.ndim()
    if min(dims) < 0 and {first, second} == {ndim - 1, ndim - 2}:
        return "self.mT"
    operation.extra["axes"] = tuple(
        sorted((first, second)) if min(dims) < 0 else (operation["dim0"], operation["dim1"])
    )
    return "self.T" if ndim == 2 else "self.swapaxes(*axes)"


def _permuted(operation: TypedNode) -> str:
    operation.extra["order"] = order = tuple(operation.axis(dim) for dim in operation["dims"])
    return "self" if order == tuple(sorted(order)) else "self.transpose(*order)"


def _moved(operation: TypedNode) -> str:
    axes = operation["source"], operation["destination"]
    if axes in ((0, 1), (1, 0)):
        return "self.T" if operation.ndim() == 2 else "self.swapaxes(0, 1)"
    return "jnp.moveaxis(self, source, destination)"


def _tiled(operation: TypedNode) -> str:
    repeats = operation["repeats"]
    ones = all(isinstance(count, int) and count == 1 for count in repeats)
    operation.extra["counts"] = repeats
    return "self" if ones and len(repeats) <= operation.ndim() else "jnp.tile(self, counts)"


def _joined(function: str, operation: TypedNode) -> str | None:
    if isinstance(operation["tensors"], Value):  # all results of a loop
        return f"jnp.{function}(tensors, axis=dim)"
    types = operation.tensors("tensors")
    if not operation.promotes("tensors"):
        return None
    # torch leaves out tensors without elements, whatever the other shapes.
    kept = [place for place, type_ in enumerate(types) if type_.shape != (0,) or function == "stack"]
    operation.extra["kept"] = tuple(operation["tensors"][place] for place in kept)
    if function == "concatenate" and len(kept) == 1:
        return "kept[0]"
    return f"jnp.{function}([*kept], axis=dim)" if kept else None


def converted(operation: TypedNode) -> str | None:
    """Return the conversion to a dtype, or the argument itself if it has the dtype."""
    own, result = operation.type("self"), operation.result
    if own is None or result is None:
        return None
    operation.extra["to"] = result.dtype
    return cast("self", own.dtype, result.dtype, "to")


_NAMES = {
    _reshaped: "view reshape _unsafe_view",
    _unsqueezed: "unsqueeze",
    _squeezed: "squeeze",
    _expanded: "expand broadcast_to",
    _swapped: "transpose swapdims swapaxes",
    _permuted: "permute",
    _moved: "movedim moveaxis",
    _tiled: "repeat tile",
    partial(_joined, "concatenate"): "cat concat concatenate",
    partial(_joined, "stack"): "stack",
    converted: "to type_as _to_copy",
}
_REPEATED = ("jnp.repeat(self, repeats, axis=dim)", "self")
_GRID = "jnp.meshgrid(*tensors, indexing=indexing)"
RULES: dict[str, Rule] = {
    **_NEW,
    **{name: rule for rule, names in _NAMES.items() for name in names.split()},
    **dict.fromkeys(["alias", "lift_fresh", "positive", "contiguous", "clone", "lift_fresh_copy"], "self"),
    **dict.fromkeys(("resolve_conj", "resolve_neg"), "self"),
    **{f"{name}dropout": "input" for name in ("", "feature_", "alpha_", "feature_alpha_")},
    "detach": lambda op: "lax.stop_gradient(self)" if op.is_float() or op.is_half() else "self",
    "view_as": "self.reshape(other.shape)",
    "reshape_as": "self.reshape(other.shape)",
    "ravel": "self.reshape(-1)",
    "flatten": _flattened,
    "unflatten": _unflattened,
    "expand_as": lambda op: "self" if op.same_shape() else "jnp.broadcast_to(self, other.shape)",
    "t": lambda op: "self.T" if op.ndim() == 2 else "self",
    "numpy_T": "self.T",
    "mT": "self.mT",
    "repeat_interleave": lambda op: None if op.type("repeats") else _REPEATED[op["repeats"] == 1],
    "flip": "jnp.flip(self, axis=dims)",
    "roll": lambda op: "jnp.roll(self, shifts, axis=dims)" if op["dims"] else None,
    "outer": lambda op: "self[:, None] * vec2" if op.promotes("self", "vec2") else None,
    "meshgrid": lambda op: _GRID if all(len(type_.shape) == 1 for type_ in op.tensors()) else None,
    "diag": "jnp.diag(self, diagonal)",
    "diagonal": "jnp.diagonal(self, offset, dim1, dim2)",
    "one_hot": lambda op: None if op["num_classes"] == -1 else "nnx.one_hot(self, num_classes, dtype=int)",
}
