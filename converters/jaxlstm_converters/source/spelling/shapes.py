"""Templates of operators that keep all elements in another shape or order, or join and convert them."""

from __future__ import annotations

from functools import partial

from jaxlstm_converters.source.spelling.indexing import index_of
from jaxlstm_converters.source.spelling.typed_node import Rule, TypedNode


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

    def item(place: int) -> str:
        known = own.shape[place - added] if own is not None and size[place] == -1 else None
        kept = f"size[{place}]" if size[place] != -1 else f"self.shape[{place - added}]"
        return repr(known) if isinstance(known, int) else kept

    return f"jnp.broadcast_to(self, ({', '.join(map(item, range(len(size))))},))"


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


def _joined(function: str, operation: TypedNode) -> str | None:
    types = operation.tensors("tensors")
    if not operation.promotes("tensors") or any(type_.shape == (0,) for type_ in types):
        return None
    if function == "concatenate" and len(operation["tensors"]) == 1:
        return "tensors[0]"
    return f"jnp.{function}([*tensors], axis=dim)"


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


_NAMES = {
    _reshaped: "view reshape _unsafe_view",
    _unsqueezed: "unsqueeze",
    _squeezed: "squeeze",
    _expanded: "expand broadcast_to",
    _swapped: "transpose swapdims swapaxes",
    _permuted: "permute",
    _tiled: "repeat tile",
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
    "repeat_interleave": lambda op: None if op.type("repeats") else "jnp.repeat(self, repeats, axis=dim)",
    "flip": "jnp.flip(self, axis=dims)",
    **dict.fromkeys(("movedim", "moveaxis"), "jnp.moveaxis(self, source, destination)"),
    "one_hot": lambda op: None if op["num_classes"] == -1 else "nnx.one_hot(self, num_classes, dtype=int)",
}
