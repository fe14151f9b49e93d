r"""Training on sequences that are too long to remember: blocks of time, and truncated backpropagation.

The backward pass of an LSTM needs what every step computed: :math:`O(T)` memory. Here only the state
before each block of :math:`b` steps is kept, and a block is run again when its gradient is due:
:math:`O(T / b + b)`, which :math:`b = \sqrt T` makes :math:`O(\sqrt T)`, for one more forward pass. The
gradients are those of the whole. (Chen et al. 2016, https://arxiv.org/abs/1604.06174, along time.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxlstm import precision as precision_
from jaxlstm.cell import LSTMState
from jaxlstm.config import LSTMConfig
from jaxlstm.functional import lstm
from jaxlstm.precision import Precision

Readout = Callable[[jax.Array, Any], Any]
"""(outputs of a block, targets of it) -> a tree of arrays, which is summed over the blocks."""


def lstm_in_blocks(
    params: Mapping[str, Any],
    inputs: jax.Array,
    initial_state: tuple[Any, Any] | None = None,
    *,
    config: LSTMConfig,
    block: int | None = None,
    readout: Readout | None = None,
    targets: Any = None,
    seq_lengths: Any = None,
    precision: Precision = precision_.DEFAULT,
    backend: str = "auto",
) -> tuple[Any, LSTMState]:
    """``jaxlstm.lstm`` whose gradient takes O(sqrt(T)) memory beyond inputs and outputs.

    Args:
      params, initial_state, precision, backend: as for ``jaxlstm.lstm``.
      inputs: (T, B, input_size), or (B, T, input_size) with ``config.batch_first``.
      config: a one-directional LSTM; its dropout plays no part.
      block: steps to a block; about sqrt(T) if None.
      readout: called on the outputs of each block, with the axes of ``inputs``, and on its part of
        ``targets``; what it returns is summed. The outputs of all steps are then never there at once.
      targets: a tree of arrays with the first two axes of ``inputs``, cut along time for ``readout``.
      seq_lengths: integers (B,), as for ``jaxlstm.lstm``.

    Returns:
      ``(outputs, LSTMState(h_n, c_n))``, with the sum of the readouts in place of outputs if there is one.

    Raises:
      TypeError, ValueError: an argument does not fit, or the LSTM is bidirectional.
    """
    if config.bidirectional:
        raise ValueError(
            "lstm_in_blocks needs a one-directional LSTM: the reverse direction runs the blocks in the "
            "other order. Use jaxlstm.lstm, under jax.checkpoint if memory is short"
        )
    if jnp.ndim(inputs) != 3:
        raise ValueError(f"inputs must have 3 axes, got shape {jnp.shape(inputs)}")
    axis = 1 if config.batch_first else 0
    time, batch = inputs.shape[axis], inputs.shape[1 - axis]
    if time == 0:
        raise ValueError(f"inputs must have at least one time step, got shape {inputs.shape}")
    size = min(time, _block(block, time))
    if initial_state is None:
        initial_state = tuple(
            jnp.zeros(shape, inputs.dtype) for shape in config.state_shapes(batch)
        )  # type: ignore[assignment]
    lengths = None if seq_lengths is None else jnp.asarray(seq_lengths, jnp.int32)

    @jax.checkpoint
    def run(state: Any, x: jax.Array, target: Any, start: Any) -> tuple[LSTMState, Any]:
        left = None if lengths is None else jnp.clip(lengths - start, 0, x.shape[axis])
        options: Any = {"config": config, "precision": precision, "backend": backend}
        outputs, state = lstm(params, x, state, seq_lengths=left, **options)
        return state, outputs if readout is None else readout(outputs, target)

    def step(carry: tuple, xs: tuple) -> tuple[tuple, Any]:
        state, total = carry
        state, result = run(state, *xs)
        if readout is None:
            return (state, total), result
        return (state, jax.tree.map(jnp.add, total, result)), None

    whole = time // size * size
    blocks = _cut((inputs, targets), axis, 0, whole, size)
    starts = jnp.arange(0, whole, size)
    state, total = LSTMState(*initial_state), None  # type: ignore[misc]
    if readout is not None:
        one = jax.eval_shape(lambda xs: run(state, *xs)[1], _first((*blocks, starts)))
        total = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), one)
    (state, total), outputs = lax.scan(step, (state, total), (*blocks, starts))
    parts = [] if readout is not None else [_joined(outputs, axis)]
    if (
        whole < time
    ):  # what is left is a block of its own: padding it would cost a mask in each step
        rest = _first(_cut((inputs, targets), axis, whole, time, time - whole))
        (state, total), last = step((state, total), (*rest, whole))
        parts.append(last)
    if readout is not None:
        return total, state
    return jnp.concatenate(parts, axis) if len(parts) > 1 else parts[0], state


def truncated_step(
    loss: Callable[[jax.Array, Any], jax.Array],
    params: Mapping[str, Any],
    state: tuple[Any, Any],
    inputs: jax.Array,
    targets: Any,
    **options: Any,
) -> tuple[jax.Array, dict[str, jax.Array], LSTMState]:
    """One window of truncated backpropagation through time: the state goes on, the gradient does not.

    ::

        step = jax.jit(functools.partial(truncated_step, loss, config=config))
        for inputs, targets in windows:                # of one length, along time
            value, gradients, state = step(params, state, inputs, targets)
            params = ...                               # the optimizer's

    Args:
      loss: (outputs, targets) -> a scalar.
      params: as for ``jaxlstm.lstm``.
      state: (h, c) from the window before, zeros at first (:meth:`LSTMConfig.state_shapes`).
      inputs: the next steps, as for ``jaxlstm.lstm``.
      targets: handed to ``loss``.
      options: ``config`` and what else ``jaxlstm.lstm`` takes.

    Returns:
      The loss, its gradients by ``params`` within the window, and the state after it.
    """

    def run(params: Mapping[str, Any]) -> tuple[jax.Array, LSTMState]:
        outputs, after = lstm(params, inputs, state, **options)
        return loss(outputs, targets), after

    (value, after), gradients = jax.value_and_grad(run, has_aux=True)(dict(params))
    return value, gradients, after


def _block(block: int | None, time: int) -> int:
    if block is None:
        return max(1, round(math.sqrt(time)))
    if isinstance(block, bool) or not isinstance(block, int) or block < 1:
        raise ValueError(f"block must be an int of at least 1, or None; got {block!r}")
    return block


def _cut(tree: Any, axis: int, start: int, stop: int, size: int) -> Any:
    """Each leaf's steps from start to stop as (blocks, ...), the other axes where they were."""

    def cut(leaf: jax.Array) -> jax.Array:
        leaf = lax.slice_in_dim(leaf, start, stop, axis=axis)
        shape = leaf.shape
        leaf = leaf.reshape(*shape[:axis], (stop - start) // size, size, *shape[axis + 1 :])
        return jnp.moveaxis(leaf, axis, 0)

    return jax.tree.map(cut, tree)


def _joined(blocks: jax.Array, axis: int) -> jax.Array:
    """The inverse of :func:`_cut`."""
    blocks = jnp.moveaxis(blocks, 0, axis)
    shape = blocks.shape
    return blocks.reshape(*shape[:axis], -1, *shape[axis + 2 :])


def _first(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], tree)
