"""Convert parameters to a torch state dict with the same names, shapes, dtypes and bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxlstm._shared.torch_tensors import numpy_to_tensor
from jaxlstm.config import LSTMConfig
from jaxlstm.params import check_params, param_shapes


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


def to_torch(params: Mapping[str, Any], config: LSTMConfig, *, prefix: str = "") -> dict[str, np.ndarray]:
    """Return the state dict of the ``torch.nn.LSTM`` or ``LSTMCell`` of this config, in torch's order.

    ``lstm.load_state_dict(jaxlstm.to_torch(params, config))`` accepts it as it is. ``.tensor()`` converts a
    single entry to a tensor.

    Args:
      params: arrays under torch's names.
      config: the LSTM.
      prefix: put before each name, such as ``"encoder.lstm."``.

    Raises:
      ValueError: ``params`` do not fit the config. The message lists every missing, unexpected and
        misshapen one.
    """
    check_params(params, config)
    return {prefix + name: np.asarray(params[name]).view(StateArray) for name in param_shapes(config)}
