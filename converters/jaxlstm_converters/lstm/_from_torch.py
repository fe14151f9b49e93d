"""Convert a torch module or state dict to parameters.

Names and shapes are the same on both sides, so the conversion only checks them.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from jaxlstm.layer.config import LSTMConfig
from jaxlstm.layer.params import Params
from jaxlstm_converters.lstm.selected import select_lstm, with_fields
from jaxlstm_converters.lstm.torch_module import lookalike_warning, lookalikes, module_state_dict
from jaxlstm_converters.porting_warning import PortingWarning


def from_torch(
    module_or_state_dict: Any,
    *,
    prefix: str = "",
    batch_first: bool | None = None,
    dropout: float | None = None,
    dtype: Any = None,
) -> tuple[Params, LSTMConfig]:
    """Return the parameters of one LSTM or LSTMCell, under torch's names, and its config.

    Args:
      module_or_state_dict: a ``torch.nn.Module`` that is or contains an LSTM, its state dict (torch tensors
        or NumPy arrays), or the result of ``jaxlstm.read_checkpoint``.
      prefix: the LSTM to convert, such as ``"encoder.lstm."``, or the unique last components of its prefix,
        such as ``"lstm"``. Not needed if there is only one LSTM.
      batch_first, dropout: override the values of the module or checkpoint. A state dict does not record
        them; the defaults are then False and 0.0.
      dtype: cast the parameters to this dtype. None keeps the bits.

    Returns:
      ``(params, config)``: a dict of JAX arrays and an :class:`jaxlstm.LSTMConfig`.

    Raises:
      ValueError: the state dict has no LSTM, ``prefix`` does not select exactly one, or the LSTM has missing,
        unexpected or misshapen tensors. The message names them.
      TypeError: the argument is neither a module nor a mapping, or a parameter is float64 while JAX's
        64-bit mode is off.

    Warns:
      PortingWarning: the LSTM of a module is of another class than torch's, with the same parameter names.

    >>> params, config = jaxlstm.from_torch(torch.nn.LSTM(3, 5, batch_first=True))
    >>> config.batch_first, params["weight_ih_l0"].shape
    (True, (20, 3))
    """
    state_dict, hints = _state_dict_and_hints(module_or_state_dict)
    selected = select_lstm(state_dict, prefix=prefix, hints=hints)
    if selected.lookalike:
        warnings.warn(lookalike_warning(selected.lookalike), PortingWarning, stacklevel=2)
    config = with_fields(selected.config, batch_first=batch_first, dropout=dropout)
    return to_jax(selected.params, dtype), config


def to_jax(arrays: Mapping[str, Any], dtype: Any) -> Params:
    """Return NumPy arrays as JAX arrays of ``dtype``; None keeps the dtype of each array."""
    from jaxlstm.layer.precision import as_float_array, require_dtype

    if dtype is not None:
        dtype = require_dtype("dtype", dtype)
        for name, array in arrays.items():
            if array.dtype.kind in "biu":  # an integer is not the weight, but its quantized form
                require_dtype(name, array.dtype)
        arrays = {name: array.astype(dtype) for name, array in arrays.items()}
    return {name: as_float_array(name, array, copy=True) for name, array in arrays.items()}


def _state_dict_and_hints(source: Any) -> tuple[Mapping[str, Any], dict[str, dict[str, Any]]]:
    """Return the state dict of a module, and hints for its LSTMs in the form of ``Checkpoint.hints``."""
    if isinstance(source, Mapping):
        return source, {}
    if not callable(getattr(source, "state_dict", None)):
        raise TypeError(
            "module_or_state_dict must be a torch.nn.Module or a mapping of names to tensors, got "
            f"{type(source).__name__}; use jaxlstm.load for a path"
        )
    hints = {
        f"{name}." if name else "": {"batch_first": sub.batch_first, "dropout": sub.dropout}
        for name, sub in source.named_modules()
        if hasattr(sub, "batch_first") and hasattr(sub, "proj_size")
    }
    for prefix, class_name in lookalikes(source).items():
        hints.setdefault(prefix, {})["lookalike"] = class_name
    return module_state_dict(source), hints
