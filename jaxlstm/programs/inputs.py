"""Checks of the arguments of a program: structure, shapes, dtypes, parameters."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxlstm._shared.table import count_of
from jaxlstm._shared.torch_tensors import kind_of
from jaxlstm.programs import tree
from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.graph import Graph, Input, TensorType, shown_shape
from jaxlstm.programs.operators.dtypes import held, is_integer, to_held
from jaxlstm.programs.operators.recurrent import SEQUENCE_LAYERS
from jaxlstm.programs.sizes.guards import axes_in, shown_guard

Array = jax.Array


def bind_inputs(
    graph: Graph, args: Sequence[Any], kwargs: Mapping[str, Any], *, guards: bool
) -> tuple[dict[str, Array], dict[str, int]]:
    """Return the user's inputs by name of value, and the sizes of the free axes.

    Without ``guards``, sizes below 2 are accepted where the export recorded no condition about them. For a
    constant that is unknown under ``jit``, the value is whether it equals the constant of the export.
    """
    arguments = flatten_arguments(graph, args, kwargs)
    values: dict[str, Array] = {}
    sizes: dict[str, int] = {}
    first_axes: dict[str, tuple[str, int]] = {}
    for declared, argument in zip(graph.inputs, arguments, strict=True):
        if declared.type is None:
            constant = declared.constant
            if isinstance(constant, int | float) and isinstance(argument, Tracer) and not argument.ndim:
                values[declared.name] = jnp.equal(argument, constant)
            else:
                require_constant(declared, argument)
            continue
        array = _as_array(declared.name, declared.type, argument)
        _bind_sizes(graph, declared, array.shape, sizes, first_axes, guards=guards)
        values[declared.name] = array
    return values, sizes


def flatten_arguments(graph: Graph, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """Return the arguments in the order of ``graph.inputs``."""
    positional, keyword = graph.in_tree.children
    if len(args) != len(positional.children) or kwargs.keys() != set(keyword.keys):
        expected = f"{count_of(len(positional.children), 'positional argument')} after params"
        got = str(len(args))
        if len(args) == len(positional.children):
            expected, got = f"the keyword arguments {list(keyword.keys)}", str(list(kwargs))
        names = ", ".join(declared.name for declared in graph.inputs)
        raise ProgramError("input-structure", f"the program takes {expected}, got {got} (inputs: {names})")
    leaves = []
    for index, (child, argument) in enumerate(zip(positional.children, args, strict=True)):
        leaves += tree.flatten(child, argument, f"argument {index}")
    for key, child in zip(keyword.keys, keyword.children, strict=True):
        leaves += tree.flatten(child, kwargs[str(key)], f"argument {key}")
    return leaves


def tensors_of(graph: Graph, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """Return the tensors among the arguments by ``graph.inputs``, after a check of the constants."""
    tensors = []
    for declared, argument in zip(graph.inputs, flatten_arguments(graph, args, kwargs), strict=True):
        if declared.type is None:
            require_constant(declared, argument)
        else:
            tensors.append(argument)
    return tensors


def as_arguments(graph: Graph, tensors: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return (args, kwargs) with these tensors, and with the constants that the export fixed."""
    remaining = iter(tensors)
    leaves = (item.constant if item.type is None else next(remaining) for item in graph.inputs)
    return tree.unflatten(graph.in_tree, leaves)


def require_constant(declared: Input, argument: Any) -> None:
    """Raise unless an argument is the constant of the export."""
    expected = declared.constant
    if type(argument) is not type(expected) or argument != expected:
        raise ProgramError(
            "input-constant",
            f"input {declared.name} was fixed to {expected!r} by the export, got {argument!r}. Export the "
            "model with the other value, or pass a tensor",
        )


def _as_array(name: str, expected: TensorType, argument: Any) -> Array:
    if not isinstance(argument, jax.Array | np.ndarray | np.generic):
        raise ProgramError(
            "input-dtype",
            f"input {name} must be a jax.Array or numpy.ndarray of dtype {expected.dtype}, got "
            f"{kind_of(argument)}",
        )
    dtype = held(expected.dtype, f"input {name}")
    # Without 64-bit mode, int32 stands for int64; with it, int32 fits into int64.
    fits = is_integer(dtype) and is_integer(argument.dtype) and np.can_cast(argument.dtype, expected.dtype)
    if argument.dtype != expected.dtype and not fits:
        hint = "an array of objects: make one array with numpy.stack"
        got = hint if argument.dtype == object else argument.dtype
        raise ProgramError("input-dtype", f"input {name} must have dtype {expected.dtype}, got {got}")
    if isinstance(argument, jax.Array):
        return argument.astype(dtype)
    return to_held(np.asarray(argument), f"input {name}").astype(dtype)


def _bind_sizes(
    graph: Graph,
    declared: Input,
    shape: tuple[int, ...],
    sizes: dict[str, int],
    first_axes: dict[str, tuple[str, int]],
    *,
    guards: bool,
) -> None:
    assert declared.type is not None
    expected = declared.type.shape
    if len(shape) != len(expected):
        raise ProgramError(
            "input-shape",
            f"input {declared.name} must have shape {shown_shape(expected)}, got {shown_shape(shape)}",
        )
    for place, (size, actual) in enumerate(zip(expected, shape, strict=True)):
        axis = f"axis {place} of input {declared.name}"
        if isinstance(size, int) and size != actual:
            raise ProgramError(
                "input-shape",
                f"{axis} must have size {size}, which the export fixed, got {actual} (shape "
                f"{shown_shape(shape)}). {how_to_free(declared, place)}",
            )
        if isinstance(size, str):
            name, other_place = first_axes.setdefault(size, (declared.name, place))
            if sizes.setdefault(size, actual) != actual:
                equal = {(name, other_place), (declared.name, place)}
                cause = next((guard for guard in graph.guards if axes_in(guard) == equal), None)
                reason = f" because of the condition {shown_guard(cause, graph.lines)}" if cause else ""
                raise ProgramError(
                    "input-shape",
                    f"{axis} must have the size of axis {other_place} of input {name}, {sizes[size]}, got "
                    f"{actual}{reason}",
                )
            if guards or actual >= 2 or not graph.is_taken_as_positive(size):
                _require_range(graph, size, actual, axis)


def _require_range(graph: Graph, name: str, actual: int, axis: str) -> None:
    low, high = graph.size_range(name)
    if actual < low or (high is not None and actual > high):
        bounds = f"at least {low}" if high is None else f"from {low} to {high}"
        reason = f" because of {graph.narrowed[name].reason}" if name in graph.narrowed else ""
        if actual < 2 and graph.is_taken_as_positive(name):
            reason = f". {_TAKEN_AS_POSITIVE}"
        raise ProgramError("input-shape", f"{axis} must be {bounds}, got {actual}{reason}")


_TAKEN_AS_POSITIVE = (
    "The export recorded no condition of the model about smaller sizes, such as 'if x.shape[0] == 1'. A "
    "program of jaxlstm.from_module exports the model again at such sizes, and its file takes size 1 if the "
    "model does. For a model without such conditions, program.with_options(guards=False) skips this check"
)


def require_tensors(role: str, actual: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise if ``actual`` has other names, shapes or dtypes than ``expected``."""
    if actual is expected:
        return
    if not isinstance(actual, Mapping):
        raise ProgramError(
            "params",
            f"{role} must be a dict of arrays, got {kind_of(actual)}; call program(program.params, ...)",
        )
    missing = [name for name in expected if name not in actual]
    unknown = [name for name in actual if name not in expected]
    if missing or unknown:
        raise ProgramError(
            "params",
            f"{role} must have the names of program.{role}; missing: {missing or 'none'}, unknown: "
            f"{unknown or 'none'}",
        )
    for name, array in expected.items():
        shape, dtype = np.shape(actual[name]), getattr(actual[name], "dtype", None)
        if shape != array.shape or dtype != array.dtype:
            raise ProgramError(
                "params",
                f"{role}[{name!r}] must be {array.dtype}{list(array.shape)}, got {dtype}{list(shape)}",
            )


def own_keywords(
    graph: Graph, kwargs: Mapping[str, Any], **options: Any
) -> tuple[dict[str, Any], tuple[Any, ...]]:
    """Return the keyword arguments of a model, with options whose names are its own, and the options."""
    names = graph.in_tree.children[1].keys
    taken = {name: value for name, value in options.items() if name in names}
    rest = tuple(None if name in taken else value for name, value in options.items())
    return {**kwargs, **taken}, rest


def require_lstms(graph: Graph, seq_lengths: Any) -> None:
    """Raise if ``seq_lengths`` is given and no layer, or no layer of that path, would take it."""
    if seq_lengths is None:
        return
    paths = list(dict.fromkeys(node.module_path for node in graph.nodes if node.op in SEQUENCE_LAYERS))
    if not paths:
        reason = "the program has no LSTM, GRU or RNN that could take it (a cell runs single steps)"
        if any(node.op.startswith("jaxlstm.packed_") for node in graph.nodes):
            reason = "the model packs its sequences by lengths that it takes or computes itself"
        raise ProgramError("input-structure", f"seq_lengths is given, but {reason}. Leave it out")
    unknown = [path for path in seq_lengths if path not in paths] if isinstance(seq_lengths, Mapping) else []
    if unknown:
        raise ProgramError(
            "input-structure",
            f"seq_lengths has the module path {unknown[0]!r}, but the recurrent layers are at {paths}",
        )


def why_fixed(declared: Input, axis: int) -> str:
    """Return why the size of an axis is fixed, "" if that is not known."""
    if declared.type and declared.type.shape[axis] in (0, 1):
        return "torch.export fixes an axis that has the size 0 or 1 in the example"
    return declared.fixed.get(axis, "")


def how_to_free(declared: Input, axis: int) -> str:
    """Return why the size of an axis is fixed, or if that is not known, the advice on freeing it."""
    if reason := why_fixed(declared, axis):
        return f"Reason: {reason}"
    return (
        "To accept other sizes, export the axis as dynamic: "
        f"dynamic_shapes={{{declared.name!r}: {{{axis}: torch.export.Dim.AUTO}}}}. For the sequence length "
        "of an LSTM, which torch.export fixes even so, use jaxlstm.from_module and Program.save"
    )
