"""Views among results, nodes that compute a view again, and nodes that put it back into its base."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.graph import Argument, Node, Site, TensorType, Value, results_of
from jaxlstm.programs.operators.registry import Operator, changes_shape, find_operator

# The inverse of these views gives the base its shape again.
_SHAPES = ("view", "unsqueeze", "squeeze", "unflatten", "view_as")
_OWN_INVERSE = ("transpose", "swapdims", "swapaxes", "t", "mT", "numpy_T")


def target_of(node: Node) -> str:
    """Return the name of the value that an in-place node writes to."""
    value = node.kwargs.get("self")
    if not isinstance(value, Value):
        raise ProgramError(
            "malformed-graph", f"node {node.name}: the in-place operator {node.op} has no tensor self"
        )
    return value.name


def without_out(node: Node, site: Site) -> Sequence[Node] | None:
    """Replace a function with an argument ``out`` by the function, and a copy unless nothing else sees it."""
    if not isinstance(out := node.kwargs.get("out"), Value):
        return None
    function, _, overload = node.op.rpartition(".")
    name = overload.removesuffix("out").removesuffix("_") or "default"
    op = next((op for op in (f"{function}.{name}", f"{function}.Tensor") if find_operator(op)), "")
    type_, result_types = site.types.get(out.name), [site.types.get(name) for name in results_of(node)]
    if not op or type_ is None or None in result_types:
        return None
    result = f"<{node.name} result>"
    kwargs = {name: argument for name, argument in node.kwargs.items() if name != "out"}
    computed = replace(node, name=result, op=op, kwargs=kwargs, outputs=(result,), types={})
    if result_types == [type_]:
        copied = {"self": out, "src": Value(result)}
        return replace(computed, types={result: type_}), replace(node, op="aten.copy_.default", kwargs=copied)
    # torch resizes a tensor of another shape.
    maker = site.maker(out)
    owner = maker and find_operator(maker.op)
    is_seen = owner is None or owner.write_back or owner.may_alias or len(site.users[out.name]) > 1
    if is_seen or len(result_types) > 1:
        return None
    cast = {"self": Value(result), "dtype": type_.dtype}
    return computed, replace(node, op="aten.to.dtype", kwargs=cast)


def bases_of(node: Node, operator: Operator) -> Sequence[tuple[Any, str | None]]:
    """Return each result of an operator of views, with the value whose memory it shares."""
    if not (operator.write_back or operator.may_alias):
        return ()
    outputs: Any = node.outputs[0] if len(node.outputs) == 1 else node.outputs
    results = outputs if isinstance(outputs, tuple) else (outputs,)
    tensors = node.kwargs.get("tensors")
    if isinstance(tensors, tuple) and len(tensors) == len(results) > 1:
        # broadcast_tensors and meshgrid: a view of each tensor.
        bases = [_only_value(tensor) for tensor in tensors]
    else:
        source = node.kwargs.get("self" if changes_shape(node.op) else operator.first_parameter)
        bases = [_only_value(source) or _only_value(tensors)] * len(results)
    return list(zip(results, bases, strict=True))


def _only_value(argument: Argument) -> str | None:
    """Return the value that an argument is, or that it is a list of; None if there are several or none."""
    if isinstance(argument, tuple) and len(argument) == 1:
        (argument,) = argument
    return argument.name if isinstance(argument, Value) else None


def single_view(node: Node, index: int, types: Mapping[str, TensorType]) -> Node:
    """Return a node whose only result is one of the results of a node."""
    if len(node.outputs) == 1 and not isinstance(node.outputs[0], tuple):
        return node
    if (part := _part_of(node, index, types)) is not None:
        op = "aten.select.int" if "index" in part else "aten.slice.Tensor"
        return replace(node, op=op, kwargs={"self": node.kwargs["self"], **part})
    return replace(node, op="jaxlstm.view.default", kwargs={**node.kwargs, "of": node.op, "place": index})


def put_back_node(
    node: Node, index: int, base: Value, view: Value, types: Mapping[str, TensorType]
) -> tuple[Node, bool]:
    """Return the node that puts a view back into its base, and whether it may refuse to.

    Args:
      node: the node that made the view.
      index: the number of the view among its results.
      base, view: the values.
      types: the known types of values.
    """
    kind, dims = node.op.split(".")[1].removesuffix("_"), node.kwargs.get("dims")
    if (part := _part_of(node, index, types)) is not None:
        op = f"aten.{'select' if 'index' in part else 'slice'}_scatter.default"
        return replace(node, op=op, kwargs={"self": base, "src": view, **part}), False
    if kind in _SHAPES:
        return replace(node, op="aten.view_as.default", kwargs={"self": view, "other": base}), False
    if kind in _OWN_INVERSE:
        return replace(node, kwargs={**node.kwargs, "self": view}), False
    if kind == "permute" and isinstance(dims, tuple) and all(type(dim) is int for dim in dims):
        places: list[Any] = [dim % len(dims) for dim in dims]  # type: ignore[operator]
        inverse = tuple(sorted(range(len(dims)), key=places.__getitem__))
        return replace(node, kwargs={"self": view, "dims": inverse}), False
    operator = find_operator(node.op)
    assert operator is not None
    kwargs: dict[str, Argument] = {n: a for n, a in node.kwargs.items() if n != operator.first_parameter}
    kwargs |= {"base": base, "view": view, "of": node.op, "place": index}
    return replace(node, op="jaxlstm.put_back.default", kwargs=kwargs), True


def _part_of(node: Node, index: int, types: Mapping[str, TensorType]) -> dict[str, Argument] | None:
    """Return the place or the range of an axis that a view shows; None for other views."""
    kwargs: dict[str, Any] = {"dim": 0, **node.kwargs}
    dim = kwargs["dim"]
    match node.op.split(".")[1]:
        case "select" | "slice":
            return {name: argument for name, argument in kwargs.items() if name != "self"}
        case "unbind":
            return {"dim": dim, "index": index}
        case "narrow":
            start, length = kwargs["start"], kwargs["length"]
        case "split" | "split_with_sizes" | "chunk":
            results: Any = node.outputs[0]
            parts = (types.get(results[k]) for k in (0, index))
            first, length = (part.shape[dim] if part else None for part in parts)
            sizes = kwargs.get("split_sizes", kwargs.get("split_size"))
            if isinstance(sizes, tuple):
                start = sum(sizes[:index]) if {*map(type, sizes)} == {int} else None
            else:  # all parts but the last are equal
                start = index * first if isinstance(first, int) else None
        case _:
            return None
    if not isinstance(start, int) or not isinstance(length, int) or start < 0:
        return None
    return {"dim": dim, "start": start, "end": start + length}
