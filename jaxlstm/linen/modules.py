"""``torch.nn.LSTM`` and ``torch.nn.LSTMCell`` as Flax Linen modules.

The fields are torch's arguments in torch's order, and then Flax's keywords. The ``params`` collection uses
torch's names: ``{"params": params}`` with the parameters of ``jaxlstm.load`` is a valid argument of
``apply``.
"""

from collections.abc import Mapping
from dataclasses import KW_ONLY
from typing import Any, NoReturn, Self, TypeVar, overload

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.functional import Inputs, lstm, lstm_cell
from jaxlstm.layer import module_calls
from jaxlstm.layer import precision as precision_
from jaxlstm.layer.cell import LSTMState
from jaxlstm.layer.config import LSTMCellConfig, LSTMConfig, require_config
from jaxlstm.layer.params import Params, init_bound, param_shapes
from jaxlstm.layer.precision import Precision
from jaxlstm.layer.validate import torch_keywords

State = TypeVar("State", bound=tuple[Any, ...])


class _LinenModule(nn.Module):
    """A module whose parameters have torch's names."""

    @property
    def params(self) -> Params:
        """The parameters of a bound module, as a dict of torch's names and arrays."""
        if self.scope is None:
            raise ValueError(
                f"{type(self).__name__} holds no parameters, because it is not bound; get them from the "
                "variables of init, or call module.bind(variables).params"
            )
        return dict(self.variables["params"])

    def load_state_dict(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise an error that names the function for this purpose; torch's modules have this method."""
        raise AttributeError(
            f"{type(self).__name__} has no load_state_dict, because Linen modules are immutable; call "
            "jaxlstm.linen.load_state_dict(module, variables, state_dict, inputs=x), which returns new "
            "variables"
        )

    def _declare_params(self, config: LSTMConfig, dtype: Any) -> Params:
        """Declare each parameter under torch's name, initialized from U(-1/sqrt(H), 1/sqrt(H))."""
        bound = init_bound(config)
        dtype = precision_.require_dtype("param_dtype", dtype)

        def uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        return {name: self.param(name, uniform, shape) for name, shape in param_shapes(config).items()}


class LSTM(_LinenModule):
    """A multi-layer LSTM with the arguments, outputs and parameter names of ``torch.nn.LSTM``.

    >>> model = jaxlstm.linen.LSTM(3, 5, num_layers=2)
    >>> variables = model.init(jax.random.key(0), jnp.ones((7, 1, 3)))
    >>> outputs, (h_n, c_n) = jax.jit(model.apply)(variables, jnp.ones((7, 1, 3)))

    The fields are the arguments of :class:`jaxlstm.nnx.LSTM`, without ``rngs``. In training, dropout takes
    the rng named ``dropout``; ``deterministic`` may also be set in the call.
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

    @classmethod
    def from_params(cls, params: Mapping[str, Any], config: LSTMConfig, **kwargs: Any) -> Self:
        """Create a module bound to ``params``, which keeps their dtype.

        The module can be called directly. For training, ``unbind`` separates it from its variables.

        >>> model = jaxlstm.linen.LSTM.from_params(params, config)  # doctest: +SKIP
        >>> outputs, (h_n, c_n) = model(inputs)  # doctest: +SKIP
        >>> model, variables = model.unbind()  # doctest: +SKIP

        It takes the arguments of :meth:`jaxlstm.nnx.LSTM.from_params`, without ``rngs``.
        """
        params, dtype = module_calls.checked_params(params, config)
        model = cls(**module_calls.torch_arguments(config), param_dtype=dtype, **kwargs)
        return model.bind({"params": module_calls.layer_params(params, config)})

    @property
    def config(self) -> LSTMConfig:
        """torch's arguments as a config."""
        return LSTMConfig(**module_calls.torch_arguments(self))

    @nn.compact
    @torch_keywords(hx="initial_state", input="inputs")
    def __call__(
        self,
        inputs: Inputs | np.ndarray,
        initial_state: tuple[Any, Any] | None = None,
        *,
        seq_lengths: Any = None,
        deterministic: bool | None = None,
    ) -> tuple[Inputs, LSTMState]:
        """Run the LSTM over sequences; see :func:`jaxlstm.lstm` for shapes.

        Arguments, results and errors are as in :class:`jaxlstm.nnx.LSTM`: inputs (T, B, input_size), or
        (B, T, input_size) with ``batch_first``, and ``(outputs, LSTMState(h_n, c_n))``.
        """
        config = self.config
        params = self._declare_params(config, self.param_dtype)
        if deterministic is None:
            deterministic = self.deterministic
        fix = "pass it to the call, the constructor or from_params"
        key = (
            self.make_rng("dropout") if module_calls.applies_dropout(config, deterministic, fix=fix) else None
        )
        return lstm(**module_calls.layer_call(self, params, inputs, initial_state, seq_lengths, key))


class LSTMCell(_LinenModule, nn.RNNCellBase):
    """One step of an LSTM with the arguments and parameter names of ``torch.nn.LSTMCell``.

    The cell accepts torch's call, ``cell(x, (h, c)) -> (h, c)``, and Flax's, ``cell(carry, x) -> (carry, h)``
    with the carry (c, h), so it also works in ``nn.RNN``. The first argument decides: a tuple is a state.
    """

    input_size: int
    hidden_size: int
    bias: bool = True
    _: KW_ONLY
    dtype: Any = None
    param_dtype: Any = jnp.float32
    precision: Precision = precision_.DEFAULT

    @classmethod
    def from_params(cls, params: Mapping[str, Any], config: LSTMConfig, **kwargs: Any) -> Self:
        """Create a cell bound to ``params``, which keeps their dtype; see :meth:`LSTM.from_params`."""
        require_config(config)
        config = LSTMCellConfig(config.input_size, config.hidden_size, bias=config.bias)
        params, dtype = module_calls.checked_params(params, config)
        arguments = (config.input_size, config.hidden_size, config.bias)
        return cls(*arguments, param_dtype=dtype, **kwargs).bind({"params": params})

    @property
    def config(self) -> LSTMCellConfig:
        """torch's arguments as a config."""
        return LSTMCellConfig(self.input_size, self.hidden_size, bias=self.bias)

    @overload
    def __call__(self, x: jax.Array, state: None = None) -> LSTMState: ...
    @overload
    def __call__(self, x: jax.Array, state: State) -> State: ...
    @overload
    def __call__(self, x: State, state: jax.Array) -> tuple[State, jax.Array]: ...
    @nn.compact
    @torch_keywords(hx="state", input="x")
    def __call__(self, x: Any, state: Any = None) -> Any:
        """Run one step, in torch's form or in Flax's; see :meth:`jaxlstm.nnx.LSTMCell.__call__`."""
        params = self._declare_params(self.config, self.param_dtype)
        return module_calls.call_cell(lstm_cell, self, params, x, state)

    @nn.nowrap
    def initialize_carry(self, rng: jax.Array, input_shape: tuple[int, ...]) -> tuple[Any, Any]:
        """Return Flax's carry (c, h) of zeros for an input of ``input_shape``, ``(*batch, input_size)``."""
        shape = (*input_shape[:-1], self.hidden_size)
        dtype = self.dtype or self.param_dtype
        return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)

    @property
    def num_feature_axes(self) -> int:
        """Number of feature axes of an input, which is 1."""
        return 1
