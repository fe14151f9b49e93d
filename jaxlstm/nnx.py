"""torch's LSTM, GRU, RNN, LSTMCell, GRUCell and Embedding as Flax NNX modules, and a faster ``nnx.Conv``.

The constructors take torch's arguments in torch's order, and then Flax's keywords. Parameters are attributes
with torch's names, such as ``lstm.weight_ih_l0``. ``Conv`` and ``Embed`` have Flax's.
"""

from collections.abc import Mapping
from typing import Any, Generic, NoReturn, Self, TypeVar, overload

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxlstm.functional import Inputs, lstm_cell, run_layers
from jaxlstm.layer import gru_rnn, module_calls
from jaxlstm.layer import precision as precision_
from jaxlstm.layer.cell import LSTMState
from jaxlstm.layer.config import (
    GRUCellConfig,
    GRUConfig,
    LayerConfig,
    LSTMCellConfig,
    LSTMConfig,
    RNNConfig,
    require_config,
)
from jaxlstm.layer.convolution import convolve_in_flax
from jaxlstm.layer.nnx_tabulate import indexed, is_tabulated
from jaxlstm.layer.params import Params, init_params, param_shapes
from jaxlstm.layer.precision import Precision
from jaxlstm.layer.validate import cell_arguments, torch_keywords

__all__ = ("GRU", "LSTM", "RNN", "Conv", "Embed", "GRUCell", "LSTMCell")

State = TypeVar("State", bound=tuple[Any, ...])
LastState = TypeVar("LastState")


class _TorchNamed(nnx.Module):
    """A module whose parameters are attributes with torch's names."""

    config: LayerConfig
    param_dtype: Any

    def _init_params(self, rngs: nnx.Rngs, param_dtype: Any) -> None:
        _require_rngs(rngs)
        self.param_dtype = param_dtype
        for name, value in init_params(rngs.params(), self.config, dtype=param_dtype).items():
            setattr(self, name, nnx.Param(value))

    @property
    def params(self) -> Params:
        """The parameters as a dict of torch's names and arrays, as :func:`jaxlstm.lstm` takes them."""
        return {name: getattr(self, name)[...] for name in param_shapes(self.config)}

    def load_params(self, params: Mapping[str, Any]) -> Self:
        """Replace the parameters, and ``param_dtype`` by their dtype.

        Args:
          params: arrays under torch's names, such as :func:`jaxlstm.load` returns.

        Returns:
          The module.

        Raises:
          ValueError: a parameter is missing, unexpected or of the wrong shape.
        """
        arrays, self.param_dtype = module_calls.checked_params(params, self.config)
        for name, value in arrays.items():
            setattr(self, name, nnx.Param(value))
        return self

    def load_state_dict(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise an error that names the functions for this purpose; torch's modules have this method."""
        raise AttributeError(
            f"{type(self).__name__} has no load_state_dict; call jaxlstm.load_state_dict(model, state_dict), "
            "or load_params(params) with the parameters of one layer"
        )


class _SequenceModule(_TorchNamed, Generic[LastState]):
    """A module that runs layers over sequences."""

    # The only backend that all layers have.
    backend = "auto"

    def _init_layers(
        self,
        config: LayerConfig,
        rngs: nnx.Rngs,
        dtype: Any,
        param_dtype: Any,
        precision: Precision,
        deterministic: bool | None,
    ) -> None:
        self.config = config
        self.dtype, self.precision, self.deterministic = dtype, precision, deterministic
        self._init_params(rngs, param_dtype)
        self._set_dropout_stream(rngs)

    def _set_dropout_stream(self, rngs: nnx.Rngs) -> None:
        _require_rngs(rngs)
        has_stream = self.config.dropout > 0 and ("dropout" in rngs or "default" in rngs)
        self.rngs = rngs["dropout"].fork() if has_stream else nnx.data(None)

    @torch_keywords(hx="initial_state", input="inputs")
    def __call__(
        self,
        inputs: Inputs | np.ndarray,
        initial_state: Any = None,
        *,
        seq_lengths: Any = None,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | jax.Array | None = None,
    ) -> tuple[Inputs, LastState]:
        """Run the layers over sequences; see :func:`jaxlstm.lstm` for shapes.

        Args:
          inputs: (T, B, input_size), or (B, T, input_size) with ``batch_first``; (T, input_size) for one
            sequence; or a :class:`jaxlstm.PackedSequence`.
          initial_state: (h_0, c_0) of an LSTM, h_0 of other layers; zeros if None.
          seq_lengths: number of valid steps of each sequence, integers (B,).
          deterministic: overrides the module's ``deterministic``.
          rngs: overrides the module's dropout stream: an ``nnx.Rngs``, a stream or a key.

        Returns:
          ``(outputs, state)`` with the axes of the arguments; the state is ``LSTMState(h_n, c_n)`` or h_n.

        Raises:
          ValueError: ``dropout > 0`` and ``deterministic`` is set neither here nor in the module.
        """
        if deterministic is None:
            deterministic = self.deterministic
        key = None
        fix = "call model.eval() for inference or model.train() for training"
        if module_calls.applies_dropout(self.config, deterministic, fix=fix):
            key = _dropout_key(self.rngs if rngs is None else rngs)
        call = module_calls.layer_call(self, self.params, inputs, initial_state, seq_lengths, key)
        outputs, state = run_layers(**call)
        return outputs, indexed(state) if is_tabulated(self) else state


class LSTM(_SequenceModule[LSTMState]):
    """A multi-layer LSTM with the arguments, outputs and parameter names of ``torch.nn.LSTM``.

    >>> model = jaxlstm.nnx.LSTM(3, 5, num_layers=2, rngs=nnx.Rngs(0))
    >>> run = nnx.jit(lambda model, x: model(x))
    >>> outputs, (h_n, c_n) = run(model, jnp.ones((7, 1, 3)))
    >>> outputs.shape, h_n.shape
    ((7, 1, 5), (2, 1, 5))

    Args:
      input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size: torch's
        arguments, see :class:`jaxlstm.LSTMConfig`.
      rngs: random streams. ``params`` initializes the parameters from torch's distribution,
        U(-1/sqrt(H), 1/sqrt(H)); ``dropout`` draws the masks between layers.
      dtype: dtype of the computation; the widest dtype of inputs and parameters if None.
      param_dtype: dtype of the parameters.
      precision: precision of the matrix products, see :mod:`jaxlstm.layer.precision`.
      backend: the implementation, see :func:`jaxlstm.lstm`.
      deterministic: True turns dropout off (inference), False turns it on (training). ``eval()`` and
        ``train()`` set it. Required only with ``dropout > 0``.
    """

    config: LSTMConfig  # pyright: ignore[reportIncompatibleVariableOverride]

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
        config = LSTMConfig(
            input_size,
            hidden_size,
            num_layers=num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            proj_size=proj_size,
        )
        self.backend = backend
        self._init_layers(config, rngs, dtype, param_dtype, precision, deterministic)

    @classmethod
    def from_params(
        cls, params: Mapping[str, Any], config: LSTMConfig, *, rngs: nnx.Rngs | None = None, **kwargs: Any
    ) -> Self:
        """Create a module that holds ``params``, and keeps their dtype.

        >>> model = jaxlstm.nnx.LSTM.from_params(*jaxlstm.load("lstm.pt"))  # doctest: +SKIP

        Args:
          params: arrays under torch's names.
          config: the LSTM. An :class:`jaxlstm.LSTMCellConfig` makes an LSTM of one layer.
          rngs: random streams for dropout; ``nnx.Rngs(0)`` if None.
          **kwargs: ``dtype``, ``precision``, ``backend`` and ``deterministic``, as for the constructor.
        """
        arguments = module_calls.torch_arguments(require_config(config))
        # Abstract construction draws no random numbers.
        model = nnx.eval_shape(lambda: cls(**arguments, rngs=nnx.Rngs(0), **kwargs))
        model._set_dropout_stream(nnx.Rngs(0) if rngs is None else rngs)
        return model.load_params(module_calls.layer_params(params, config))


class GRU(_SequenceModule[jax.Array]):
    """A multi-layer GRU with the arguments, outputs and parameter names of ``torch.nn.GRU``.

    On a CPU it runs on the native kernel if that was built and pays off, otherwise as a ``jax.lax.scan``.
    Unlike ``nnx.GRUCell`` of Flax, it has both biases of the candidate.

    >>> outputs, h_n = jaxlstm.nnx.GRU(3, 5, rngs=nnx.Rngs(0))(jnp.ones((7, 1, 3)))
    >>> outputs.shape, h_n.shape
    ((7, 1, 5), (1, 1, 5))

    Args:
      input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional: torch's arguments.
      rngs, dtype, param_dtype, precision, deterministic: as for :class:`LSTM`.
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
        *,
        rngs: nnx.Rngs,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        precision: Precision = precision_.DEFAULT,
        deterministic: bool | None = None,
    ):
        config = GRUConfig(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional)
        self._init_layers(config, rngs, dtype, param_dtype, precision, deterministic)


class RNN(_SequenceModule[jax.Array]):
    """A multi-layer Elman network with the arguments, outputs and parameter names of ``torch.nn.RNN``.

    Args:
      input_size, hidden_size, num_layers, nonlinearity, bias, batch_first, dropout, bidirectional: torch's
        arguments. ``nonlinearity`` is "tanh" or "relu".
      rngs, dtype, param_dtype, precision, deterministic: as for :class:`LSTM`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        rngs: nnx.Rngs,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        precision: Precision = precision_.DEFAULT,
        deterministic: bool | None = None,
    ):
        sizes = (input_size, hidden_size, num_layers)
        config = RNNConfig(*sizes, bias, batch_first, dropout, bidirectional, nonlinearity)
        self._init_layers(config, rngs, dtype, param_dtype, precision, deterministic)


def _dropout_key(rngs: Any) -> jax.Array:
    if rngs is None:
        raise ValueError(
            "rngs must be an nnx.Rngs with a dropout stream to train with dropout, got None; pass it to "
            "the call or to the constructor"
        )
    if isinstance(rngs, nnx.Rngs):
        return rngs.dropout()
    if isinstance(rngs, nnx.RngStream):
        return rngs()
    if not isinstance(rngs, jax.Array):
        _require_rngs(rngs)
    return rngs


def _require_rngs(rngs: Any) -> None:
    """Raise a TypeError unless ``rngs`` is an ``nnx.Rngs``."""
    if not isinstance(rngs, nnx.Rngs):
        seed = rngs if isinstance(rngs, int) else 0
        raise TypeError(f"rngs must be an nnx.Rngs, got {rngs!r}; pass rngs=nnx.Rngs({seed})")


class _Cell(_TorchNamed):
    """A module that runs one step."""

    _config_type: type[Any]

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
        self.config = self._config_type(input_size, hidden_size, bias=bias)
        self.dtype, self.precision = dtype, precision
        self._init_params(rngs, param_dtype)


class LSTMCell(_Cell, nnx.RNNCellBase):
    """One step of an LSTM with the arguments and parameter names of ``torch.nn.LSTMCell``.

    The cell accepts torch's call, ``cell(x, (h, c)) -> (h, c)``, and Flax's, ``cell(carry, x) -> (carry, h)``
    with the carry (c, h), so it also works in ``nnx.RNN``. The first argument decides: a tuple is a state.

    Args:
      input_size, hidden_size, bias: torch's arguments.
      rngs: random streams; ``params`` initializes the parameters.
      dtype, param_dtype, precision: as for :class:`LSTM`.
    """

    config: LSTMCellConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    _config_type = LSTMCellConfig

    @classmethod
    def from_params(cls, params: Mapping[str, Any], config: LSTMConfig, **kwargs: Any) -> Self:
        """Create a cell that holds ``params``, and keeps their dtype.

        Args:
          params: arrays under torch's names.
          config: the cell.
          **kwargs: ``dtype`` and ``precision``, as for the constructor.
        """
        require_config(config)
        arguments = (config.input_size, config.hidden_size, config.bias)
        cell = nnx.eval_shape(lambda: cls(*arguments, rngs=nnx.Rngs(0), **kwargs))
        return cell.load_params(params)

    @overload
    def __call__(self, x: jax.Array, state: None = None) -> LSTMState: ...
    @overload
    def __call__(self, x: jax.Array, state: State) -> State: ...
    @overload
    def __call__(self, x: State, state: jax.Array) -> tuple[State, jax.Array]: ...
    @torch_keywords(hx="state", input="x")
    def __call__(self, x: Any, state: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Run one step, in torch's form or in Flax's.

        Returns:
          The state (h, c) for ``cell(x, (h, c))``, and ``((c, h), h)`` for ``cell((c, h), x)``. The new
          state has the type of the given one, and is an :class:`jaxlstm.LSTMState` if that was None.
        """
        return module_calls.call_cell(lstm_cell, self, self.params, x, state)

    def initialize_carry(self, input_shape: tuple[int, ...], rngs: Any = None, carry_init: Any = None):
        """Return Flax's carry (c, h) for an input of ``input_shape``.

        Args:
          input_shape: shape of one step of the input, ``(*batch, input_size)``.
          rngs: random streams for ``carry_init``, which draws from ``carry``.
          carry_init: ``(key, shape, dtype)`` to an array; zeros if None.
        """
        shape = (*input_shape[:-1], self.config.hidden_size)
        dtype = self.dtype or self.param_dtype
        if carry_init is None:
            return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)
        if rngs is None:
            raise ValueError("rngs must be given with carry_init, got None")
        stream = rngs.carry if isinstance(rngs, nnx.Rngs) else rngs
        return carry_init(stream(), shape, dtype), carry_init(stream(), shape, dtype)

    @property
    def num_feature_axes(self) -> int:
        """Number of feature axes of an input, which is 1."""
        return 1


class GRUCell(_Cell):
    """One step of a GRU with the arguments and parameter names of ``torch.nn.GRUCell``.

    Args:
      input_size, hidden_size, bias: torch's arguments.
      rngs, dtype, param_dtype, precision: as for :class:`LSTMCell`.
    """

    _config_type = GRUCellConfig

    @torch_keywords(hx="state", input="x")
    def __call__(self, x: jax.Array | np.ndarray, state: Any = None) -> jax.Array:
        """Return the next h, (batch, hidden_size) or (hidden_size,).

        Args:
          x: input, (batch, input_size) or (input_size,).
          state: h; zeros if None.
        """
        params, x, state = module_calls.promote_dtypes(self.dtype, self.params, x, state)
        params, x, h = cell_arguments(params, x, state, self.config)
        return gru_rnn.cell_step(self.config, params, x, h, precision=self.precision)


class Conv(nnx.Conv):
    """``flax.nnx.Conv``, with the same arguments, parameters and results, and faster on CPUs.

    XLA's convolution with groups is slow on CPUs. Sums of shifted products and one convolution for each group
    replace it there. GPUs and TPUs run XLA's.

    >>> conv = jaxlstm.nnx.Conv(8, 8, (3, 3), feature_group_count=8, rngs=nnx.Rngs(0))
    >>> conv(jnp.ones((1, 5, 5, 8))).shape
    (1, 5, 5, 8)
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, conv_general_dilated=convolve_in_flax, **kwargs)


class Embed(nnx.Embed):
    """``flax.nnx.Embed`` with torch's ``padding_idx``: the row of this index has no gradient.

    >>> embed = jaxlstm.nnx.Embed(9, 4, padding_idx=0, rngs=nnx.Rngs(0))
    >>> embed(jnp.array([[3, 0]])).shape
    (1, 2, 4)
    """

    def __init__(
        self, num_embeddings: int, features: int, *, padding_idx: int, rngs: nnx.Rngs, **kwargs: Any
    ):
        super().__init__(num_embeddings, features, rngs=rngs, **kwargs)
        self.padding_idx = padding_idx

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> jax.Array:
        """Return the row of each index, (*shape, features) for integers of a shape."""
        y = super().__call__(inputs, *args, **kwargs)
        return jnp.where((inputs == self.padding_idx)[..., None], jax.lax.stop_gradient(y), y)
