"""Fill Linen variables from a PyTorch checkpoint, and convert them back."""

import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from jaxlstm_converters.flax._load_state_dict import collect
from jaxlstm_converters.flax.fill import fill
from jaxlstm_converters.flax.tree import Variables, linen_layers
from jaxlstm_converters.porting_warning import PortingWarning

_COLLECTIONS = ("params", "batch_stats")


def load_state_dict(
    module: nn.Module,
    variables: Mapping[str, Any],
    source: str | os.PathLike[str] | Mapping[str, Any] | Any,
    *,
    inputs: Any,
    kwargs: Mapping[str, Any] | None = None,
    method: str | Callable[..., Any] | None = None,
    names: Mapping[str, str] | None = None,
    strict: bool = True,
    cast: bool = False,
) -> Mapping[str, Any]:
    """Return the variables of a Linen model with the weights of a PyTorch model.

    This is ``jaxlstm.load_state_dict`` for Linen. An abstract call of the model shows the type of each
    submodule. A list ``self.layers`` of ``setup`` matches ``layers.0`` in torch. An LSTM in ``RNN`` or
    ``Bidirectional`` has the path of that module, not the path of its cell.

    >>> variables = model.init(jax.random.key(0), x)  # doctest: +SKIP
    >>> variables = jaxlstm.linen.load_state_dict(model, variables, "crnn.pt", inputs=x)  # doctest: +SKIP

    Args:
      module: the model.
      variables: its variables, as ``init`` returns them. They are not changed.
      source, names, strict, cast: as for ``jaxlstm.load_state_dict``.
      inputs: an argument of the call or a tuple of all. Only shapes and dtypes of arrays matter.
      kwargs: keyword arguments of the call, such as ``{"train": False}``.
      method: the method to call; ``__call__`` if None.

    Returns:
      New variables. With ``strict=False``, arrays that were not loaded are taken from ``variables``.

    Raises:
      StateDictError: the source does not fit the model. The message lists every problem.
      CheckpointError: the file is damaged, unsafe or in an unknown format.
      ValueError: an entry of ``names`` matches nothing, the call does not reach every layer, or ``variables``
        has no collection "params" or "batch_stats".
      TypeError: ``module``, ``variables`` or ``source`` has another type.

    Warns:
      PortingWarning: a setting that a state dict does not record may differ, such as an epsilon. With
        ``strict=False``, one more warning lists the tensors that do not fit.
    """
    holder = _variables(module, variables)
    layers = linen_layers(module, holder, inputs, kwargs or {}, method)
    result = fill(layers, source, names, strict, cast)
    for text in (*result.warnings, *([] if result.complete else [str(result)])):
        warnings.warn(text, PortingWarning, stacklevel=2)
    return holder.tree()


def state_dict(
    module: nn.Module,
    variables: Mapping[str, Any],
    *,
    inputs: Any,
    kwargs: Mapping[str, Any] | None = None,
    method: str | Callable[..., Any] | None = None,
    names: Mapping[str, str] | None = None,
) -> dict[str, np.ndarray]:
    """Return the PyTorch state dict of a Linen model, the inverse of ``load_state_dict``.

    Args:
      module, variables: the model.
      inputs, kwargs, method, names: as for ``load_state_dict``.

    Raises:
      StateDictError: a layer has no counterpart in torch.
      ValueError: the call does not reach every layer.
      TypeError: ``module`` or ``variables`` has another type.

    Warns:
      PortingWarning: a layer does not hold all that torch's layer holds; see ``jaxlstm.state_dict``.
    """
    layers = linen_layers(module, _variables(module, variables), inputs, kwargs or {}, method)
    return collect(layers, names)


def _variables(module: Any, variables: Any) -> Variables:
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"module must be a flax.linen.Module, got {type(module).__qualname__}; for NNX use "
            "jaxlstm.load_state_dict and jaxlstm.state_dict"
        )
    if not isinstance(variables, Mapping) or not all(isinstance(v, Mapping) for v in variables.values()):
        raise TypeError(
            "variables must be a dict of collections, such as {'params': ...}, got "
            f"{type(variables).__qualname__}"
        )
    if variables and not any(name in _COLLECTIONS for name in variables):
        raise ValueError(
            "variables must hold collections, such as {'params': ..., 'batch_stats': ...}, as init returns "
            f"them; got {', '.join(map(repr, variables))}"
        )
    return Variables(variables)
