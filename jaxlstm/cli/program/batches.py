"""Batches of a program with one input: sequences of equal shape go through it together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import jax
import numpy as np

from jaxlstm.cli.program.describe import result_names
from jaxlstm.inference.program_artifact import positional
from jaxlstm.programs.graph import Input, Size, TensorType, Value
from jaxlstm.programs.inputs import how_to_free, shown_shape
from jaxlstm.programs.program import Program

Named = tuple[str, np.ndarray]


class Batches:
    """A program over sequences, which are its input without the batch axis.

    Args:
      program: a program with one tensor among its inputs, whose first axis is the batch.
      batch_size: number of sequences in a batch, if the batch is a free axis.
      cast: convert sequences of another dtype.

    Attributes:
      leaves: suffix of a name in the output -> name of a result.
      sequences, batches, shapes: number of sequences and batches so far, and their shapes.

    Raises:
      ValueError: the program has several inputs, or an input or a result has no batch axis.
    """

    def __init__(self, program: Program, batch_size: int, *, cast: bool) -> None:
        self._input = _only_tensor(program)
        assert self._input.type is not None
        self._type = self._input.type
        batch = self._type.shape[0] if self._type.shape else None
        self._fixed = batch if isinstance(batch, int) else None
        self._size = self._fixed or batch_size
        names = result_names(program.graph)
        self._axes = _batch_axes(program, names, batch)
        self.leaves = {"": names[0]} if len(names) == 1 else {f".{name}": name for name in names}
        self._params = program.params
        self._call = jax.jit(positional(program))
        self._cast = cast
        self.sequences, self.batches = 0, 0
        self.shapes: set[tuple[int, ...]] = set()

    def compute(self, block: Sequence[Named]) -> Iterator[dict[str, np.ndarray]]:
        """Yield the results of each sequence, in order."""
        by_shape: dict[tuple[int, ...], list[int]] = {}
        arrays = [self._checked(name, array) for name, array in block]
        for index, array in enumerate(arrays):
            by_shape.setdefault(array.shape, []).append(index)
        results: dict[int, dict[str, np.ndarray]] = {}
        for shape, indices in by_shape.items():
            self.shapes.add(shape)
            for start in range(0, len(indices), self._size):
                chosen = indices[start : start + self._size]
                results.update(zip(chosen, self._run([arrays[index] for index in chosen]), strict=True))
        for index in range(len(block)):
            yield results.pop(index)

    def _run(self, arrays: list[np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        """Yield the results of each of at most ``self._size`` arrays of one shape."""
        rows = self._fixed or 1 << (len(arrays) - 1).bit_length()  # few sizes of batches to compile
        stacked = np.stack([*arrays, *[arrays[-1]] * (rows - len(arrays))])
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(self._call(self._params, stacked))]
        self.batches += 1
        self.sequences += len(arrays)
        for row in range(len(arrays)):
            yield {
                name: np.ascontiguousarray(leaf.take(row, axis))
                for (name, axis), leaf in zip(self._axes.items(), leaves, strict=True)
            }

    def _checked(self, name: str, array: np.ndarray) -> np.ndarray:
        """Check the shape and dtype of a sequence, and convert it if ``cast`` allows it."""
        expected = self._type.shape[1:]
        wrong = [
            place
            for place, (size, actual) in enumerate(zip(expected, array.shape, strict=False), 1)
            if isinstance(size, int) and size != actual
        ]
        if wrong or array.ndim != len(expected) or not array.size:
            fix = f". {how_to_free(self._input.name, wrong[0])}" if wrong else ""
            raise ValueError(f"{name} must have shape {shown_shape(expected)}, got {array.shape}{fix}")
        dtype = self._type.dtype
        is_exact = dtype.kind == array.dtype.kind == "i" and np.can_cast(array.dtype, dtype)
        if array.dtype.newbyteorder("=") != dtype and not is_exact and not self._cast:
            raise ValueError(f"{name} is {array.dtype} and the program takes {dtype}; --cast converts it")
        return array.astype(dtype, copy=False)


def _only_tensor(program: Program) -> Input:
    tensors = [declared for declared in program.inputs if declared.type is not None]
    if len(tensors) != 1:
        names = ", ".join(declared.name for declared in tensors)
        raise ValueError(f"run takes a program with one input, this one has {len(tensors)}: {names}")
    return tensors[0]


def _batch_axes(program: Program, names: Sequence[str], batch: Size) -> dict[str, int]:
    """Return the batch axis of each result, by name."""
    if batch is None:
        raise ValueError("the first axis of the program's input must be the batch")
    types: dict[str, TensorType] = {}
    for node in program.graph.nodes:
        types.update(node.types)
    axes = {}
    for name, output in zip(names, program.graph.outputs, strict=True):
        type_ = types.get(output.name) if isinstance(output, Value) else None
        shape = type_.shape if type_ is not None else ()
        if batch not in shape:
            raise ValueError(
                f"result {name} has shape {shown_shape(shape)} without the batch axis {batch} of the input, "
                "so it does not belong to one sequence"
            )
        axes[name] = shape.index(batch)
    return axes
