"""Code shared by the NNX and Linen modules that does not depend on flax."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.layer.cell import LSTMState
from jaxlstm.layer.config import LayerConfig, LSTMCellConfig, LSTMConfig
from jaxlstm.layer.params import Params, check_params
from jaxlstm.layer.precision import as_float_array, require_dtype


def torch_arguments(config: Any) -> dict[str, Any]:
    """Return the arguments of ``torch.nn.LSTM`` held by a config or module."""
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(LSTMConfig)}


def layer_params(params: Mapping[str, Any], config: LSTMConfig) -> Mapping[str, Any]:
    """Return parameters under an LSTM's names: an LSTMCell's parameters get the suffix ``_l0``."""
    if isinstance(config, LSTMCellConfig):
        return {f"{name}_l0": value for name, value in params.items()}
    return params


def checked_params(params: Mapping[str, Any], config: LayerConfig) -> tuple[Params, np.dtype]:
    """Return parameters as JAX arrays, and their dtype, after a check of names, shapes and dtypes."""
    check_params(params, config)
    arrays = {name: as_float_array(name, value, copy=True) for name, value in params.items()}
    return arrays, jnp.result_type(*arrays.values())


def promote_dtypes(dtype: Any, params: Any, inputs: Any, state: Any) -> tuple[Any, Any, Any]:
    """Cast parameters, inputs and state to ``dtype``, or to their widest dtype if it is None.

    This is Flax's convention for ``dtype``. A float64 NumPy array is an error while JAX's 64-bit mode is
    off, and is not rounded.
    """
    arguments = {"params": params, "inputs": inputs, "initial_state": state}
    dtypes = [
        require_dtype(name, leaf.dtype)
        for name, tree in arguments.items()
        for leaf in jax.tree.leaves(tree)
        if _is_float(leaf)
    ]
    working = require_dtype("dtype", dtype) if dtype is not None else jnp.result_type(*dtypes)

    def cast(leaf: Any) -> Any:
        return jnp.asarray(leaf, working) if _is_float(leaf) else leaf

    params, inputs, state = (jax.tree.map(cast, tree) for tree in arguments.values())
    return params, inputs, state


def _is_float(leaf: Any) -> bool:
    if not hasattr(leaf, "dtype"):
        return False
    try:
        return bool(jnp.issubdtype(leaf.dtype, jnp.floating))
    except TypeError:  # A dtype of another library, for which require_dtype() raises a helpful error.
        return True


def applies_dropout(config: LayerConfig, deterministic: bool | None, *, fix: str) -> bool:
    """Return True if dropout applies to this call. Raise if ``deterministic`` is unset and dropout is on."""
    if config.dropout == 0.0 or config.num_layers == 1:
        return False
    if deterministic is None:
        raise ValueError(
            "deterministic must be True (inference) or False (training) because "
            f"dropout={config.dropout}, got None; {fix}"
        )
    return not deterministic


def layer_call(
    module: Any, params: Params, inputs: Any, initial_state: Any, seq_lengths: Any, key: Any
) -> dict[str, Any]:
    """Return the arguments of ``run_layers`` for a call of a module, with dropout if there is a key."""
    params, inputs, initial_state = promote_dtypes(module.dtype, params, inputs, initial_state)
    return {
        "params": params,
        "inputs": inputs,
        "initial_state": initial_state,
        "config": module.config,
        "seq_lengths": seq_lengths,
        "dropout_key": key,
        "precision": module.precision,
        "backend": module.backend,
    }


def call_cell(cell: Callable[..., Any], module: Any, params: Params, x: Any, state: Any) -> Any:
    """Call ``lstm_cell`` as ``cell(x, (h, c))``, or as Flax does if the first argument is a state."""
    flax_call = isinstance(x, (tuple, list))
    if flax_call:
        x, state = state, swap_carry(x)
    params, x, state = promote_dtypes(module.dtype, params, x, state)
    new = cell(params, x, state, precision=module.precision)
    return (swap_carry(new), new[0]) if flax_call else new


def swap_carry(pair: Any) -> Any:
    """Turn Flax's carry (c, h) into a state (h, c), and back; keep an :class:`LSTMState` as it is."""
    if isinstance(pair, LSTMState):
        return pair
    first, second = pair
    return jax.tree.unflatten(jax.tree.structure(pair), (second, first))
