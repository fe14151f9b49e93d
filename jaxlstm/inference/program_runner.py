"""``ProgramRunner``: a whole program compiled for inference, with its weights bound."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from math import prod
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxlstm.inference.compiled import SHORTEST, bucket_of, padded
from jaxlstm.inference.compiled_program import EXECUTABLES, CompiledProgram, Shape, on_host
from jaxlstm.inference.engine import Recent, Stats
from jaxlstm.inference.host_arrays import host_lengths
from jaxlstm.inference.padding import SMALLEST, Padding, find_padding
from jaxlstm.inference.program_stream import ProgramStream
from jaxlstm.inference.random_inputs import example_sizes
from jaxlstm.layer.config import positive_int
from jaxlstm.programs import tree
from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.graph import Size, TensorType, shown_shape
from jaxlstm.programs.inputs import own_keywords, tensors_of
from jaxlstm.programs.operators.recurrent import SEQUENCE_LAYERS
from jaxlstm.programs.program import Program
from jaxlstm.programs.sizes.flow import Long

SIGNATURES = 10_000
"""The most shapes and dtypes of calls that are remembered as checked."""


class _Call(NamedTuple):
    """Calls with tensors of the same shapes and dtypes, which fit the program.

    Attributes:
      casts: the places of the tensors to cast.
      sizes: free axis -> size.
      buckets: free axis -> the size to which it is padded.
      shapes: the shapes of the tensors after padding.
      lengths: the lengths after padding if all steps are valid; None if no layer needs them.
      cuts: padded axis -> long axes of the results, size and bucket.
      elements: the products of the sizes and of the buckets.
    """

    casts: list[int]
    sizes: dict[str, int]
    buckets: dict[str, int]
    shapes: tuple[Shape, ...]
    lengths: np.ndarray | None
    cuts: dict[str, tuple[list[Long], int, int]]
    elements: tuple[int, int]


class Row(NamedTuple):
    """The arrays of one row, without the batch axis, and the call of a batch of such rows."""

    arrays: tuple[np.ndarray, ...]
    call: _Call

    @property
    def padded_shapes(self) -> tuple[Shape, ...]:
        """The shapes of the arrays after padding."""
        return tuple(shape[1:] for shape in self.call.shapes)


class ProgramRunner:
    """A program compiled for inference, made by :func:`jaxlstm.inference.compile`. Threads may share one.

    ``runner(*args, **kwargs)`` takes and returns what ``program(params, *args, **kwargs)`` does, as NumPy
    arrays on the host, which may be read-only.

    Attributes:
      program: the program.
      padded: name of a free axis -> True if calls are padded along it.
    """

    def __init__(
        self, program: Program, *, pad: bool | None = None, executables: int = EXECUTABLES, device: Any = None
    ) -> None:
        self._compiled = CompiledProgram(program, executables, device)
        self.program, self.device = program, self._compiled.device
        self._shapes = [type_.shape for type_ in program.graph.input_types.values()]
        places = [(n, i, k) for i, shape in enumerate(self._shapes) for k, n in enumerate(shape)]
        self._place: dict[str, tuple[int, int]] = {n: (i, k) for n, i, k in places if isinstance(n, str)}
        first = {shape[0] if shape else None for shape in self._shapes}
        self._batch_axis = first.pop() if len(first) == 1 else None
        of_layers = _axes_of_layers(program)
        self._batch_of_layers = of_layers[0] if of_layers else None
        self._lengths = of_layers if of_layers and isinstance(of_layers[1], str) else None
        self._pad, self._proofs = pad, Recent(SIGNATURES)
        self._proven = find_padding(program, self._batch_axis, self._lengths, trusted=pad is True)
        along = self._along(example_sizes(program.graph))
        if pad and len(along) < len(self._place):
            raise ValueError(
                f"pad=True requires results whose sizes are multiples of the free axes; along "
                f"{sorted(self._place.keys() - along.keys())} they are not, or the sizes of the inputs are "
                "tied. Leave pad out"
            )
        self.padded = {name: name in along for name in self._place}
        self._calls = Recent(SIGNATURES)
        self._refused: set[Shape] = set()
        positional, named = program.graph.in_tree.children
        is_flat = not named.children and all(child.kind == "leaf" for child in positional.children)
        only_tensors = len(self._compiled.tensors) == len(program.inputs)
        self._flat_arguments = len(program.inputs) if is_flat and only_tensors else -1
        self._structured = tree.builder(program.graph.out_tree)

    def __repr__(self) -> str:
        return f"ProgramRunner({self.program!r}, padded={self.padded}, device={self.device})"

    def __call__(self, *args: Any, seq_lengths: Any = None, **kwargs: Any) -> Any:
        """Run the program.

        Args:
          args, kwargs: the arguments of the exported module's ``forward``: NumPy or JAX arrays.
          seq_lengths: integers (batch,), the valid steps of each sequence for the recurrent layers.

        Raises:
          ProgramError: an argument does not fit.
          ValueError: ``seq_lengths`` does not fit, or the recurrent layers do not run over a free axis of an
            input, the time.
        """
        kwargs, (seq_lengths,) = own_keywords(self.program.graph, kwargs, seq_lengths=seq_lengths)
        is_flat = len(args) == self._flat_arguments and not kwargs
        lengths = None
        try:
            tensors = args if is_flat else tensors_of(self.program.graph, args, kwargs)
        except ProgramError:  # Another program may take other lists and constants.
            return self._uncompiled(args, kwargs, seq_lengths)
        try:
            call = self._call_of(tensors)
            lengths = None if seq_lengths is None else self._checked_lengths(seq_lengths, call)
            return self._structured(self._run(call, tensors, lengths))
        except ProgramError as error:
            if seq_lengths is None or lengths is not None:
                return self._structured(self._compiled.elsewhere(tensors, lengths, error))
        # The program checks the lengths at sizes that only another one takes.
        return self._uncompiled(args, kwargs, seq_lengths)

    def _uncompiled(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], seq_lengths: Any) -> Any:
        results = self.program(self.program.params, *args, seq_lengths=seq_lengths, **kwargs)
        return jax.tree.map(on_host, results)

    def _checked_lengths(self, seq_lengths: Any, call: _Call) -> np.ndarray:
        if self._lengths is None:
            raise ValueError(
                "seq_lengths is given, but the program has no recurrent layer over sequences, or it runs "
                "over an axis that no input has as a free axis; call the program itself"
            )
        batch, time = self._lengths
        return host_lengths(
            seq_lengths, batch if isinstance(batch, int) else call.sizes[batch], call.sizes[time]
        )

    def map(self, inputs: Iterable[Any], batch_size: int = 32) -> list[Any]:
        """Run many inputs in batches of similar shapes, and return the results in the given order.

        Args:
          inputs: arrays without the batch axis, which is the first one of each input of the program; tuples
            of arrays if the program has several inputs, in the order of ``program.inputs``. If the rows of a
            batch may depend on each other, batches have one row, as often as the smallest batch needs it.
          batch_size: the largest number of inputs in a batch.

        Returns:
          The results of each input, without the batch axis.

        Raises:
          ProgramError: an input does not fit.
          ValueError: an input or a result of the program has no batch axis.
        """
        rows = [self.row(arrays if isinstance(arrays, tuple) else (arrays,)) for arrays in inputs]
        results = dict(self.rows(rows, positive_int("batch_size", batch_size)))
        return [self._structured(results[row]) for row in range(len(rows))]

    def stream(self, states: Mapping[str, str], initial: Mapping[str, Any] | None = None) -> ProgramStream:
        """Return a :class:`ProgramStream`, which feeds results back as inputs.

        Args:
          states: input -> the result that is its value in the next step, as ``jaxlstm inspect`` names them.
            ``{"state": "1"}`` also feeds back a whole tuple.
          initial: input -> its value in the first step; zeros for inputs that are left out.

        Raises:
          ValueError: a name is unknown, or a result has not the shape and dtype of its state.
        """
        return ProgramStream(self._compiled, states, initial or {})

    def stats(self) -> Stats:
        """Return the counts of compilations, calls and computed elements so far.

        The steps are counted as the products of the sizes of the free axes.
        """
        return self._compiled.work.stats()

    def row(self, arrays: Sequence[Any]) -> Row:
        """Return one row after the checks of the program."""
        smallest = self.smallest_batch
        whole: list[Any] = [np.broadcast_to(array, (smallest, *np.shape(array))) for array in arrays]
        call = self._call_of(whole)
        return Row(tuple(array[0] for array in self._compiled.cast(whole, call.casts)), call)

    def rows(self, rows: Sequence[Row], batch_size: int) -> Iterator[tuple[int, list[Any]]]:
        """Yield index and leaves of the results of each row, batch by batch."""
        batch_size, groups = max(batch_size, self.smallest_batch), dict[tuple[Shape, ...], list[int]]()
        for index, row in enumerate(rows):
            groups.setdefault(row.padded_shapes, []).append(index)
        for indices in groups.values():
            most = self._rows_at_once(rows[indices[0]], batch_size)
            for start in range(0, len(indices), most):
                chosen = indices[start : start + most]
                batch = [rows[index] for index in chosen]
                try:
                    results = [*self._run_rows(batch, most)]
                except ProgramError:  # It may refuse only the padding, or another program may take a row.
                    results = [next(self._run_rows([row], 1, pad=False)) for row in batch]
                yield from zip(chosen, results, strict=True)

    @cached_property
    def batch(self) -> int | str:
        """The size of the first axis of every input. Raise ValueError if they differ."""
        if self._batch_axis is None:
            sizes = {name: type_.shape[:1] for name, type_ in self.program.graph.input_types.items()}
            raise ValueError(f"the first axis of each of the program's inputs must be the batch, got {sizes}")
        return self._batch_axis

    @property
    def smallest_batch(self) -> int:
        """The smallest batch size that the program takes."""
        batch = self.batch
        return batch if isinstance(batch, int) else max(1, self.program.graph.size_range(batch)[0])

    @property
    def result_types(self) -> dict[str, TensorType]:
        """Name of a result -> type. A single result without a name is called "outputs"."""
        return self._compiled.result_types

    @cached_property
    def batch_axes(self) -> list[int]:
        """The batch axis of each result. Raise ValueError if one has none."""
        return [
            _axis_of(self.batch, name, type_.shape) for name, type_ in self._compiled.result_types.items()
        ]

    def _proof(self, sizes: Mapping[str, int]) -> Padding:
        """Return the proven padding for a call with these sizes of the free axes."""
        if self._proven is not None:
            return self._proven
        # An operator needs the value of a size. The batch may be proven for each value.
        others = {name: size for name, size in sizes.items() if name != self._batch_axis}
        find = partial(find_padding, self.program, self._batch_axis, self._lengths, sizes=others)
        return self._proofs.get_or_make(tuple(others.values()), lambda: find() or Padding())

    def _along(self, sizes: Mapping[str, int]) -> Mapping[str, list[Long]]:
        """Return free axis that is padded in a call of these sizes -> long axes of the results."""
        are_unknown = self._proven is None and not sizes
        return {} if self._pad is False or are_unknown else self._proof(sizes).along

    def _call_of(self, tensors: Sequence[Any]) -> _Call:
        """Return the call of these tensors, which are checked once for each signature."""
        key = _signature(tensors)
        return self._calls.get(key) or self._calls.get_or_make(key, lambda: self._call_at(tensors))

    def _call_at(self, tensors: Sequence[Any]) -> _Call:
        """Return the call of these tensors after the checks."""
        casts = self._compiled.checked(tensors)
        shapes: list[Shape] = [np.shape(leaf) for leaf in tensors]
        sizes = {name: shapes[i][k] for name, (i, k) in self._place.items()}
        buckets = self._buckets(sizes)
        if tuple(buckets.values()) in self._refused:
            buckets = sizes
        pairs = zip(self._shapes, shapes, strict=True)
        whole = tuple(
            tuple(buckets.get(str(name), size) for name, size in zip(declared, shape, strict=True))
            for declared, shape in pairs
        )
        lengths = None
        along = self._along(sizes)
        if self._lengths is not None and self._lengths[1] in along:
            batch, time = self._lengths
            rows = batch if isinstance(batch, int) else sizes[batch]
            lengths = padded(np.full(rows, sizes[time], np.int32), (buckets.get(str(batch), rows),))
        cuts = {
            name: (axes, sizes[name], buckets[name])
            for name, axes in along.items()
            if sizes[name] != buckets[name]
        }
        elements = prod(sizes.values()), prod(buckets.values())
        return _Call(casts, sizes, buckets, whole, lengths, cuts, elements)

    def _buckets(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Return the sizes to which axes are padded: powers of two or, except for a batch, 3/4 of one.

        The batch of recurrent layers may be another axis than the first. It may be shorter than a length.
        """
        buckets, along = dict(sizes), self._along(sizes)
        batch = self._batch_axis if self._proof(sizes).independent else None
        for name in along:
            size, high = sizes[name], self.program.graph.size_range(name)[1]
            if size < SMALLEST:
                continue
            shortest = 1 if name in (batch, self._batch_of_layers) else SHORTEST
            buckets[name] = bucket_of(size, high, shortest, three_quarters=name != batch)
        return buckets

    def _run(self, call: _Call, tensors: Sequence[Any], lengths: np.ndarray | None) -> list[Any]:
        """Run the program and return the leaves of its results."""
        arrays = [np.asarray(leaf) for leaf in tensors]
        if call.casts:
            arrays = self._compiled.cast(arrays, call.casts)
        if call.cuts:
            arrays = [padded(array, shape) for array, shape in zip(arrays, call.shapes, strict=True)]
        valid = call.lengths
        if lengths is not None and self._lengths is not None:
            valid = padded(lengths, (call.buckets.get(str(self._lengths[0]), len(lengths)),))
        try:
            executable = self._compiled.executable(call.shapes, valid, arrays)
        except ProgramError:
            if not call.cuts:
                raise
            # For example a table of positions that ends before the bucket.
            self._refused.add(tuple(call.buckets.values()))
            self._calls = Recent(SIGNATURES)
            return self._run(self._call_of(tensors), tensors, lengths)
        self._compiled.work.add_call(*call.elements)
        leaves = executable.results((valid, *arrays))
        for cut in call.cuts.values():
            leaves = _without_padding(leaves, *cut)
        return leaves

    def _rows_at_once(self, row: Row, batch_size: int) -> int:
        """Return how many rows like this one run together. A larger batch is filled with the last one."""
        if not self._proof(row.call.sizes).independent:
            return 1
        if isinstance(self.batch, int):
            return self.batch
        return min(batch_size, self.program.graph.size_range(self.batch)[1] or batch_size)

    def _run_rows(self, rows: Sequence[Row], most: int, *, pad: bool = True) -> Iterator[list[Any]]:
        """Yield the results of at most ``most`` rows of equal padded shapes, as copies."""
        # Powers of two, so that few sizes of batches are compiled.
        count = max(bucket_of(len(rows), most), self.smallest_batch)
        filled = [*rows, *[rows[-1]] * (count - len(rows))]
        shapes = rows[0].padded_shapes if pad else [array.shape for array in rows[0].arrays]
        tensors = [
            np.stack([padded(row.arrays[i], shape) for row in filled]) for i, shape in enumerate(shapes)
        ]
        lengths = None
        has_lengths = rows[0].call.lengths is not None
        if has_lengths and self._lengths is not None and self._lengths[1] != self._batch_axis:
            lengths = np.array([row.call.sizes[self._lengths[1]] for row in filled], np.int32)
        try:
            leaves = self._run(self._call_of(tensors), tensors, lengths)
        except ProgramError as error:
            if pad:
                raise
            leaves = self._compiled.elsewhere(tensors, lengths, error)
        places = [*zip(leaves, self._compiled.result_types.values(), self.batch_axes, strict=True)]
        if any(np.ndim(x) != len(type_.shape) or x.shape[axis] != count for x, type_, axis in places):
            raise ProgramError(
                "input-structure", "for these values, a result has other axes than in the export"
            )
        for index, row in enumerate(rows):
            result = [leaf.take([index], axis) for leaf, axis in zip(leaves, self.batch_axes, strict=True)]
            for name, cut in row.call.cuts.items() if pad else ():
                result = result if name == self._batch_axis else _without_padding(result, *cut)
            # Copies, because a view would keep the whole result alive.
            yield [np.array(leaf.squeeze(axis)) for leaf, axis in zip(result, self.batch_axes, strict=True)]


def _signature(tensors: Sequence[Any]) -> Any:
    """Return the shapes and dtypes of the arrays, or None if there is something else."""
    try:
        return tuple([(leaf.shape, leaf.dtype) for leaf in tensors])
    except AttributeError:
        return None


def _without_padding(leaves: list[Any], along: Sequence[Long], size: int, bucket: int) -> list[Any]:
    """Return results without the padding of a free axis from a size to a bucket."""
    cut = list(leaves)
    for index, long in enumerate(along):
        for axis in long if size != bucket else ():
            # The axis of the result is a multiple of the free axis.
            stop = cut[index].shape[axis] // bucket * size
            cut[index] = cut[index][(slice(None),) * axis + (slice(stop),)]
    return cut


def _axes_of_layers(program: Program) -> tuple[int | str, Any] | None:
    """Return the batch and the time of the first recurrent layer: free axes of inputs, or numbers."""
    free, types = program.graph.free_axes, program.graph.input_types
    for node in program.graph.nodes:
        if node.op in SEQUENCE_LAYERS:
            type_ = types.get(getattr(node.kwargs["input"], "name", ""))
            if type_ is None or len(type_.shape) != 3:
                return None
            batch, time = type_.shape[:2] if node.kwargs["batch_first"] else type_.shape[1::-1]
            is_known = all(isinstance(size, int) or size in free for size in (batch, time))
            return (batch, time) if is_known and batch is not None else None
        types.update(node.types)
    return None


def _axis_of(batch: Size, name: str, shape: tuple[Size, ...]) -> int:
    if batch not in shape:
        raise ValueError(
            f"result {name} has shape {shown_shape(shape)} without the batch axis {batch} of the inputs, so "
            "it does not belong to one row"
        )
    if isinstance(batch, int) and shape.count(batch) > 1:
        raise ValueError(
            f"result {name} has shape {shown_shape(shape)}, in which several axes have the size {batch} of "
            "the batch; export the program with a free batch axis"
        )
    return shape.index(batch)
