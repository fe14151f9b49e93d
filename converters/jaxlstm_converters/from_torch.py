"""State dict -> parameters. The names and shapes are the same, so this is a check and no arithmetic."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from jaxlstm.config import LSTMCellConfig, LSTMConfig
from jaxlstm.params import Params, param_shapes
from jaxlstm_converters.find import choose, survey


def from_torch(
    module_or_state_dict: Any,
    *,
    prefix: str = "",
    batch_first: bool | None = None,
    dropout: float | None = None,
    dtype: Any = None,
) -> tuple[Params, LSTMConfig]:
    """The parameters of one LSTM or LSTMCell, under torch's names, and its config.

    Args:
      module_or_state_dict: a ``torch.nn.Module`` (an LSTM, or a model that holds one), its state dict
        (torch tensors or NumPy arrays), or what ``jaxlstm.read_checkpoint`` gave.
      prefix: which LSTM: ``"encoder.lstm."``, or an end of it that only one has (``"lstm"``); not needed
        if there is one alone. ``module.`` and other wrappers are part of it.
      batch_first, dropout: a state dict does not say them. None: the module's own or the checkpoint's,
        where it tells, else False and 0.0.
      dtype: cast the parameters; None: as they are, bit for bit.

    Returns:
      ``(params, config)``: JAX arrays, and an :class:`jaxlstm.LSTMConfig`.

    Raises:
      ValueError: no LSTM, several, or one that is not whole; or a GRU or RNN. The message names the keys.
      TypeError: an argument that is neither; or float64 while JAX's 64-bit mode is off.
    """
    from jaxlstm.precision import as_float_array

    state_dict, hints = _state_dict(module_or_state_dict)
    arrays, config = select_lstm(
        state_dict, prefix=prefix, batch_first=batch_first, dropout=dropout, hints=hints
    )
    if dtype is not None:
        arrays = {name: array.astype(dtype) for name, array in arrays.items()}
    return {name: as_float_array(name, array) for name, array in arrays.items()}, config


def select_lstm(
    state_dict: Mapping[str, Any],
    *,
    prefix: str | None = None,
    batch_first: bool | None = None,
    dropout: float | None = None,
    hints: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[dict[str, np.ndarray], LSTMConfig]:
    """As :func:`from_torch`, from a state dict alone and to NumPy arrays, without jax."""
    found = survey(state_dict)
    if not found.lstms and not found.broken:
        raise ValueError(_no_lstm(state_dict, found.others))
    chosen = choose([*found.lstms, *found.broken], prefix, found.others)
    if chosen in found.broken:
        raise ValueError(found.broken[chosen])
    config = found.lstms[chosen]
    if not isinstance(config, LSTMCellConfig):
        told = {**(hints or {}).get(chosen, {})}
        if batch_first is not None:
            told["batch_first"] = batch_first
        if dropout is not None:
            told["dropout"] = dropout
        config = dataclasses.replace(config, **told)
    return {name: as_numpy(found.tensors[chosen + name]) for name in param_shapes(config)}, config


def as_numpy(tensor: Any) -> np.ndarray:
    """A torch tensor, NumPy array or checkpoint tensor as a NumPy array of the same bits."""
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu().contiguous()
        torch = sys.modules["torch"]  # loaded, since here is a tensor of it
        if tensor.dtype == torch.bfloat16:  # the one dtype that Tensor.numpy() refuses
            return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return tensor.numpy()
    array = np.asarray(tensor)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _state_dict(source: Any) -> tuple[Mapping[str, Any], dict[str, dict[str, Any]]]:
    """The state dict of a module, and what its LSTMs say of batch_first and dropout."""
    if isinstance(source, Mapping):
        return source, {}
    if not callable(getattr(source, "state_dict", None)):
        raise TypeError(
            "module_or_state_dict must be a torch.nn.Module or a mapping of names to tensors, got "
            f"{type(source).__name__}; a path is for jaxlstm.load"
        )
    hints = {
        f"{name}." if name else "": {"batch_first": sub.batch_first, "dropout": sub.dropout}
        for name, sub in source.named_modules()
        if hasattr(sub, "batch_first") and hasattr(sub, "proj_size")
    }
    return source.state_dict(), hints


def _no_lstm(state_dict: Mapping[str, Any], others: Mapping[str, str]) -> str:
    """Why no LSTM was found: a GRU or RNN by name, or nothing of the kind."""
    if any("_all_weight_values" in name for name in state_dict):
        return (
            "no LSTM in the state dict but a quantized dynamic one, whose weights are packed; "
            "convert the float model that it was made from"
        )
    if others:
        named = ", ".join(f"{prefix or 'the root'} is a {what}" for prefix, what in others.items())
        return f"no LSTM in the state dict: {named}; jaxlstm converts LSTM and LSTMCell alone"
    some = ", ".join(list(state_dict)[:5])
    return f"no LSTM in the state dict, whose {len(state_dict)} names start with: {some}"
