"""``torch.nn.LSTM`` and ``torch.nn.LSTMCell`` as Flax NNX modules.

The constructor takes torch's arguments, in torch's order, and then Flax's keywords. Parameters are
attributes under torch's names (``lstm.weight_ih_l0``), so that the state of the module is a state dict.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, overload

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxlstm import _modules
from jaxlstm import precision as precision_
from jaxlstm.cell import LSTMState
from jaxlstm.config import LSTMCellConfig, LSTMConfig
from jaxlstm.functional import Inputs, lstm, lstm_cell
from jaxlstm.params import Params, check_params, init_params, param_shapes
from jaxlstm.precision import Precision


class _TorchNamed(nnx.Module):
    """A module whose parameters are attributes under torch's names."""

    config: LSTMConfig

    def _init_params(self, rngs: nnx.Rngs, param_dtype: Any) -> None:
        for name, value in init_params(rngs.params(), self.config, dtype=param_dtype).items():
            setattr(self, name, nnx.Param(value))

    @property
    def params(self) -> Params:
        """The parameters as the functional core takes them: torch's names -> arrays."""
        return {name: getattr(self, name)[...] for name in param_shapes(self.config)}

    def load_params(self, params: Mapping[str, Any]) -> Self:
        """Take over ``params`` (from ``jaxlstm.load``, say), after a check of names and shapes."""
        check_params(params, self.config)
        for name, value in params.items():
            setattr(self, name, nnx.Param(precision_.as_float_array(name, value)))
        return self


class LSTM(_TorchNamed):
    """``torch.nn.LSTM``: the same arguments, inputs, outputs and parameter names.

    Args:
      input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size: as in
        torch, see :class:`jaxlstm.LSTMConfig`.
      rngs: its ``params`` stream initialises, from U(-1/sqrt(H), 1/sqrt(H)) as in torch; its ``dropout``
        stream draws the masks between layers.
      dtype: of the computation; None: the widest of inputs and parameters.
      param_dtype: of the parameters.
      precision: of the matrix products, see :mod:`jaxlstm.precision`.
      backend: as for :func:`jaxlstm.lstm`.
      deterministic: True for inference, False for training; set by ``eval()`` and ``train()`` and
        overruled by the call. Needed only with dropout.

    >>> model = jaxlstm.nnx.LSTM(3, 5, num_layers=2, rngs=nnx.Rngs(0))
    >>> run = nnx.jit(lambda model, x: model(x))
    >>> outputs, (h_n, c_n) = run(model, jnp.ones((7, 1, 3)))
    >>> outputs.shape, h_n.shape
    ((7, 1, 5), (2, 1, 5))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        rngs: nnx.Rngs,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        precision: Precision = precision_.DEFAULT,
        backend: str = "auto",
        deterministic: bool | None = None,
    ):
        self.config = LSTMConfig(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            proj_size,
        )
        self.dtype, self.param_dtype = dtype, param_dtype
        self.precision, self.backend = precision, backend
        self.deterministic = deterministic
        self._init_params(rngs, param_dtype)
        has_stream = dropout > 0 and ("dropout" in rngs or "default" in rngs)
        self.rngs = rngs["dropout"].fork() if has_stream else nnx.data(None)

    @classmethod
    def from_params(cls, params: Mapping[str, Any], config: LSTMConfig, **keywords: Any) -> LSTM:
        """A module of ``config`` that holds ``params``: ``LSTM.from_params(*jaxlstm.load(path))``.

        Args:
          keywords: Flax's keywords of the constructor; ``rngs`` is needed only for dropout.
        """
        keywords.setdefault("rngs", nnx.Rngs(0))
        names = LSTMConfig.__dataclass_fields__
        model = cls(**{name: getattr(config, name) for name in names}, **keywords)
        if isinstance(config, LSTMCellConfig):
            params = {f"{name}_l0": value for name, value in params.items()}
        return model.load_params(params)

    def __call__(
        self,
        inputs: Inputs | np.ndarray,
        initial_state: tuple[Any, Any] | None = None,
        *,
        seq_lengths: Any = None,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | jax.Array | None = None,
    ) -> tuple[Inputs, LSTMState]:
        """As :func:`jaxlstm.lstm`: ``outputs, (h_n, c_n)``.

        Args:
          deterministic: overrules the module's; True: no dropout.
          rngs: overrules the module's dropout stream: an ``nnx.Rngs``, a stream or a key.

        Raises:
          ValueError: dropout > 0, and deterministic said neither here nor in the module.
        """
        if deterministic is None:
            deterministic = self.deterministic
        key = None
        if _modules.wants_dropout(self.config, deterministic):
            key = _dropout_key(self.rngs if rngs is None else rngs)
        params, inputs, initial_state = _modules.promote(
            self.dtype, self.params, inputs, initial_state
        )
        return lstm(
            params,
            inputs,
            initial_state,
            config=self.config,
            seq_lengths=seq_lengths,
            dropout_key=key,
            precision=self.precision,
            backend=self.backend,
        )


def _dropout_key(rngs: Any) -> jax.Array:
    if rngs is None:
        raise ValueError(
            "rngs must be given, an nnx.Rngs with a dropout stream, to train with dropout"
        )
    if isinstance(rngs, nnx.Rngs):
        return rngs.dropout()
    return rngs() if isinstance(rngs, nnx.RngStream) else rngs


class LSTMCell(_TorchNamed, nnx.RNNCellBase):
    """``torch.nn.LSTMCell``: ``cell(x, (h, c)) -> (h, c)``; also a cell for ``nnx.RNN``.

    In ``nnx.RNN`` Flax's conventions hold: it calls ``cell(carry, x) -> (carry, y)`` with the carry
    (c, h). The two are told apart by which argument is the state.

    Args:
      input_size, hidden_size, bias: as in torch.
      rngs, dtype, param_dtype, precision: as for :class:`LSTM`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        rngs: nnx.Rngs,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        precision: Precision = precision_.DEFAULT,
    ):
        self.config = LSTMCellConfig(input_size, hidden_size, bias=bias)
        self.dtype, self.param_dtype, self.precision = dtype, param_dtype, precision
        self._init_params(rngs, param_dtype)

    @classmethod
    def from_params(
        cls, params: Mapping[str, Any], config: LSTMConfig, **keywords: Any
    ) -> LSTMCell:
        """A cell of ``config`` that holds ``params``."""
        keywords.setdefault("rngs", nnx.Rngs(0))
        cell = cls(config.input_size, config.hidden_size, config.bias, **keywords)
        return cell.load_params(params)

    @overload
    def __call__(self, x: jax.Array, state: tuple[Any, Any] | None = None) -> LSTMState: ...
    @overload
    def __call__(self, x: tuple[Any, Any], state: jax.Array) -> tuple[Any, jax.Array]: ...
    def __call__(self, x: Any, state: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step, in torch's form or in Flax's.

        ``cell(x, (h, c))`` returns ``LSTMState(h, c)``; ``cell((c, h), x)`` returns ``((c, h), h)``.
        """
        x, state, flax_call = _modules.split_cell_call(x, state)
        params, x, state = _modules.promote(self.dtype, self.params, x, state)
        new = lstm_cell(params, x, state, precision=self.precision)
        return ((new.c, new.h), new.h) if flax_call else new

    def initialize_carry(
        self, input_shape: tuple[int, ...], rngs: Any = None, carry_init: Any = None
    ):
        """Flax's carry (c, h) of zeros, or from ``carry_init(key, shape, dtype)``, for a batch's shape."""
        shape = (*input_shape[:-1], self.config.hidden_size)
        dtype = self.dtype or self.param_dtype
        if carry_init is None:
            return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)
        if rngs is None:
            raise ValueError("rngs must be given with carry_init, which draws from them")
        stream = rngs.carry if isinstance(rngs, nnx.Rngs) else rngs
        return carry_init(stream(), shape, dtype), carry_init(stream(), shape, dtype)

    @property
    def num_feature_axes(self) -> int:
        """Axes of one input that are features: the last one."""
        return 1
