"""Packed sequences as padded batches with lengths: the operators of ``jaxlstm_converters.pt2.packed``.

Under ``jit`` the lengths are unknown. A batch then stays as long as its padding, of which
:mod:`jaxlstm.programs.sizes.prefix` knows how much torch cuts.
"""

import operator
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxlstm.layer.ragged import check_lengths, valid_steps
from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.operators.recurrent import SEQUENCE_LAYERS, drops_elements, run_layer
from jaxlstm.programs.operators.registry import Options, register_operator


@register_operator("jaxlstm.pack_padded.default")
def pack_padded(input: Array, lengths: Array, batch_first: bool) -> Array:
    """Check the lengths, and cut the padding after the longest sequence."""
    axis = 1 if batch_first else 0
    known = _known_lengths(lengths, input.shape[1 - axis], input.shape[axis])
    longest = operator.index((lengths if known is None else known)[0])
    return jax.lax.slice_in_dim(input, 0, longest, axis=axis)


def _known_lengths(lengths: Array, batch: int, steps: int) -> np.ndarray | None:
    """Return lengths after torch's checks, or None if they are unknown."""
    try:
        check_lengths(lengths, batch, steps, name="lengths")
    except ValueError as error:
        raise ProgramError("guard", str(error)) from error
    if isinstance(lengths, Tracer):
        return None
    values = np.asarray(lengths)
    if np.any(np.diff(values) > 0):
        raise ProgramError(
            "guard",
            f"lengths must be decreasing, got {values.tolist()}; pack with enforce_sorted=False, and export "
            "again",
        )
    return values


@register_operator("jaxlstm.pad_packed.default")
def pad_packed(
    data: Array, lengths: Array, batch_first: bool, padding_value: float, total_length: int | None = None
) -> Array:
    """Set the steps after the end of each sequence, and the number of steps if ``total_length`` is given."""
    axis = 1 if batch_first else 0
    steps = data.shape[axis] if total_length is None else operator.index(total_length)
    _known_lengths(lengths, data.shape[1 - axis], steps)
    missing = steps - data.shape[axis]
    padding = [(0, missing if place == axis else 0, 0) for place in range(data.ndim)]
    data = jax.lax.pad(data, jnp.zeros((), data.dtype), padding)
    valid = valid_steps(lengths, steps)
    valid = (valid.T if batch_first else valid).reshape(*data.shape[:2], *(1,) * (data.ndim - 2))
    return jnp.where(valid, data, jnp.asarray(padding_value, data.dtype))


@register_operator("aten.pad_sequence.default")
def pad_sequence(
    sequences: Sequence[Array],
    batch_first: bool = False,
    padding_value: float = 0.0,
    padding_side: str = "right",
) -> Array:
    """Stack sequences of several lengths, padded to the longest."""
    longest = max(sequence.shape[0] for sequence in sequences)
    padded = []
    for sequence in sequences:
        missing = longest - sequence.shape[0]
        edges = (0, missing, 0) if padding_side == "right" else (missing, 0, 0)
        value = jnp.asarray(padding_value, sequence.dtype)
        padded.append(jax.lax.pad(sequence, value, [edges, *[(0, 0, 0)] * (sequence.ndim - 1)]))
    return jnp.stack(padded, 0 if batch_first else 1)


def _packed_layer(
    op: str,
    input: Array,
    lengths: Array,
    hx: Sequence[Array],
    params: Sequence[Array],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
    *,
    options: Options,
) -> tuple[Array, ...]:
    """Run a recurrent layer over sequences that end after their lengths. Returns outputs and states."""
    settings = (has_biases, num_layers, dropout, train, bidirectional, batch_first)
    options = replace(options, seq_lengths=lengths)
    return run_layer(op, input, hx if len(hx) > 1 else hx[0], params, *settings, options=options)


for _op in SEQUENCE_LAYERS:
    _name = _op.removeprefix("aten.").removesuffix(".input")
    _register = register_operator(f"jaxlstm.packed_{_name}.default", in_training=drops_elements)
    _register(partial(_packed_layer, _op))
