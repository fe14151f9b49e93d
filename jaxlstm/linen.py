"""``torch.nn.LSTM`` and ``torch.nn.LSTMCell`` as Flax Linen modules.

The fields are torch's arguments, in torch's order, and then Flax's keywords. The ``params`` collection
has torch's names, so that ``{"params": params}`` of ``jaxlstm.load`` is what ``apply`` takes.
"""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Any, overload

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm import _modules
from jaxlstm import precision as precision_
from jaxlstm.cell import LSTMState
from jaxlstm.config import LSTMCellConfig, LSTMConfig
from jaxlstm.functional import Inputs, lstm, lstm_cell
from jaxlstm.params import Params, init_bound, param_shapes
from jaxlstm.precision import Precision


def _declare_params(module: nn.Module, config: LSTMConfig, dtype: Any) -> Params:
    """Each parameter under its torch name, from torch's U(-1/sqrt(H), 1/sqrt(H))."""
    bound = init_bound(config)
    dtype = precision_.require_dtype("param_dtype", dtype)

    def uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return {
        name: module.param(name, uniform, shape) for name, shape in param_shapes(config).items()
    }


class LSTM(nn.Module):
    """``torch.nn.LSTM``: the same arguments, inputs, outputs and parameter names.

    Attributes:
      input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size: as in
        torch, see :class:`jaxlstm.LSTMConfig`.
      dtype: of the computation; None: the widest of inputs and parameters.
      param_dtype: of the parameters.
      precision: of the matrix products, see :mod:`jaxlstm.precision`.
      backend: as for :func:`jaxlstm.lstm`.
      deterministic: True for inference, False for training (with an rng named ``dropout``); said here
        or in the call, and needed only with dropout.

    >>> model = jaxlstm.linen.LSTM(3, 5, num_layers=2)
    >>> variables = model.init(jax.random.key(0), jnp.ones((7, 1, 3)))
    >>> outputs, (h_n, c_n) = jax.jit(model.apply)(variables, jnp.ones((7, 1, 3)))
    """

    input_size: int
    hidden_size: int
    num_layers: int = 1
    bias: bool = True
    batch_first: bool = False
    dropout: float = 0.0
    bidirectional: bool = False
    proj_size: int = 0
    _: KW_ONLY
    dtype: Any = None
    param_dtype: Any = jnp.float32
    precision: Precision = precision_.DEFAULT
    backend: str = "auto"
    deterministic: bool | None = None

    @property
    def config(self) -> LSTMConfig:
        """torch's arguments, validated."""
        return LSTMConfig(**{name: getattr(self, name) for name in LSTMConfig.__dataclass_fields__})

    @nn.compact
    def __call__(
        self,
        inputs: Inputs | np.ndarray,
        initial_state: tuple[Any, Any] | None = None,
        *,
        seq_lengths: Any = None,
        deterministic: bool | None = None,
    ) -> tuple[Inputs, LSTMState]:
        """As :func:`jaxlstm.lstm`: ``outputs, (h_n, c_n)``.

        Raises:
          ValueError: dropout > 0, and deterministic said neither here nor in the module.
        """
        config = self.config
        params = _declare_params(self, config, self.param_dtype)
        if deterministic is None:
            deterministic = self.deterministic
        dropping = _modules.wants_dropout(config, deterministic)
        params, inputs, initial_state = _modules.promote(self.dtype, params, inputs, initial_state)
        return lstm(
            params,
            inputs,
            initial_state,
            config=config,
            seq_lengths=seq_lengths,
            dropout_key=self.make_rng("dropout") if dropping else None,
            precision=self.precision,
            backend=self.backend,
        )


class LSTMCell(nn.RNNCellBase):
    """``torch.nn.LSTMCell``: ``cell(x, (h, c)) -> (h, c)``; also a cell for ``nn.RNN``.

    In ``nn.RNN`` Flax's conventions hold: it calls ``cell(carry, x) -> (carry, y)`` with the carry
    (c, h). The two are told apart by which argument is the state.

    Attributes:
      input_size, hidden_size, bias: as in torch.
      dtype, param_dtype, precision: as for :class:`LSTM`.
    """

    input_size: int
    hidden_size: int
    bias: bool = True
    _: KW_ONLY
    dtype: Any = None
    param_dtype: Any = jnp.float32
    precision: Precision = precision_.DEFAULT

    @property
    def config(self) -> LSTMCellConfig:
        """torch's arguments, validated."""
        return LSTMCellConfig(self.input_size, self.hidden_size, bias=self.bias)

    @overload
    def __call__(self, x: jax.Array, state: tuple[Any, Any] | None = None) -> LSTMState: ...
    @overload
    def __call__(self, x: tuple[Any, Any], state: jax.Array) -> tuple[Any, jax.Array]: ...
    @nn.compact
    def __call__(self, x: Any, state: Any = None) -> Any:
        """One step, in torch's form or in Flax's.

        ``cell(x, (h, c))`` returns ``LSTMState(h, c)``; ``cell((c, h), x)`` returns ``((c, h), h)``.
        """
        params = _declare_params(self, self.config, self.param_dtype)
        x, state, flax_call = _modules.split_cell_call(x, state)
        params, x, state = _modules.promote(self.dtype, params, x, state)
        new = lstm_cell(params, x, state, precision=self.precision)
        return ((new.c, new.h), new.h) if flax_call else new

    @nn.nowrap
    def initialize_carry(self, rng: jax.Array, input_shape: tuple[int, ...]) -> tuple[Any, Any]:
        """Flax's carry (c, h) of zeros, for one step of an input of ``input_shape``."""
        shape = (*input_shape[:-1], self.hidden_size)
        dtype = self.dtype or self.param_dtype
        return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)

    @property
    def num_feature_axes(self) -> int:
        """Axes of one input that are features: the last one."""
        return 1
