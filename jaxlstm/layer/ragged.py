"""Ragged batches: lengths, and ``torch.nn.utils.rnn.PackedSequence`` and its functions in JAX.

A packed batch contains only valid time steps. ``data`` holds, for t = 0, 1, ..., the rows of the sequences
that are longer than t, longest sequence first. ``batch_sizes[t]`` is their number. For sequences a, b and c
of lengths 3, 2 and 1, ``data`` is a0 b0 c0 a1 b1 a2 and ``batch_sizes`` is 3 2 1.

``lstm`` accepts packed batches for parity with torch. It also accepts padded inputs with ``seq_lengths``.
If the lengths change from call to call, prefer these: they compile once, and a packed batch compiles once
for each total length.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Int

from jaxlstm._shared.torch_tensors import tensor_to_numpy
from jaxlstm.layer.precision import as_float_array

Size = Any
"""A number, or a symbol for one in a trace."""


def valid_steps(lengths: Int[Array, "batch"], time: Size) -> Bool[Array, "time batch"]:
    """Return a mask that is True where a time step is within the length of its sequence."""
    return jnp.arange(time)[:, None] < lengths[None, :]


def check_lengths(
    value: Any, batch: Size, time: Size, *, name: str = "seq_lengths", minimum: int = 1
) -> np.ndarray | jax.Array:
    """Check lengths as torch's ``pack_padded_sequence`` does, and return them as an array.

    The check runs on the host and starts no JAX computation. Values that are unknown because of ``jax.jit``
    are not checked. A JAX array is returned unchanged. ``name`` is the argument's, for error messages.
    """
    lengths = value if isinstance(value, jax.Array) else np.asarray(value)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(f"{name} must be integers, got {lengths.dtype}; cast them with .astype(int)")
    if lengths.shape != (batch,):
        raise ValueError(
            f"{name} must have shape ({batch},), one length per sequence; got shape {lengths.shape}"
        )
    if not isinstance(lengths, Tracer):
        _check_range(np.asarray(lengths), minimum, time, name)
    return lengths


def _check_range(lengths: np.ndarray, minimum: int, maximum: Size, name: str) -> None:
    invalid = np.flatnonzero((lengths < minimum) | (lengths > maximum))
    if not invalid.size:
        return
    others = f" and {invalid.size - 1} more" if invalid.size > 1 else ""
    raise ValueError(
        f"{name} must be between {minimum} and the number of time steps, {maximum}; "
        f"got {int(lengths[invalid[0]])} at index {int(invalid[0])}{others}"
    )


def as_lengths(value: Any, batch: Size, time: Size) -> jax.Array:
    """Return lengths as a JAX array of int32, after :func:`check_lengths`."""
    return jnp.asarray(check_lengths(value, batch, time), jnp.int32)


class PackedSequence(NamedTuple):
    """A batch of sequences without padding: the four fields of torch's class, as a JAX pytree.

    Attributes:
      data: the valid time steps, (sum of lengths, features).
      batch_sizes: number of sequences longer than each step, decreasing integers (time,).
      sorted_indices: integers (batch,): sorted row b is the caller's row ``sorted_indices[b]``. None if the
        batch was given sorted.
      unsorted_indices: the inverse permutation. None computes it from ``sorted_indices``, as torch does.
    """

    data: jax.Array
    batch_sizes: Any
    sorted_indices: Any = None
    unsorted_indices: Any = None

    @classmethod
    def from_torch(cls, packed: Any) -> PackedSequence:
        """Convert a ``torch.nn.utils.rnn.PackedSequence``."""
        data, *indices = (None if field is None else tensor_to_numpy(field) for field in packed)
        return cls(as_float_array("data", data), *indices)

    def to_numpy(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
        """Return the four fields as NumPy arrays, with indices in int64 as torch requires.

        ``torch.nn.utils.rnn.PackedSequence(*(None if a is None else torch.tensor(a) for a in fields))``
        makes torch's object of them. Convert bfloat16 data to float32 first: ``torch.tensor`` rejects it.
        """
        data, *indices = self
        arrays = (None if field is None else np.asarray(field, np.int64) for field in indices)
        return (np.asarray(data), *arrays)  # type: ignore[return-value]

    @property
    def batch(self) -> int:
        """Number of sequences.

        Raises:
          ValueError: the batch has no sorted indices and is an argument of a JAX transformation.
        """
        if self.sorted_indices is not None:
            return self.sorted_indices.shape[0]
        if isinstance(self.batch_sizes, Tracer):
            raise ValueError(
                "the batch size of a PackedSequence without sorted_indices is unknown under jax.jit; "
                "pack with enforce_sorted=False, or close over batch_sizes instead of passing it in"
            )
        return int(self.batch_sizes[0])

    def sort_rows(self, x: jax.Array, axis: int) -> jax.Array:
        """Reorder sequences from the caller's order to the sorted order."""
        return x if self.sorted_indices is None else jnp.take(x, self.sorted_indices, axis)

    def unsort_rows(self, x: jax.Array, axis: int) -> jax.Array:
        """Reorder sequences from the sorted order to the caller's order."""
        inverse = self.unsorted_indices
        if inverse is None and self.sorted_indices is not None:
            inverse = jnp.argsort(self.sorted_indices)
        return x if inverse is None else jnp.take(x, inverse, axis)


def pack_padded_sequence(
    inputs: Any, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """Pack a padded batch, as ``torch.nn.utils.rnn.pack_padded_sequence``.

    Args:
      inputs: (T, B, ...), or (B, T, ...) with ``batch_first``.
      lengths: integers (B,) between 1 and T. They determine the shape of the result, so they must be
        concrete under ``jax.jit``.
      batch_first: the first axis of ``inputs`` is the batch.
      enforce_sorted: require decreasing lengths. Otherwise the sequences are sorted.

    Raises:
      TypeError, ValueError: lengths are traced, out of range, or unsorted with ``enforce_sorted``.

    >>> packed = jaxlstm.pack_padded_sequence(jnp.ones((5, 2, 3)), [5, 2])
    >>> packed.data.shape
    (7, 3)
    """
    if isinstance(lengths, Tracer):
        raise TypeError(
            "lengths must be concrete, because they determine the shape of the result; under jax.jit "
            "pass the padded batch with seq_lengths to lstm instead"
        )
    x = as_float_array("inputs", inputs)
    if x.ndim < 2:
        raise ValueError(f"inputs must have a time and a batch axis, got shape {x.shape}")
    x = jnp.moveaxis(x, 1, 0) if batch_first else x
    known = np.asarray(check_lengths(lengths, x.shape[1], x.shape[0], name="lengths"), np.int64)
    if not known.size:
        raise ValueError("lengths must not be empty: torch cannot pack a batch of no sequences")
    order = None
    if enforce_sorted:
        if np.any(np.diff(known) > 0):
            raise ValueError(
                f"lengths must be decreasing with enforce_sorted=True, got {known.tolist()}; "
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
    """Pad a packed batch, as ``torch.nn.utils.rnn.pad_packed_sequence``.

    Args:
      sequence: the packed batch.
      batch_first: return (B, T, ...) instead of (T, B, ...).
      padding_value: value of the steps after the end of each sequence.
      total_length: number of time steps of the result; the longest length if None.

    Returns:
      The padded batch and its lengths (B,), in the caller's order of sequences.

    Raises:
      ValueError: ``total_length`` is below the longest length.

    >>> packed = jaxlstm.pack_padded_sequence(jnp.ones((5, 2, 3)), [5, 2])
    >>> padded, lengths = jaxlstm.pad_packed_sequence(packed)
    >>> padded.shape
    (5, 2, 3)
    """
    if not isinstance(sequence, PackedSequence):
        raise TypeError(f"sequence must be a PackedSequence, got {type(sequence).__name__}")
    longest = len(sequence.batch_sizes)
    if total_length is not None and total_length < longest:
        raise ValueError(f"total_length must be at least the longest sequence, {longest}; got {total_length}")
    padded, lengths = padded_rows(sequence, padding_value)
    if total_length is not None:
        extra = [(0, total_length - longest)] + [(0, 0)] * (padded.ndim - 1)
        padded = jnp.pad(padded, extra, constant_values=padding_value)
    padded, lengths = sequence.unsort_rows(padded, 1), sequence.unsort_rows(lengths, 0)
    return (jnp.moveaxis(padded, 0, 1) if batch_first else padded), lengths


def padded_rows(packed: PackedSequence, padding_value: float = 0.0) -> tuple[jax.Array, jax.Array]:
    """Return the padded batch (T, B, ...) and its lengths (B,), in sorted order."""
    _check_batch_sizes(packed)
    sizes = jnp.asarray(packed.batch_sizes, jnp.int32)
    rows = jnp.arange(packed.batch)
    lengths = jnp.sum(sizes[:, None] > rows[None, :], axis=0, dtype=jnp.int32)
    starts = jnp.cumsum(sizes) - sizes
    valid = valid_steps(lengths, sizes.shape[0])
    padded = packed.data[jnp.where(valid, starts[:, None] + rows[None, :], 0)]
    valid = valid.reshape(valid.shape + (1,) * (padded.ndim - 2))
    return jnp.where(valid, padded, jnp.asarray(padding_value, padded.dtype)), lengths


def _check_batch_sizes(packed: PackedSequence) -> None:
    """Raise a ValueError if ``batch_sizes`` is known and does not describe ``data``."""
    if isinstance(packed.batch_sizes, Tracer):
        return
    sizes = np.asarray(packed.batch_sizes)
    rows = packed.data.shape[0]
    if sizes.ndim != 1 or sizes.sum() != rows or np.any(np.diff(sizes) > 0) or np.any(sizes < 1):
        raise ValueError(
            "batch_sizes must be decreasing positive integers whose sum is the number of rows of data, "
            f"{rows}; got {sizes.tolist()}. Pack with jaxlstm.pack_padded_sequence"
        )


def packed_rows(padded: jax.Array, like: PackedSequence) -> PackedSequence:
    """Pack a batch (T, B, features) in sorted order, with the layout of ``like``."""
    sizes = jnp.asarray(like.batch_sizes, jnp.int32)
    ends = jnp.cumsum(sizes)
    position = jnp.arange(like.data.shape[0])
    time = jnp.searchsorted(ends, position, side="right")
    row = position - (ends - sizes)[time]
    return like._replace(data=padded[time, row])
