"""Templates of operators that keep all elements in another shape or order, or join and convert them."""

from __future__ import annotations

from functools import partial

from jaxlstm_converters.source.spelling.indexing import index_of
from jaxlstm_converters.source.spelling.typed_node import Rule, TypedNode


def _reshaped(operation: TypedNode) -> str:
    if operation.same_shape():
        return "self"
    return "self.reshape(*size)" if operation["size"] else "self.reshape(())"


def _flattened(operation: TypedNode) -> str | None:
    ndim = operation.ndim()
    if ndim == 0:
        return "self.reshape(1)"
    start, end = (operation.axis(operation[name]) for name in ("start_dim", "end_dim"))
    if start == end:
        return "self"
    sizes = [f"*self.shape[:{start}]" if start > 1 else "self.shape[0]"] if start else []
    sizes.append("-1")
    if end + 1 < ndim:
        sizes.append(f"*self.shape[{end + 1}:]" if end + 2 < ndim else "self.shape[-1]")
    return f"self.reshape({', '.join(sizes)})"


def _unflattened(operation: TypedNode) -> str:
    place, ndim = operation.axis(operation["dim"]), operation.ndim()
    before = "*self.shape[:-1], " if place == ndim - 1 else f"*self.shape[:{place}], "
    after = "" if place == ndim - 1 else f", *self.shape[{place + 1}:]"
    return f"self.reshape({before if place else ''}*sizes{after})"


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
        return None
    operation.extra["ones"] = ones = tuple(dim for dim, size in zip(dims, sizes, strict=True) if size == 1)
    if not ones:
        return "self"
    return "jnp.squeeze(self, ones[0])" if len(ones) == 1 else "jnp.squeeze(self, ones)"


def _expanded(operation: TypedNode) -> str:
    size, own = operation["size"], operation.type("self")
    if operation.same_shape():
        return "self"
    added = len(size) - operation.ndim()
    items = [
        f"self.shape[{place - added}]" if item == -1 else f"size[{place}]" for place, item in enumerate(size)
    ]
    if own is not None:
        known = [own.shape[place - added] if place >= added else None for place in range(len(size))]
        items = [
            repr(known[place]) if size[place] == -1 and isinstance(known[place], int) else item
            for place, item in enumerate(items)
        ]
    return f"jnp.broadcast_to(self, ({', '.join(items)},))"


def _swapped(operation: TypedNode) -> str:
    first, second = (operation.axis(operation[name]) for name in ("dim0", "dim1"))
    if first == second:
        return "self"
    if {operation["dim0"], operation["dim1"]} == {-1, -2}:
        return "self.mT"
    return "self.T" if operation.ndim() == 2 else "self.swapaxes(dim0, dim1)"


def _permuted(operation: TypedNode) -> str:
    dims = [operation.axis(dim) for dim in operation["dims"]]
    return "self" if dims == sorted(dims) else "self.transpose(*dims)"


def _tiled(operation: TypedNode) -> str:
    repeats = operation["repeats" if "repeats" in operation.arguments else "dims"]
    ones = all(isinstance(count, int) and count == 1 for count in repeats)
    operation.extra["counts"] = repeats
    return "self" if ones and len(repeats) <= operation.ndim() else "jnp.tile(self, counts)"


def _repeated(operation: TypedNode) -> str | None:
    known = operation.type("repeats") is None
    return "jnp.repeat(self, repeats, axis=dim)" if known else None


def _joined(function: str, operation: TypedNode) -> str | None:
    types = operation.tensors("tensors")
    if not operation.promotes("tensors") or any(type_.shape == (0,) for type_ in types):
        return None
    if function == "concatenate" and len(operation["tensors"]) == 1:
        return "tensors[0]"
    return f"jnp.{function}([*tensors], axis=dim)"


def _stacked(function: str, operation: TypedNode) -> str | None:
    return f"jnp.{function}([*tensors])" if operation.promotes("tensors") else None


def _meshgrid(operation: TypedNode) -> str | None:
    are_vectors = all(len(type_.shape) == 1 for type_ in operation.tensors("tensors"))
    return "jnp.meshgrid(*tensors, indexing=indexing)" if are_vectors else None


def _flipped(operation: TypedNode) -> str:
    dims = operation["dims"]
    return "jnp.flip(self, axis=dims[0])" if len(dims) == 1 else "jnp.flip(self, axis=dims)"


def _rolled(operation: TypedNode) -> str:
    shifts, dims = operation["shifts"], operation["dims"]
    if isinstance(shifts, tuple) and len(shifts) == 1:
        return "jnp.roll(self, shifts[0], axis=dims[0])" if dims else "jnp.roll(self, shifts[0])"
    return "jnp.roll(self, shifts, axis=dims)"


def converted(operation: TypedNode) -> str | None:
    """Return the conversion to a dtype, or the argument itself if it has the dtype."""
    own, result = operation.type("self"), operation.result
    if own is None or result is None:
        return None
    if own.dtype == result.dtype:
        return "self"
    if own.dtype.kind == "c":
        return None
    operation.extra["to"] = result.dtype
    return "self.astype(to)"


def _one_hot(operation: TypedNode) -> str | None:
    known = operation["num_classes"] != -1
    return "nnx.one_hot(self, num_classes, dtype=int)" if known else None


_NAMES = {
    _reshaped: "view reshape _unsafe_view",
    _unsqueezed: "unsqueeze",
    _squeezed: "squeeze",
    _expanded: "expand broadcast_to",
    _swapped: "transpose swapdims swapaxes",
    _permuted: "permute",
    _tiled: "repeat tile",
    _repeated: "repeat_interleave",
    partial(_joined, "concatenate"): "cat concat concatenate",
    partial(_joined, "stack"): "stack",
    converted: "to type_as _to_copy",
}
RULES: dict[str, Rule] = {
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
    **{name: partial(_stacked, name) for name in ("hstack", "vstack", "dstack", "column_stack")},
    "atleast_1d": lambda op: "jnp.atleast_1d(self)" if op.type("self") else None,
    "broadcast_tensors": "jnp.broadcast_arrays(*tensors)",
    "meshgrid": _meshgrid,
    "flip": _flipped,
    **dict.fromkeys(("movedim", "moveaxis"), "jnp.moveaxis(self, source, destination)"),
    "roll": _rolled,
    "diagonal": "jnp.diagonal(self, offset, dim1, dim2)",
    "one_hot": _one_hot,
}
