"""Training on long sequences: gradients in blocks of time, and truncated backpropagation.

The backward pass of an LSTM needs the results of every step, so its memory grows with the number of steps T.
:func:`lstm_in_blocks` stores only the state before each block of b steps, and runs a block again to compute
its gradient. Memory grows as T / b + b, which is 2 sqrt(T) for b = sqrt(T), at the cost of one more forward
pass. The gradients are exact. This is gradient checkpointing along time, see Chen et al. (2016),
https://arxiv.org/abs/1604.06174.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxlstm.functional import lstm
from jaxlstm.layer import precision as precision_
from jaxlstm.layer.cell import LSTMState
from jaxlstm.layer.config import LSTMConfig
from jaxlstm.layer.precision import Precision, as_float_array
from jaxlstm.layer.ragged import as_lengths

Readout = Callable[[jax.Array, Any], Any]
"""``(outputs, targets)`` of a block to a tree of arrays, which is summed over the blocks."""


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
    """Run an LSTM whose gradient needs O(sqrt(T)) memory in addition to inputs and outputs.

    Args:
      params, initial_state, seq_lengths, precision, backend: as for :func:`jaxlstm.lstm`.
      inputs: (T, B, input_size), or (B, T, input_size) with ``config.batch_first``.
      config: the LSTM, with one direction. Dropout is not applied.
      block: number of steps of a block; about sqrt(T) if None.
      readout: a function of the outputs and the targets of each block, such as a loss. Its results are
        summed, and the outputs of all steps are never stored at the same time.
      targets: a tree of arrays with the first two axes of ``inputs``, for ``readout``.

    Returns:
      ``(outputs, LSTMState(h_n, c_n))``. With ``readout``, the sum of its results replaces the outputs.

    Raises:
      TypeError, ValueError: an argument has the wrong type, shape or dtype, or the LSTM is bidirectional.

    >>> config = jaxlstm.LSTMConfig(3, 5)
    >>> params = jaxlstm.init_params(jax.random.key(0), config)
    >>> outputs, (h_n, c_n) = jaxlstm.training.lstm_in_blocks(params, jnp.ones((9, 2, 3)), config=config)
    >>> outputs.shape
    (9, 2, 5)
    """
    if config.bidirectional:
        raise ValueError(
            "lstm_in_blocks requires a unidirectional LSTM, got bidirectional=True: the reverse direction "
            "runs the blocks in the opposite order. Use jaxlstm.lstm, under jax.checkpoint to save memory"
        )
    inputs = as_float_array("inputs", inputs)
    if inputs.ndim != 3:
        raise ValueError(f"inputs must have 3 axes, got shape {inputs.shape}")
    for leaf in jax.tree.leaves(targets):
        if jnp.shape(leaf)[:2] != inputs.shape[:2]:
            raise ValueError(
                f"targets must have the first two axes of inputs, {inputs.shape[:2]}; got shape "
                f"{jnp.shape(leaf)}"
            )
    axis = 1 if config.batch_first else 0
    time, batch = inputs.shape[axis], inputs.shape[1 - axis]
    if time == 0:
        raise ValueError(f"inputs must have at least one time step, got shape {inputs.shape}")
    if initial_state is None:
        h_shape, c_shape = config.state_shapes(batch)
        initial_state = jnp.zeros(h_shape, inputs.dtype), jnp.zeros(c_shape, inputs.dtype)
    lengths = None if seq_lengths is None else as_lengths(seq_lengths, batch, time)

    @jax.checkpoint
    def run_block(state: Any, x: jax.Array, target: Any, start: Any) -> tuple[LSTMState, Any]:
        remaining = None if lengths is None else jnp.clip(lengths - start, 0, x.shape[axis])
        options: Any = {"config": config, "precision": precision, "backend": backend}
        outputs, state = lstm(params, x, state, seq_lengths=remaining, **options)
        return state, outputs if readout is None else readout(outputs, target)

    def step(carry: tuple, block_arguments: tuple) -> tuple[tuple, Any]:
        state, total = carry
        state, result = run_block(state, *block_arguments)
        if readout is None:
            return (state, total), result
        return (state, jax.tree.map(jnp.add, total, result)), None

    size = _block_size(block, time)
    full_steps = time // size * size
    blocks = (*_split((inputs, targets), axis, 0, full_steps, size), jnp.arange(0, full_steps, size))
    state, total = LSTMState(*initial_state), None
    if readout is not None:
        result = jax.eval_shape(lambda arguments: run_block(state, *arguments)[1], _first(blocks))
        total = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), result)
    (state, total), outputs = lax.scan(step, (state, total), blocks)
    parts = [] if readout is not None else [_join(outputs, axis)]
    if full_steps < time:
        # The remaining steps are a shorter block. Padding them would need a mask in every step.
        last_block = _first(_split((inputs, targets), axis, full_steps, time, time - full_steps))
        (state, total), last = step((state, total), (*last_block, full_steps))
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
    """Run one window of truncated backpropagation through time.

    The state continues into the next window, and the gradient does not.

    ::

        step = jax.jit(functools.partial(truncated_step, loss, config=config))
        for inputs, targets in windows:
            value, gradients, state = step(params, state, inputs, targets)
            params = ...  # the optimizer's update

    Args:
      loss: ``(outputs, targets)`` to a scalar.
      params: parameters, as for :func:`jaxlstm.lstm`.
      state: (h, c) after the previous window; zeros of ``config.state_shapes(batch)`` for the first.
      inputs: inputs of the window, as for :func:`jaxlstm.lstm`.
      targets: passed to ``loss``.
      **options: ``config`` and other keywords of :func:`jaxlstm.lstm`.

    Returns:
      The loss, its gradient with respect to ``params`` within the window, and the state after the window.
    """

    def run(params: Mapping[str, Any]) -> tuple[jax.Array, LSTMState]:
        outputs, final = lstm(params, inputs, state, **options)
        return loss(outputs, targets), final

    (value, final), gradients = jax.value_and_grad(run, has_aux=True)(dict(params))
    return value, gradients, final


def _block_size(block: int | None, time: int) -> int:
    if block is None:
        return max(1, round(math.sqrt(time)))
    if isinstance(block, bool) or not isinstance(block, int) or block < 1:
        raise ValueError(f"block must be an int of at least 1, or None; got {block!r}")
    return min(block, time)


def _split(tree: Any, axis: int, start: int, stop: int, size: int) -> Any:
    """Split steps start to stop of each leaf into blocks, along a new first axis."""

    def split(leaf: jax.Array) -> jax.Array:
        leaf = lax.slice_in_dim(leaf, start, stop, axis=axis)
        shape = leaf.shape
        leaf = leaf.reshape(*shape[:axis], (stop - start) // size, size, *shape[axis + 1 :])
        return jnp.moveaxis(leaf, axis, 0)

    return jax.tree.map(split, tree)


def _join(blocks: jax.Array, axis: int) -> jax.Array:
    """Join the blocks of :func:`_split`."""
    blocks = jnp.moveaxis(blocks, 0, axis)
    shape = blocks.shape
    return blocks.reshape(*shape[:axis], -1, *shape[axis + 2 :])


def _first(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], tree)
