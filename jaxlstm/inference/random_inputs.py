"""Random inputs of a program, for a comparison of two ways to run it."""

import copy
import itertools
from collections.abc import Mapping, Sequence
from functools import partial

import jax
import numpy as np

from jaxlstm.inference.artifact import positional, shapes_at
from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.graph import Graph, Input, Size, Value, results_of, uses_of
from jaxlstm.programs.inputs import as_arguments, tensors_of
from jaxlstm.programs.operators.sizes import ASSERTIONS
from jaxlstm.programs.program import Program

SIZES = (5, 16, 64, 256, 1024, 4096, 16384)
"""Sizes to try for the free axes. A program may refuse small ones, for example after several poolings."""
BATCH = 3
LARGEST = 2**28
"""The most elements of all values of a call. Larger sizes are not tried."""


def random_inputs(program: Program, seed: int = 0, smallest: int = 0) -> list[np.ndarray] | None:
    """Return the tensors among the inputs of a program, or None if it refuses all sizes that were tried.

    The free axes have sizes from ``SIZES`` on, at least ``smallest``, or if the program refuses them, the
    sizes of the example. Floating-point numbers are normal. Lengths of packed sequences decrease from the
    number of steps. Other integers and booleans come from the example, unless it holds only zeros: then
    an input of an embedding holds indices of its rows, and any other one 0 and 1. If the program refuses the
    numbers, the tensors are the example.
    """
    rng = np.random.default_rng(seed)
    program = copy.copy(program)
    program.at_sizes = None  # With another export, a call would run another program.
    tried = [max(size, smallest) for size in SIZES]
    tensors = [declared for declared in program.inputs if declared.type]
    example = tensors_of(program.graph, *program.example) if program.example else None
    for sizes in (*map(partial(_sizes, program.graph), tried), example_sizes_or_one(program.graph)):
        shapes = shapes_at(program, sizes)
        if _accepts(program, shapes):
            inputs = zip(tensors, shapes, example or [None] * len(tensors), strict=True)
            generated = [
                _random(rng, declared, sizes, program, like, value) for declared, like, value in inputs
            ]
            return example if example and _refuses(program, generated) else generated
    if example and _accepts(program, [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in example]):
        return example
    return None


def _sizes(graph: Graph, smallest: int) -> dict[str, int]:
    """Return sizes of the free axes, no two equal by accident: verify_model changes equal sizes together."""
    types, names = graph.input_types, graph.free_axes
    fixed = {size for type_ in types.values() for size in type_.shape if isinstance(size, int)}
    unused = (size for size in itertools.count(smallest) if size not in fixed)
    sizes = {name: next(unused) for name in names}
    if BATCH not in fixed:
        sizes.update(dict.fromkeys(names[:1], BATCH))  # The first free axis is usually the batch.
    sizes = {name: clipped(graph, name, size) for name, size in sizes.items()}
    for name, type_ in types.items():
        steps, batch_axis = _steps(graph, name)
        lengths = type_.shape[:1]
        if steps is not None and lengths[0] in sizes and batch_axis < len(names):
            sizes[lengths[0]] = sizes[names[batch_axis]]  # One for each sequence.
    return sizes


def example_sizes(graph: Graph) -> dict[str, int]:
    """Return the sizes of the free axes in the example of the export, as far as recorded."""
    inputs = [(declared.type, declared.example) for declared in graph.inputs if declared.type]
    pairs = (pair for type_, example in inputs for pair in zip(type_.shape, example, strict=False))
    return {size: actual for size, actual in pairs if isinstance(size, str)}


def example_sizes_or_one(graph: Graph) -> dict[str, int]:
    """Return the sizes of the free axes in the example of the export; 1 where none is recorded."""
    return {**dict.fromkeys(graph.free_axes, 1), **example_sizes(graph)}


def clipped(graph: Graph, axis: str, size: int) -> int:
    """Return the size, or the nearest size that a free axis may have."""
    low, high = graph.size_range(axis)
    return max(low, size if high is None else min(size, high))


def _random(
    rng: np.random.Generator,
    declared: Input,
    sizes: Mapping[str, int],
    program: Program,
    like: jax.ShapeDtypeStruct,
    example: np.ndarray | None,
) -> np.ndarray:
    name, type_, shape = declared.name, declared.type, like.shape
    assert type_ is not None
    steps, _ = _steps(program.graph, name)
    longest = sizes.get(steps) if isinstance(steps, str) else steps
    if longest and len(shape) == 1:
        return np.maximum(longest - np.arange(shape[0]), 1).astype(type_.dtype)
    if type_.dtype.kind in "biu" and example is not None and example.any():
        return _resized(example, shape)
    if type_.dtype.kind in "biu":
        return rng.integers(0, _rows(program, name), shape).astype(type_.dtype)
    return rng.standard_normal(shape).astype(type_.dtype)


def _resized(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return an array of another shape, whose elements keep their order along each axis: sorted lengths
    remain sorted, and the rows of a mask that end in zeros still do."""
    places = (np.arange(new) * old // max(new, 1) for old, new in zip(array.shape, shape, strict=True))
    return np.asarray(array[np.ix_(*places)])


def _refuses(program: Program, tensors: Sequence[np.ndarray]) -> bool:
    """Return True if a program refuses the numbers of tensors whose shapes it takes."""
    has_conditions = any(node.op in ASSERTIONS for node in program.graph.nodes)
    if not (has_conditions or any(array.dtype.kind in "biu" for array in tensors)):
        return False
    args, kwargs = as_arguments(program.graph, tensors)
    try:
        program(program.params, *args, **kwargs)
    except ProgramError:
        return True
    return False


def _steps(graph: Graph, name: str) -> tuple[Size, int]:
    """Return the number of steps of the sequences whose lengths an input holds, and their batch axis.

    The number of steps is None for other inputs.
    """
    types = graph.input_types
    sources: dict[str, set[str]] = {declared.name: {declared.name} for declared in graph.inputs}
    for node in graph.nodes:
        types |= node.types
        used = set(uses_of(node))
        inputs = set().union(*(sources.get(value, set()) for value in used))
        sources |= dict.fromkeys(results_of(node), inputs)
        if node.op == "jaxlstm.pack_padded.default":
            padded, lengths = (getattr(node.kwargs[key], "name", "") for key in ("input", "lengths"))
            padded_type = types.get(padded)
            if name in sources.get(lengths, set()) and padded_type is not None:
                time = 1 if node.kwargs["batch_first"] else 0
                return padded_type.shape[time], 1 - time
    return None, 0


def _rows(program: Program, name: str) -> int:
    """Return the rows of the smallest embedding that an input indexes, or 2 if there is none."""
    rows = []
    for node in program.graph.nodes:
        weight = node.kwargs.get("weight")
        if node.op == "aten.embedding.default" and node.kwargs["indices"] == Value(name):
            torch_name = program.graph.parameters.get(getattr(weight, "name", ""), "")
            rows += [program.params[torch_name].shape[0]] if torch_name else []
    return min(rows, default=2)


def _accepts(program: Program, tensors: Sequence[jax.ShapeDtypeStruct]) -> bool:
    """Return True if a program takes arguments of these shapes, and its values fit into the limit."""
    try:
        closed = jax.make_jaxpr(positional(program))(program.params, *tensors)
    except ProgramError:
        return False
    return sum(var.aval.size for eqn in closed.jaxpr.eqns for var in eqn.outvars) <= LARGEST
