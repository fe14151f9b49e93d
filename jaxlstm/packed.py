"""Packed sequences: ``torch.nn.utils.rnn.PackedSequence`` and the functions around it, in JAX.

A packed batch keeps only valid time steps: ``data`` holds, for t = 0, 1, ..., the rows of the sequences
that are still running at t, longest first, and ``batch_sizes[t]`` says how many those are. With lengths
3, 2, 1 that is a0 b0 c0 a1 b1 a2 and batch sizes 3, 2, 1.

Packing is what torch needs to skip padding. ``lstm`` takes it for parity; where lengths vary from call
to call, padded inputs with ``seq_lengths`` compile once, and a packed batch once for each total length.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxlstm.lengths import as_lengths, valid_steps
from jaxlstm.precision import as_float_array


class PackedSequence(NamedTuple):
    """torch's four fields, as a JAX pytree.

    Attributes:
      data: (sum of lengths, features).
      batch_sizes: int (time,), falling: sequences still running at each step.
      sorted_indices: int (batch,), or None if the batch was given sorted: sorted row b is the caller's
        row ``sorted_indices[b]``.
      unsorted_indices: the inverse permutation, or None.
    """

    data: jax.Array
    batch_sizes: Any
    sorted_indices: Any = None
    unsorted_indices: Any = None

    @classmethod
    def from_torch(cls, packed: Any) -> PackedSequence:
        """From torch's own ``PackedSequence``, by its tensors' ``numpy()``; torch is not imported."""

        def array(tensor: Any) -> np.ndarray | None:
            if tensor is None:
                return None
            tensor = tensor.detach().cpu()
            if str(tensor.dtype) == "torch.bfloat16":  # the one dtype that Tensor.numpy() refuses
                return tensor.float().numpy().astype(jnp.bfloat16)  # widening and back is exact
            return tensor.numpy()

        return cls(
            as_float_array("data", array(packed.data)),
            array(packed.batch_sizes),
            array(packed.sorted_indices),
            array(packed.unsorted_indices),
        )

    def to_numpy(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
        """The four fields as NumPy arrays, indices in int64 as torch wants them.

        ``torch.nn.utils.rnn.PackedSequence(*(None if a is None else torch.tensor(a) for a in fields))``
        is torch's own object; bfloat16 data, which ``torch.tensor`` refuses, goes by way of float32.
        """

        def index(field: Any) -> np.ndarray | None:
            return None if field is None else np.asarray(field, np.int64)

        return (
            np.asarray(self.data),
            np.asarray(self.batch_sizes, np.int64),
            index(self.sorted_indices),
            index(self.unsorted_indices),
        )

    @property
    def batch(self) -> int:
        """Number of sequences.

        Raises:
          ValueError: under a JAX transformation, if the batch was packed without sorted indices.
        """
        if self.sorted_indices is not None:
            return self.sorted_indices.shape[0]
        if isinstance(self.batch_sizes, Tracer):
            raise ValueError(
                "a PackedSequence without sorted_indices does not tell its batch size under jax.jit; "
                "pack with enforce_sorted=False, or close over batch_sizes instead of passing it in"
            )
        return int(self.batch_sizes[0])

    def sort_rows(self, x: jax.Array, axis: int) -> jax.Array:
        """From the caller's order of sequences to the sorted one."""
        return x if self.sorted_indices is None else jnp.take(x, self.sorted_indices, axis)

    def unsort_rows(self, x: jax.Array, axis: int) -> jax.Array:
        """From the sorted order of sequences to the caller's."""
        return x if self.unsorted_indices is None else jnp.take(x, self.unsorted_indices, axis)


def pack_padded_sequence(
    inputs: Any, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """``torch.nn.utils.rnn.pack_padded_sequence``: a padded batch without its padding.

    Args:
      inputs: (T, B, ...), or (B, T, ...) with ``batch_first``.
      lengths: integers (B,), each from 1 to T; known values, since they decide the result's shape.
      enforce_sorted: require lengths from long to short, and leave both index fields None.

    Raises:
      TypeError, ValueError: lengths that are unknown under jit, out of range, or not sorted.
    """
    if isinstance(lengths, Tracer):
        raise TypeError(
            "lengths must be known to pack, since they decide the shape of the result; under jax.jit "
            "pass the padded batch with seq_lengths to lstm instead"
        )
    x = as_float_array("inputs", inputs)
    if x.ndim < 2:
        raise ValueError(f"inputs must have a time and a batch axis, got shape {x.shape}")
    x = jnp.moveaxis(x, 1, 0) if batch_first else x
    known = np.asarray(as_lengths(lengths, x.shape[1], x.shape[0], name="lengths"), np.int64)
    if not known.size:
        raise ValueError("lengths must not be empty: a batch of no sequences cannot be packed")
    order = None
    if enforce_sorted:
        if np.any(np.diff(known) > 0):
            raise ValueError(
                f"lengths must fall from first to last with enforce_sorted=True, got {known.tolist()}; "
                "pass enforce_sorted=False"
            )
    else:
        order = np.argsort(-known, kind="stable")
        known, x = known[order], jnp.take(x, order, axis=1)
    batch_sizes = np.sum(known[None, :] > np.arange(known.max())[:, None], axis=1)
    time, row = np.nonzero(np.arange(x.shape[1])[None, :] < batch_sizes[:, None])
    inverse = None if order is None else np.argsort(order, kind="stable")
    return PackedSequence(x[time, row], batch_sizes, order, inverse)


def pad_packed_sequence(
    sequence: PackedSequence,
    batch_first: bool = False,
    padding_value: float = 0.0,
    total_length: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """``torch.nn.utils.rnn.pad_packed_sequence``: the padded batch and its lengths, in the caller's order.

    Args:
      padding_value: what stands behind each sequence's end.
      total_length: time steps of the result, at least the longest length; that length if None.
    """
    longest = sequence.batch_sizes.shape[0]
    if total_length is not None and total_length < longest:
        raise ValueError(
            f"total_length must be at least the longest sequence, {longest}; got {total_length}"
        )
    padded, lengths = padded_rows(sequence)
    valid = valid_steps(lengths, longest).reshape(longest, -1, *[1] * (padded.ndim - 2))
    padded = jnp.where(valid, padded, jnp.asarray(padding_value, padded.dtype))
    if total_length is not None:
        extra = [(0, total_length - longest)] + [(0, 0)] * (padded.ndim - 1)
        padded = jnp.pad(padded, extra, constant_values=padding_value)
    padded, lengths = sequence.unsort_rows(padded, 1), sequence.unsort_rows(lengths, 0)
    return (jnp.moveaxis(padded, 0, 1) if batch_first else padded), lengths


def padded_rows(packed: PackedSequence) -> tuple[jax.Array, jax.Array]:
    """Time-major (T, B, ...) in sorted order, zero behind each end, and the sorted lengths (B,)."""
    sizes = jnp.asarray(packed.batch_sizes, jnp.int32)
    rows = jnp.arange(packed.batch)
    lengths = jnp.sum(sizes[:, None] > rows[None, :], axis=0, dtype=jnp.int32)
    starts = jnp.cumsum(sizes) - sizes
    valid = valid_steps(lengths, sizes.shape[0])
    index = jnp.where(valid, starts[:, None] + rows[None, :], 0)
    padded = packed.data[index]
    valid = valid.reshape(valid.shape + (1,) * (padded.ndim - 2))
    return jnp.where(valid, padded, jnp.zeros_like(padded)), lengths


def packed_rows(padded: jax.Array, like: PackedSequence) -> PackedSequence:
    """Time-major, sorted (T, B, features) packed with the layout of ``like``."""
    sizes = jnp.asarray(like.batch_sizes, jnp.int32)
    ends = jnp.cumsum(sizes)
    position = jnp.arange(like.data.shape[0])
    time = jnp.searchsorted(ends, position, side="right")
    row = position - (ends - sizes)[time]
    return like._replace(data=padded[time, row])
