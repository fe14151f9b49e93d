"""Convert parameters to a torch state dict with the same names, shapes, dtypes and bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxlstm._shared.torch_tensors import numpy_to_tensor
from jaxlstm.layer.config import LSTMConfig
from jaxlstm.layer.params import check_params, param_shapes


class StateArray(np.ndarray):
    """A NumPy array that ``torch.nn.Module.load_state_dict`` accepts.

    torch calls ``__torch_function__`` of arguments that are not tensors. The method here replaces each
    StateArray by a tensor of the same bits.
    """

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call ``func`` with tensors instead of StateArrays."""

        def convert(value: Any) -> Any:
            if isinstance(value, cls):
                return value.tensor()
            return type(value)(map(convert, value)) if type(value) in (list, tuple) else value

        return func(*convert(args), **{key: convert(v) for key, v in (kwargs or {}).items()})

    def tensor(self) -> Any:
        """Return a copy of this array as a ``torch.Tensor``."""
        return numpy_to_tensor(np.array(self, order="C").view(np.ndarray))


def to_torch(
    params_or_module: Any, config: LSTMConfig | None = None, *, prefix: str = ""
) -> dict[str, np.ndarray]:
    """Return the state dict of the ``torch.nn.LSTM`` or ``LSTMCell`` of this config, in torch's order.

    ``lstm.load_state_dict(jaxlstm.to_torch(params, config))`` accepts it as it is. ``.tensor()`` converts a
    single entry to a tensor.

    Args:
      params_or_module: arrays under torch's names; or, without ``config``, an LSTM or LSTMCell of
        ``jaxlstm.nnx``, or one of ``jaxlstm.linen`` that is bound to its variables.
      config: the LSTM. None for a module, which has its own.
      prefix: put before each name, such as ``"encoder.lstm."``.

    Raises:
      TypeError: the argument is neither arrays with a config nor such a module.
      ValueError: the parameters do not fit the config. The message lists every missing, unexpected and
        misshapen one.

    >>> params, config = jaxlstm.from_torch(torch.nn.LSTM(3, 5))
    >>> list(jaxlstm.to_torch(params, config, prefix="rnn."))
    ['rnn.weight_ih_l0', 'rnn.weight_hh_l0', 'rnn.bias_ih_l0', 'rnn.bias_hh_l0']
    """
    params = params_or_module
    if config is None:
        params, config = _params_of(params_or_module)
    check_params(params, config)
    return {prefix + name: np.asarray(params[name]).view(StateArray) for name in param_shapes(config)}


def _params_of(module: Any) -> tuple[Mapping[str, Any], LSTMConfig]:
    """Return the parameters and config of an NNX module or a bound Linen module of jaxlstm."""
    if isinstance(module, Mapping):
        raise TypeError(
            "config must be the LSTMConfig or LSTMCellConfig of the parameters, got None; pass it as the "
            "second argument"
        )
    if not isinstance(getattr(module, "config", None), LSTMConfig):
        raise TypeError(
            "params_or_module must be a mapping of names to arrays, or an LSTM or LSTMCell of jaxlstm, got "
            f"{type(module).__name__}; jaxlstm.state_dict(model) converts a whole Flax model"
        )
    return module.params, module.config
