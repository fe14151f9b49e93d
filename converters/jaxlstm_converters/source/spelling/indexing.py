"""Templates of operators that read or write parts of a tensor.

An index that is out of range reads NaN, as in `jaxlstm.programs`. The square brackets of JAX, which read the
closest element instead, are for indices that are known to be in range.
"""

from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np

from jaxlstm.programs.graph import Value, same_size, same_sizes
from jaxlstm.programs.operators.registry import functional_name
from jaxlstm_converters.source.spelling.typed_node import Rule, TypedNode, cast, only_if

_TO_THE_END = 2**63 - 1
_FARTHEST = 3  # axes written as ":" before an index


def index_of(axis: int, ndim: int, item: str) -> str | None:
    """Return an index of one axis, for example ``":, 0"`` or ``"..., 0"``; None if it is too long."""
    from_end = axis - ndim if axis >= 0 else axis
    first = axis % ndim if ndim else axis
    if axis < 0 or (first == ndim - 1 and first > 1):
        return ", ".join(["...", item, *[":"] * (-from_end - 1)]) if -from_end <= _FARTHEST else None
    return ", ".join([":"] * first + [item]) if first <= _FARTHEST else None


def _part(operation: TypedNode, item: str) -> str | None:
    """Return the part of ``self`` that an index of the axis ``dim`` gives."""
    index = index_of(operation["dim"], operation.ndim(), item)
    return f"self[{index}]" if index else None


def _selected(operation: TypedNode) -> str | None:
    """Return one slice of an axis; an index that is computed may be out of range."""
    is_known = isinstance(operation["index"], int) or operation["in_range"]
    return _part(operation, "index") if is_known else "jnp.take(self, index, axis=dim)"


def _sliced(operation: TypedNode) -> str | None:
    item = _slice(operation)
    return "self" if item == ":" else _part(operation, item)


def _narrow(operation: TypedNode) -> str | None:
    """Return ``length`` elements from ``start``, which counts from the end if it is negative."""
    start, length = operation["start"], operation["length"]
    if start == 0 or not isinstance(start, int):  # The sign of a symbolic start is not known.
        text = _part(operation, "start:") if start != 0 else "self"
        index = index_of(operation["dim"], operation.ndim(), ":length")
        return f"{text}[{index}]" if text and index else None
    if start < 0 and start + length == 0:
        return _part(operation, "start:")
    return _part(operation, "start:start + length")


def _slice(operation: TypedNode) -> str:
    """Return the slice of an axis, without the bounds that do not matter."""
    own, part = operation.type("self"), operation.type("src") or operation.result
    axis = operation.axis(operation["dim"])
    size = own.shape[axis] if own is not None and own.shape else None
    start, end, step = (operation[name] for name in ("start", "end", "step"))
    if own is not None and part is not None and step == 1 and same_size(own, axis, part, axis):
        return ":"
    to_end = end is None or (
        isinstance(end, int) and (end == _TO_THE_END or (isinstance(size, int) and end >= size))
    )
    first = "" if start is None or (isinstance(start, int) and start == 0) else "start"
    return f"{first}:{'' if to_end else 'end'}" + ("" if step == 1 else ":step")


def _split(operation: TypedNode) -> str | None:
    """Return equal parts by their number, others by the places between them."""
    own, dim = operation.type("self"), operation["dim"]
    parts = operation.node.outputs[0]
    if own is None or not isinstance(parts, tuple):
        return None
    size, count = own.shape[operation.axis(dim)], len(parts)
    length = operation.arguments.get("split_size")
    if length is None and isinstance(size, int):
        length = -(-size // operation.arguments.get("chunks", 1))
    sizes = operation.arguments.get("split_sizes", (length,) * count)[: count - 1]
    if not all(isinstance(item, int) for item in sizes):
        return None
    operation.extra.update(places=tuple(accumulate(sizes)), count=count)
    is_equal = isinstance(size, int) and set(sizes) <= {size / count}
    return "jnp.split(self, count, axis=dim)" if is_equal else "jnp.split(self, [*places], axis=dim)"


def _index(operation: TypedNode) -> str | None:
    """Return NumPy's index of the arrays and whole axes."""
    indices = operation["indices"]
    while indices and indices[-1] is None:
        indices = indices[:-1]
    if any(type_.dtype == np.uint8 for type_ in operation.tensors("indices")):
        return None
    items = [":" if item is None else f"indices[{place}]" for place, item in enumerate(indices)]
    return ", ".join(items) or None


def _indexed(operation: TypedNode) -> str | None:
    """Return the elements at indices; those of one array are whole slices."""
    index = _index(operation)
    indices = {axis: array for axis, array in enumerate(operation["indices"]) if array is not None}
    is_mask = any(type_.dtype == np.bool_ for type_ in operation.tensors("indices"))
    if index is None or is_mask or all(_is_inside(operation, *item) for item in indices.items()):
        return index and f"self[{index}]"
    if len(indices) > 1:
        return f'self.at[{index}].get(mode="fill")'
    return f"jnp.take(self, indices[{next(iter(indices))}], axis={next(iter(indices))})"


def _is_inside(operation: TypedNode, axis: int, index: Value) -> bool:
    """Return True for places of an axis that has as many elements as the axis of ``self``."""
    node, own = operation.producers.get(index.name), operation.type("self")
    while node is not None and functional_name(node.op) in _VIEWS:
        viewed = node.kwargs["self"]
        node = operation.producers.get(viewed.name) if isinstance(viewed, Value) else None
    kind = "" if node is None else node.op.split(".")[1]
    if node is None or own is None or kind not in ("arange", *_SEARCHES):
        return False
    is_range = kind == "arange" and node.kwargs.get("start", 0) == 0 and node.kwargs.get("step", 1) == 1
    searched = node.kwargs.get("self")
    counted = node.name if is_range else searched.name if isinstance(searched, Value) else ""
    dim = 0 if is_range else node.kwargs.get("dim", -1 if kind == "argsort" else None)
    found = operation.types.get(counted)
    return found is not None and isinstance(dim, int) and same_size(found, dim, own, axis)


_VIEWS = {f"aten.{name}.default" for name in ("unsqueeze", "view", "reshape", "expand", "clone", "squeeze")}
_VIEWS |= {"aten.squeeze.dim", "aten.to.dtype", "aten._to_copy.default"}
_SEARCHES = ("argmax", "argmin", "argsort")


def _index_put(operation: TypedNode) -> str | None:
    own, values, index = operation.type("self"), operation.type("values"), _index(operation)
    masks = [type_ for type_ in operation.tensors("indices") if type_.dtype == np.bool_]
    if own is None or values is None or own.dtype != values.dtype or index is None:
        return None
    if masks:
        is_whole = len(operation["indices"]) == 1 and len(masks[0].shape) == len(own.shape)
        is_where = is_whole and not values.shape and not operation["accumulate"]
        return "jnp.where(indices[0], values, self)" if is_where else None
    return f"self.at[{index}].{'add' if operation['accumulate'] else 'set'}(values)"


def _is_along(operation: TypedNode) -> bool:
    """Return True for an index with the sizes of ``self`` except along its axis, as NumPy wants it."""
    own, index = operation.type("self"), operation.type("index")
    if own is None or index is None or not own.shape:
        return False
    return same_sizes(own, index, without=operation.axis(operation["dim"]))


def _scattered(name: str, operation: TypedNode) -> str | None:
    """Return ``self`` with the elements of an index replaced, which has the other sizes of ``self``."""
    own, index, source = (operation.type(name) for name in ("self", "index", "src"))
    if own is None or index is None or operation.arguments.get("reduce"):
        return None
    fits = name == "value" or (source is not None and own.dtype == source.dtype and same_sizes(index, source))
    return f"jnp.put_along_axis(self, index, {name}, axis=dim, inplace=False)" if fits else None


def _added_along(operation: TypedNode) -> str | None:
    """Return ``self`` with elements of ``src`` added at the places of an index, which may be equal."""
    own, index, source = (operation.type(name) for name in ("self", "index", "src"))
    if own is None or index is None or source is None or not own.shape:
        return None
    ndim, along = len(own.shape), operation.axis(operation["dim"])
    places = [
        "index" if axis == along else f"jnp.arange(index.shape[{axis}])[:{', None' * (ndim - axis - 1)}]"
        for axis in range(ndim)
    ]
    fits = own.dtype == source.dtype != np.bool_ and same_sizes(index, source)
    return f"self.at[{', '.join(places).replace('[:]', '')}].add(src)" if fits else None


def _written(item: Any, operation: TypedNode) -> str | None:
    """Return ``self`` with a part of an axis replaced by ``src``."""
    own, source = operation.type("self"), operation.type("src")
    place = item if isinstance(item, str) else item(operation)
    index = index_of(operation["dim"], operation.ndim(), place)
    fits = own is not None and source is not None and own.dtype == source.dtype
    if fits and place == ":":
        return "src"
    return f"self.at[{index}].set(src)" if index and fits else None


def _copied(operation: TypedNode) -> str | None:
    own, source = operation.type("self"), operation.type("src")
    if own is None or source is None:
        return None
    converted = cast("src", source.dtype, own.dtype, "self.dtype")
    if converted is None or same_sizes(own, source):
        return converted
    return f"jnp.broadcast_to({converted}, self.shape)"


def _ended(operation: TypedNode) -> str | None:
    """Return a padded batch with a value after the end of each sequence."""
    if operation["total_length"] is not None or not operation.is_float("data"):
        return None
    steps = "jnp.arange(data.shape[1]) < lengths[:, None]"
    if not operation["batch_first"]:
        steps = "jnp.arange(data.shape[0])[:, None] < lengths"
    more = operation.ndim("data") - 2
    mask = f"({steps})[..., {', '.join(['None'] * more)}]" if more else steps
    return f"jnp.where({mask}, data, padding_value)"


def _between(operation: TypedNode) -> str:
    """Return which places of an axis a slice takes."""
    size, given = "self.shape[dim]", list[str]()
    for name, compare in (("start", ">="), ("end", "<")):
        bound: Any = operation[name]
        if isinstance(bound, int) and bound < 0:
            operation.extra[f"{name}_from_end"] = -bound
            given.append(f"jnp.arange({size}) {compare} {size} - {name}_from_end")
        elif bound is not None:
            wrapped = f"jnp.where({name} < 0, {name} + {size}, {name})"
            is_wrapped = operation["wraps"] and not isinstance(bound, int)
            given.append(f"jnp.arange({size}) {compare} {wrapped if is_wrapped else name}")
    return f"({given[0]}) & ({given[1]})" if len(given) > 1 else given[0]


def _elements_at(operation: TypedNode) -> str | None:
    """Return the elements at a mask in a shape of as many elements."""
    count = " * ".join(f"size[{place}]" for place in range(len(operation["size"])))
    elements = f"self[jnp.nonzero(mask, size={count})]"
    is_float = operation.is_float("self")
    return f"jnp.where(mask.sum() == {count}, {elements}, jnp.nan).reshape(*size)" if is_float else None


def _stacked(operation: TypedNode) -> str | None:
    """Return sequences of one length as a batch."""
    first, *others = operation.tensors("sequences")
    is_equal = all(same_sizes(first, other) for other in others)
    operation.extra["place"] = 0 if operation["batch_first"] else 1
    return "jnp.stack([*sequences], axis=place)" if is_equal else None


RULES: dict[str, Rule] = {
    **dict.fromkeys(("split", "chunk", "split_with_sizes"), _split),
    "select": _selected,
    "narrow": _narrow,
    "slice": _sliced,
    "unbind": "jnp.unstack(self, axis=dim)",
    "index": _indexed,
    "index_put": _index_put,
    "index_select": lambda op: (
        "jnp.take(self, index, axis=dim)" if op.ndim("index") == 1 and op.ndim() else None
    ),
    "gather": only_if(_is_along, "jnp.take_along_axis(self, index, axis=dim)"),
    **{f"scatter.{name}": only_if(_is_along, partial(_scattered, name)) for name in ("src", "value")},
    "scatter_add": _added_along,
    "select_scatter": partial(_written, "index"),
    "slice_scatter": partial(_written, _slice),
    "copy": _copied,
    "embedding": only_if(
        lambda op: op["padding_idx"] < 0 and not op["scale_grad_by_freq"], "jnp.take(weight, indices, axis=0)"
    ),
    "pad_sequence": _stacked,
    "jaxlstm.pad_packed": _ended,
    "jaxlstm.elements_at": _elements_at,
    "jaxlstm.is_between": _between,
}
