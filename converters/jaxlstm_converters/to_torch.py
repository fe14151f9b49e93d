"""Parameters -> state dict, the way back: the same names, shapes, dtypes and bits."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from jaxlstm.config import LSTMConfig
from jaxlstm.params import check_params, param_shapes


class StateArray(np.ndarray):
    """A NumPy array that ``load_state_dict`` takes, so that nothing here needs torch.

    torch hands calls on foreign arrays to their ``__torch_function__``; this one answers with a tensor of
    the same bits, bfloat16 included, which ``torch.from_numpy`` refuses.
    """

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call ``func`` on tensors instead."""

        def convert(value: Any) -> Any:
            if isinstance(value, cls):
                return value.tensor()
            return type(value)(map(convert, value)) if type(value) in (list, tuple) else value

        return func(*convert(args), **{key: convert(v) for key, v in (kwargs or {}).items()})

    def tensor(self) -> Any:
        """This array as a ``torch.Tensor`` of its own memory."""
        torch = sys.modules.get("torch")
        if torch is None:
            raise RuntimeError("torch must be imported before an array can become a tensor")
        plain = np.array(self, order="C").view(np.ndarray)
        if plain.dtype == ml_dtypes.bfloat16:
            return torch.from_numpy(plain.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(plain)


def to_torch(
    params: Mapping[str, Any], config: LSTMConfig, *, prefix: str = ""
) -> dict[str, np.ndarray]:
    """The state dict of a ``torch.nn.LSTM`` (or ``LSTMCell``) of this config, in torch's order.

    ``lstm.load_state_dict(jaxlstm.to_torch(params, config))`` takes it as it is; single entries become
    tensors with ``.tensor()``.

    Args:
      params: arrays under torch's names.
      prefix: put before each name, such as ``"encoder.lstm."``.

    Raises:
      ValueError: params that do not fit the config; all missing, unexpected and misshapen ones are named.
    """
    check_params(params, config)
    return {
        prefix + name: np.asarray(params[name]).view(StateArray) for name in param_shapes(config)
    }
