"""The public functions: ``lstm``, the counterpart of ``torch.nn.LSTM.forward``, and ``lstm_cell``."""

from collections.abc import Mapping
from typing import Any, TypeVar, overload

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.kernels import select_stack
from jaxlstm.layer import precision as precision_
from jaxlstm.layer.cell import LSTMState, cell_step, input_gates
from jaxlstm.layer.config import LayerConfig, LSTMConfig, require_config
from jaxlstm.layer.mesh_types import split_alike, varying_alike
from jaxlstm.layer.params import require_key
from jaxlstm.layer.precision import Precision, resolve
from jaxlstm.layer.ragged import PackedSequence, packed_rows, padded_rows, valid_steps
from jaxlstm.layer.stack import BetweenLayers, dropout
from jaxlstm.layer.validate import cell_arguments, lstm_arguments, require_backend, torch_keywords

Inputs = TypeVar("Inputs", jax.Array, PackedSequence)
State = TypeVar("State", bound=tuple[Any, ...])


@torch_keywords(hx="initial_state", input="inputs")
def lstm(
    params: Mapping[str, Any],
    inputs: Inputs | np.ndarray,
    initial_state: tuple[Any, Any] | None = None,
    *,
    config: LSTMConfig,
    seq_lengths: Any = None,
    dropout_key: jax.Array | None = None,
    precision: Precision = precision_.DEFAULT,
    backend: str = "auto",
) -> tuple[Inputs, LSTMState]:
    """Run a multi-layer LSTM over sequences: ``torch.nn.LSTM`` as a pure function.

    The shapes below use T time steps, B sequences, L layers, D directions, H = ``hidden_size`` and
    P = ``config.h_size`` (``proj_size``, or H without projection).

    Args:
      params: parameters under torch's names, with the shapes of :func:`jaxlstm.param_shapes`.
      inputs: (T, B, input_size); (B, T, input_size) with ``config.batch_first``; (T, input_size) for a
        single sequence; or a :class:`jaxlstm.PackedSequence`.
      initial_state: (h_0, c_0) of shapes (L*D, B, P) and (L*D, B, H), without B for a single sequence.
        Zeros if None.
      config: the LSTM. It is static under ``jax.jit``.
      seq_lengths: number of valid steps of each sequence, integers (B,) from 1 to T, in any order. Steps
        after the end of a sequence are ignored, and their outputs are zero. Under ``jax.jit`` the values
        cannot be checked: 0 leaves the row's state unchanged, and a value above T counts as T.
      dropout_key: a JAX random key, which turns on ``config.dropout`` between layers (training). No
        dropout if None (inference).
      precision: precision of the matrix products, see :mod:`jaxlstm.layer.precision`.
      backend: the implementation. "scan" is ``jax.lax.scan``, "native" the CPU kernel. "auto" takes the
        native kernel if it is installed, and otherwise the scan. See :mod:`jaxlstm.kernels`.

    Returns:
      ``(outputs, LSTMState(h_n, c_n))``. Outputs have the axes of the inputs and D*P features. The states
      have the shapes of ``initial_state``. All have the dtype of ``inputs``.

    Raises:
      TypeError, ValueError: an argument has the wrong type, shape or dtype.
      RuntimeError: the requested backend is not available.

    >>> config = jaxlstm.LSTMConfig(input_size=3, hidden_size=5)
    >>> params = jaxlstm.init_params(jax.random.key(0), config)
    >>> outputs, (h_n, c_n) = jaxlstm.lstm(params, jnp.ones((7, 2, 3)), config=config)
    >>> outputs.shape, h_n.shape
    ((7, 2, 5), (1, 2, 5))
    """
    outputs: Any  # of the type of the inputs, which a type checker cannot infer
    outputs, final = run_layers(
        params,
        inputs,
        initial_state,
        config=require_config(config),
        seq_lengths=seq_lengths,
        dropout_key=dropout_key,
        precision=precision,
        backend=backend,
    )
    return outputs, final


def run_layers(
    params: Mapping[str, Any],
    inputs: Any,
    initial_state: Any = None,
    *,
    config: LayerConfig,
    seq_lengths: Any = None,
    dropout_key: jax.Array | None = None,
    precision: Precision = precision_.DEFAULT,
    backend: str = "auto",
) -> tuple[Any, Any]:
    """Run an LSTM, GRU or RNN: :func:`lstm`, in which the state of a GRU or RNN is the array h."""
    require_backend(backend)
    options: dict[str, Any] = {
        "config": config,
        "dropout_key": dropout_key,
        # Resolved now, because JAX's default may differ by the time a kernel is compiled.
        "precision": resolve(precision),
        "backend": backend,
    }
    if isinstance(inputs, PackedSequence):
        return _run_packed(params, inputs, initial_state, seq_lengths, **options)
    params, x, state, lengths = lstm_arguments(params, inputs, initial_state, seq_lengths, config)
    batched = inputs.ndim == 3
    time_axis = 1 if batched and config.batch_first else 0
    x = jnp.moveaxis(x, time_axis, 0)
    outputs, final = _run_time_major(params, x, state, lengths, **options)
    outputs = jnp.moveaxis(outputs, 0, time_axis)
    if batched:
        return outputs, final
    return outputs[:, 0], jax.tree.map(lambda leaf: leaf[:, 0], final)


def _run_packed(
    params: Mapping[str, Any],
    packed: PackedSequence,
    initial_state: Any,
    seq_lengths: Any,
    *,
    config: LayerConfig,
    **options: Any,
) -> tuple[PackedSequence, Any]:
    """Run a packed batch. As in torch, states are in the caller's order of sequences, not the sorted one."""
    if seq_lengths is not None:
        raise ValueError("seq_lengths must be None with a PackedSequence, which has its own lengths")
    padded, lengths = padded_rows(packed)
    params, x, state, lengths = lstm_arguments(params, padded, initial_state, lengths, config, 0)
    state = jax.tree.map(lambda leaf: packed.sort_rows(leaf, axis=1), state)
    outputs, final = _run_time_major(params, x, state, lengths, config=config, **options)
    final = jax.tree.map(lambda leaf: packed.unsort_rows(leaf, axis=1), final)
    return packed_rows(outputs, packed), final


def _run_time_major(
    params: Mapping[str, Any],
    x: jax.Array,
    initial_state: Any,
    lengths: jax.Array | None,
    *,
    config: LayerConfig,
    dropout_key: jax.Array | None,
    precision: Precision,
    backend: str,
) -> tuple[jax.Array, Any]:
    """Run validated, batched, time-major arguments on a backend."""
    params, x, initial_state, lengths = split_alike((params, x, initial_state, lengths), (None, 1, 1, 0))
    initial_state = varying_alike(initial_state, (params, x, lengths))
    if lengths is not None:
        # Padding may contain NaN, and 0 * NaN in the backward pass is NaN.
        valid = valid_steps(lengths, x.shape[0])
        x = jnp.where(valid[:, :, None], x, jnp.zeros_like(x))
    stack = select_stack(backend, config, x)
    outputs, final = stack(
        params,
        x,
        initial_state,
        lengths,
        config=config,
        precision=precision,
        between_layers=_dropout_between_layers(dropout_key, config.dropout),
    )
    return outputs, final if isinstance(config, LSTMConfig) else final.h


def _dropout_between_layers(key: jax.Array | None, rate: float) -> BetweenLayers | None:
    """Return the dropout of training, with a separate mask for each layer; None for inference."""
    if key is None:
        return None
    require_key("dropout_key", key)
    return lambda layer, x: dropout(jax.random.fold_in(key, layer), x, rate)


@overload
def lstm_cell(
    params: Mapping[str, Any], x: Any, state: None = None, *, precision: Precision = ...
) -> LSTMState: ...
@overload
def lstm_cell(params: Mapping[str, Any], x: Any, state: State, *, precision: Precision = ...) -> State: ...
@torch_keywords(hx="state", input="x")
def lstm_cell(
    params: Mapping[str, Any], x: Any, state: Any = None, *, precision: Precision = precision_.DEFAULT
) -> Any:
    """Run one time step: ``torch.nn.LSTMCell`` as a pure function.

    Args:
      params: ``weight_ih`` (4H, input_size), ``weight_hh`` (4H, h_size), and optionally ``bias_ih`` and
        ``bias_hh`` (4H,). Gates are in the order i, f, g, o. A ``weight_hr`` (h_size, H) adds the
        projection of ``torch.nn.LSTM(proj_size=...)``.
      x: input, (batch, input_size) or (input_size,).
      state: (h, c), of shapes (batch, h_size) and (batch, hidden_size), without batch if ``x`` has none.
        Zeros if None.
      precision: precision of the matrix products, see :mod:`jaxlstm.layer.precision`.

    Returns:
      The next (h, c), with the shapes and dtype of ``state``. It has the type of ``state`` too, so any pair
      can be the carry of ``jax.lax.scan``; it is an :class:`jaxlstm.LSTMState` if ``state`` is None.

    Raises:
      TypeError, ValueError: an argument has the wrong type, shape or dtype.

    >>> params = jaxlstm.init_params(jax.random.key(0), jaxlstm.LSTMCellConfig(3, 5))
    >>> h, c = jaxlstm.lstm_cell(params, jnp.ones((2, 3)))
    >>> h.shape
    (2, 5)
    """
    params, x, initial_state = cell_arguments(params, x, state)
    new = cell_step(params, input_gates(params, x, precision=precision), initial_state, precision=precision)
    return new if state is None else jax.tree.unflatten(jax.tree.structure(state), new)
