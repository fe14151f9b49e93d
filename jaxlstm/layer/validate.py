"""Validation of the arguments of ``lstm`` and ``lstm_cell``.

The checks are torch's. They read shapes and dtypes only, so a compiled function does not pay for them.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.layer.cell import LSTMState
from jaxlstm.layer.config import LayerConfig, LSTMCellConfig, LSTMConfig
from jaxlstm.layer.params import Params, check_params, require_mapping
from jaxlstm.layer.precision import as_float_array, require_array
from jaxlstm.layer.ragged import as_lengths

BACKENDS = ("auto", "scan", "native")

P = ParamSpec("P")
R = TypeVar("R")


def torch_keywords(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make the error for a keyword of torch name the argument that replaces it, as ``hx="initial_state"``."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for torch_name in names.keys() & kwargs.keys():
                is_method = function.__name__ == "__call__"
                called = f"{type(args[0]).__name__}.__call__" if is_method else function.__name__
                raise TypeError(
                    f"{called} got torch's keyword {torch_name}; pass it as {names[torch_name]} instead"
                )
            return function(*args, **kwargs)

        return call

    return decorate


def require_backend(backend: str) -> None:
    """Raise a ValueError if ``backend`` is not the name of a backend."""
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {BACKENDS}, got {backend!r}")


def lstm_arguments(
    params: Mapping[str, Any],
    inputs: Any,
    initial_state: Any,
    seq_lengths: Any,
    config: LayerConfig,
    time_axis: int | None = None,
) -> tuple[Params, jax.Array, Any, jax.Array | None]:
    """Check the arguments of ``lstm``, or of a GRU or RNN, and return them as JAX arrays with a batch axis.

    Args:
      time_axis: the time axis of ``inputs``; taken from ``config.batch_first`` if None.

    Returns:
      Parameters, inputs, initial state (zeros if it was None; without c for a GRU or RNN) and lengths (None
      if they were None). Inputs and states without a batch axis get one of size 1.
    """
    _require_order("lstm(params, inputs, config=config)", params, inputs)
    check_params(params, config)
    x = _inputs(inputs, config)
    params = _params_of_dtype(params, x.dtype)
    unbatched = x.ndim == 2
    if time_axis is None:
        time_axis = 1 if config.batch_first and not unbatched else 0
    if x.shape[time_axis] == 0:
        raise ValueError(f"inputs must have at least one time step, got shape {x.shape}")
    state_shapes: Sequence[tuple[int, ...]] = config.state_shapes(1 if unbatched else x.shape[1 - time_axis])
    if unbatched:
        x = x[:, None]
        state_shapes = [shape[::2] for shape in state_shapes]
        if seq_lengths is not None and np.ndim(seq_lengths) == 0:
            seq_lengths = jnp.asarray(seq_lengths)[None]
    if isinstance(config, LSTMConfig):
        state: Any = state_argument(initial_state, state_shapes, x.dtype)
    else:
        state = LSTMState(_h_argument(initial_state, state_shapes[0], x.dtype), None)  # type: ignore[arg-type]
    if unbatched:
        state = jax.tree.map(lambda leaf: leaf[:, None], state)
    batch = x.shape[1 - time_axis]
    lengths = None if seq_lengths is None else as_lengths(seq_lengths, batch, x.shape[time_axis])
    return params, x, state, lengths


def cell_arguments(
    params: Mapping[str, Any], x: Any, state: Any, config: LayerConfig | None = None
) -> tuple[Params, jax.Array, Any]:
    """Return the arguments of a cell, by default of an LSTM, as JAX arrays; zeros if the state is None."""
    _require_order("lstm_cell(params, x)", params, x)
    require_mapping(params)
    config = config or _cell_config(params)
    x = as_float_array("x", x)
    if x.ndim not in (1, 2) or x.shape[-1] != config.input_size:
        raise ValueError(
            f"x must have shape (batch, {config.input_size}) or ({config.input_size},), got {x.shape}; its "
            f"last axis must match the {config.input_size} columns of weight_ih"
        )
    params = _params_of_dtype(params, x.dtype)
    batch = x.shape[:-1]
    shapes = [(*batch, config.h_size), (*batch, config.hidden_size)]
    if not isinstance(config, LSTMConfig):
        return params, x, _h_argument(state, shapes[0], x.dtype, name="h")
    return params, x, state_argument(state, shapes, x.dtype, names=("h", "c"))


def _require_order(call: str, params: Any, inputs: Any) -> None:
    """Raise a TypeError if parameters and inputs are swapped."""
    if isinstance(inputs, Mapping) and not isinstance(params, Mapping):
        raise TypeError(f"params and inputs are swapped: the parameters come first, as in {call}")


def _cell_config(params: Mapping[str, Any]) -> LSTMConfig:
    """Return the config that the shapes of a cell's weights imply, after a check of all of them."""
    for name in ("weight_ih", "weight_hh"):
        if name not in params or np.ndim(params[name]) != 2:
            raise ValueError(
                f"params must contain the matrix {name}, without a suffix; got {sorted(params)}. To run "
                "one layer of an LSTM, remove the suffix of its parameters, such as '_l0'"
            )
    rows, input_size = np.shape(params["weight_ih"])
    hidden_size = rows // 4
    if "weight_hr" not in params:
        config = LSTMCellConfig(input_size, hidden_size, bias="bias_ih" in params)
        check_params(params, config)
        return config
    # torch has no projected cell, but a layer of a projected LSTM is one.
    proj_size = np.shape(params["weight_hr"])[0]
    config = LSTMConfig(input_size, hidden_size, bias="bias_ih" in params, proj_size=proj_size)
    check_params({f"{name}_l0": leaf for name, leaf in params.items()}, config)
    return config


def _inputs(inputs: Any, config: LayerConfig) -> jax.Array:
    x = as_float_array("inputs", inputs)
    if x.ndim not in (2, 3):
        axes = "(batch, time, input_size)" if config.batch_first else "(time, batch, input_size)"
        raise ValueError(
            f"inputs must have 3 axes {axes}, or 2 axes (time, input_size) for a single sequence; got "
            f"shape {x.shape}"
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
                f"inputs and params must have the same dtype, got inputs {dtype} and {name} {leaf.dtype}; "
                "cast one of them with .astype"
            )
    return arrays


def state_argument(
    state: tuple[Any, Any] | None,
    shapes: Sequence[tuple[int, ...]],
    dtype: np.dtype,
    *,
    names: tuple[str, str] = ("h_0", "c_0"),
) -> LSTMState:
    """Return a state as JAX arrays after a check of shapes and dtypes, or zeros if it is None."""
    if state is None:
        return LSTMState(*(jnp.zeros(shape, dtype) for shape in shapes))
    pair = check_state(state, shapes, names=names)
    return LSTMState(*(_of_dtype(name, leaf, dtype) for name, leaf in zip(names, pair, strict=True)))


def _h_argument(h: Any, shape: tuple[int, ...], dtype: np.dtype, name: str = "h_0") -> jax.Array:
    """Return the state of a GRU or RNN after a check of shape and dtype, or zeros if it is None."""
    if h is None:
        return jnp.zeros(shape, dtype)
    if isinstance(h, tuple | list):
        c = name.replace("h", "c")
        raise TypeError(
            f"the state of a GRU or RNN is the array {name}, without {c}; got a {type(h).__name__}"
        )
    _require_shape(name, h, shape)
    return _of_dtype(name, h, dtype)


def _of_dtype(name: str, leaf: Any, dtype: np.dtype) -> jax.Array:
    array = as_float_array(name, leaf)
    if array.dtype != dtype:
        raise TypeError(f"{name} must have the dtype of the inputs, {dtype}; got {array.dtype}")
    return array


def _require_shape(name: str, leaf: Any, shape: tuple[int, ...]) -> None:
    require_array(name, leaf)
    if tuple(leaf.shape) != tuple(shape):
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(leaf.shape)}")


def check_state(
    state: Any, shapes: Sequence[tuple[int, ...]], *, names: tuple[str, str] = ("h_0", "c_0")
) -> tuple[Any, Any]:
    """Check that a state is a pair of arrays of the given shapes, and return the pair unchanged.

    The check starts no JAX computation. ``names`` has the names of h and c for error messages.
    """
    if not isinstance(state, (tuple, list)) or len(state) != 2:
        size = f" of length {len(state)}" if isinstance(state, (tuple, list)) else ""
        raise TypeError(
            f"the state must be a pair ({', '.join(names)}), as in torch; got {type(state).__name__}{size}"
        )
    for name, leaf, shape in zip(names, state, shapes, strict=True):
        _require_shape(name, leaf, shape)
    return state[0], state[1]
