"""What ``lstm`` and ``lstm_cell`` accept: torch's checks, with messages that say how to mend it.

Everything here reads shapes and dtypes, so it costs nothing once a function is compiled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.cell import LSTMState
from jaxlstm.config import LSTMCellConfig, LSTMConfig
from jaxlstm.lengths import as_lengths
from jaxlstm.params import Params, check_params
from jaxlstm.precision import as_float_array

BACKENDS = ("auto", "scan", "native", "pallas", "cudnn")


def require_backend(backend: str) -> None:
    """Raise if there is no such way to run the recurrence."""
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {BACKENDS}, got {backend!r}")


def lstm_arguments(
    params: Mapping[str, Any],
    inputs: Any,
    initial_state: tuple[Any, Any] | None,
    seq_lengths: Any,
    config: LSTMConfig,
    time_axis: int | None = None,
) -> tuple[Params, jax.Array, LSTMState, jax.Array | None]:
    """The arguments of ``lstm``, checked, with a batch axis (of one, if they came without).

    Args:
      time_axis: where time is in ``inputs``; told by ``config.batch_first`` if None.
    """
    check_params(params, config)
    x = _inputs(inputs, config)
    params = _params_of_dtype(params, x.dtype)
    unbatched = x.ndim == 2
    if time_axis is None:
        time_axis = 1 if config.batch_first and not unbatched else 0
    if x.shape[time_axis] == 0:
        raise ValueError(f"inputs must have at least one time step, got shape {x.shape}")
    state_shapes = config.state_shapes(1 if unbatched else x.shape[1 - time_axis])
    if unbatched:
        x = x[:, None]
        state_shapes = [shape[::2] for shape in state_shapes]
        if seq_lengths is not None and np.ndim(seq_lengths) == 0:
            seq_lengths = jnp.asarray(seq_lengths)[None]
    state = state_argument(initial_state, state_shapes, x.dtype)
    if unbatched:
        state = LSTMState(state.h[:, None], state.c[:, None])
    batch = x.shape[1 - time_axis]
    lengths = None if seq_lengths is None else as_lengths(seq_lengths, batch, x.shape[time_axis])
    return params, x, state, lengths


def cell_arguments(
    params: Mapping[str, Any], x: Any, state: tuple[Any, Any] | None
) -> tuple[Params, jax.Array, LSTMState]:
    """The arguments of ``lstm_cell``, checked; the state is zeros if it was None."""
    config = _cell_config(params)
    x = as_float_array("x", x)
    if x.ndim not in (1, 2) or x.shape[-1] != config.input_size:
        raise ValueError(
            f"x must have shape (batch, {config.input_size}) or ({config.input_size},), "
            f"got {x.shape}; its last axis is the {config.input_size} columns of weight_ih"
        )
    params = _params_of_dtype(params, x.dtype)
    batch = x.shape[:-1]
    shapes = [(*batch, config.h_size), (*batch, config.hidden_size)]
    return params, x, state_argument(state, shapes, x.dtype, names=("h", "c"))


def _cell_config(params: Mapping[str, Any]) -> LSTMConfig:
    """The config that a cell's weights have, after a check of their names and shapes."""
    for name in ("weight_ih", "weight_hh"):
        if name not in params or np.ndim(params[name]) != 2:
            raise ValueError(
                f"params must hold {name}, a matrix, without suffix; got {sorted(params)}. Those of one "
                "layer of an LSTM are params[name + '_l0'], and so on"
            )
    input_size, hidden_size = (
        np.shape(params["weight_ih"])[1],
        np.shape(params["weight_ih"])[0] // 4,
    )
    if "weight_hr" in params:  # torch has no projected cell, but a layer of an LSTM is one
        proj_size = np.shape(params["weight_hr"])[0]
        config = LSTMConfig(input_size, hidden_size, bias="bias_ih" in params, proj_size=proj_size)
        check_params({f"{name}_l0": leaf for name, leaf in params.items()}, config)
    else:
        config = LSTMCellConfig(input_size, hidden_size, bias="bias_ih" in params)
        check_params(params, config)
    return config


def _inputs(inputs: Any, config: LSTMConfig) -> jax.Array:
    x = as_float_array("inputs", inputs)
    if x.ndim not in (2, 3):
        axes = "(batch, time, input_size)" if config.batch_first else "(time, batch, input_size)"
        raise ValueError(
            f"inputs must have 3 axes {axes}, or 2 for one sequence alone; got shape {x.shape}"
        )
    if x.shape[-1] != config.input_size:
        raise ValueError(
            f"the last axis of inputs must be input_size, {config.input_size}; got shape {x.shape}"
        )
    return x


def _params_of_dtype(params: Mapping[str, Any], dtype: np.dtype) -> Params:
    arrays = {name: as_float_array(name, leaf) for name, leaf in params.items()}
    for name, leaf in arrays.items():
        if leaf.dtype != dtype:
            raise TypeError(
                f"inputs and params must have one dtype, got inputs {dtype} and {name} {leaf.dtype}; "
                "cast one of them with .astype"
            )
    return arrays


def state_argument(
    state: tuple[Any, Any] | None,
    shapes: Any,
    dtype: np.dtype,
    names: tuple[str, str] = ("h_0", "c_0"),
) -> LSTMState:
    """The state checked against ``shapes`` of h and c, or zeros."""
    if state is None:
        return LSTMState(*(jnp.zeros(shape, dtype) for shape in shapes))
    if not isinstance(state, (tuple, list)) or len(state) != 2:
        raise TypeError(
            f"the state must be a pair ({', '.join(names)}), as in torch; got {type(state).__name__}"
            + (f" of {len(state)}" if isinstance(state, (tuple, list)) else "")
        )
    arrays = [as_float_array(name, leaf) for name, leaf in zip(names, state, strict=True)]
    for name, leaf, shape in zip(names, arrays, shapes, strict=True):
        if leaf.shape != tuple(shape):
            raise ValueError(f"{name} must have shape {tuple(shape)}, got {leaf.shape}")
        if leaf.dtype != dtype:
            raise TypeError(f"{name} must have the dtype of the inputs, {dtype}; got {leaf.dtype}")
    return LSTMState(*arrays)
