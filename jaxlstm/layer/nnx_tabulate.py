"""A workaround for ``nnx.tabulate``, which in Flax 0.12 cannot show a named tuple inside a tuple."""

from typing import Any

import jax

from jaxlstm.layer.cell import LSTMState


class _IndexedState(LSTMState):
    """A state whose leaves have the tree paths [0] and [1], as in a plain tuple."""


jax.tree_util.register_pytree_with_keys(
    _IndexedState,
    lambda state: (tuple((jax.tree_util.SequenceKey(k), leaf) for k, leaf in enumerate(state)), None),
    lambda _, leaves: _IndexedState(*leaves),
)


def is_tabulated(module: Any) -> bool:
    """Return True if ``nnx.tabulate`` is calling the module. It marks the modules of its copy of a model."""
    return hasattr(module, "_nnx_tabulate_id")


def indexed(state: Any) -> Any:
    """Return a state in a form that ``nnx.tabulate`` can show."""
    return _IndexedState(*state) if isinstance(state, LSTMState) else state
