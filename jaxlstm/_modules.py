"""What the NNX and the Linen modules share and flax has no part in."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxlstm.cell import LSTMState
from jaxlstm.config import LSTMConfig
from jaxlstm.precision import require_dtype


def promote(dtype: Any, params: Any, inputs: Any, state: Any) -> tuple[Any, Any, Any]:
    """All three in ``dtype``, or if it is None in the widest dtype that the inputs and params have.

    This is flax's convention for ``dtype``; the float64 of a NumPy input is refused, not rounded, while
    JAX's 64-bit mode is off.
    """
    named = {"params": params, "inputs": inputs, "initial_state": state}
    found = []
    for name, tree in named.items():
        floats = [leaf for leaf in jax.tree.leaves(tree) if _is_float(leaf)]
        found += [require_dtype(name, leaf.dtype) for leaf in floats]
    working = require_dtype("dtype", dtype) if dtype is not None else jnp.result_type(*found)

    def cast(leaf: Any) -> Any:
        return jnp.asarray(leaf, working) if _is_float(leaf) else leaf

    params, inputs, state = (jax.tree.map(cast, tree) for tree in named.values())
    return params, inputs, state


def _is_float(leaf: Any) -> bool:
    if not hasattr(leaf, "dtype"):
        return False
    try:
        return bool(jnp.issubdtype(leaf.dtype, jnp.floating))
    except TypeError:  # a dtype of another framework, which require_dtype() tells how to mend
        return True


def wants_dropout(config: LSTMConfig, deterministic: bool | None) -> bool:
    """Whether this call drops elements; raises if that was never said and would matter."""
    if config.dropout == 0.0 or config.num_layers == 1:
        return False
    if deterministic is None:
        raise ValueError(
            f"deterministic must be True (inference) or False (training) since dropout={config.dropout}; "
            "pass it to the call or to the constructor"
        )
    return not deterministic


def split_cell_call(first: Any, second: Any) -> tuple[Any, Any, bool]:
    """Tell torch's ``cell(x, (h, c))`` from Flax's ``cell((c, h), x)`` by which of the two is the state.

    Returns:
      x, the state in our order, and whether the call was Flax's. An :class:`LSTMState` names its fields,
      so that it is never read in the wrong order.
    """
    if isinstance(first, (tuple, list)):
        if not isinstance(first, LSTMState):
            c, h = first
            first = LSTMState(h, c)
        return second, first, True
    return first, second, False
