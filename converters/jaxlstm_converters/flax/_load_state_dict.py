"""Fill an NNX model from a PyTorch checkpoint."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxlstm_converters.flax.fill import fill
from jaxlstm_converters.flax.layer import FlaxLayer
from jaxlstm_converters.flax.nnx_tree import nnx_layers
from jaxlstm_converters.flax.result import LoadResult
from jaxlstm_converters.porting_warning import PortingWarning


def load_state_dict(
    model: nnx.Module,
    source: str | os.PathLike[str] | Mapping[str, Any] | Any,
    *,
    names: Mapping[str, str] | None = None,
    strict: bool = True,
    cast: bool = False,
) -> LoadResult:
    """Fill a Flax NNX model, in place, with the weights of a PyTorch model.

    Layers match by path: ``model.layers[0].conv`` takes ``layers.0.conv.weight``. The type of the Flax layer
    decides the layout; ``docs/porting.md`` lists the layers. An ``nnx.Param`` of your own takes the tensor of
    its name and shape. Wrappers (``module.``, ``_orig_mod.``) and nesting (``model_state_dict``) are found.
    Nothing is written before everything has been checked. Tied weights stay tied.

    >>> jaxlstm.load_state_dict(model, "crnn.pt", names={"cnn.0": "conv0"})  # doctest: +SKIP

    Args:
      model: the model. Its arrays may be abstract, as ``nnx.eval_shape`` creates them.
      source: the path of a checkpoint for ``jaxlstm.read_checkpoint``, a state dict of torch tensors or NumPy
        arrays, or a ``torch.nn.Module``. A module also has settings such as ``eps``, which are compared.
      names: torch prefix -> Flax prefix, where the paths differ. The longest prefix wins. ``{"encoder": ""}``
        reads only the part below ``encoder``.
      strict: raise an error if a tensor is missing, unexpected or misshapen. False writes the others.
      cast: allow a conversion to the model's dtype that changes values, such as float32 to bfloat16.

    Returns:
      A result with the lists of loaded, missing, unexpected and misshapen tensors, warnings and notes.

    Raises:
      StateDictError: the source does not fit the model. The message lists every problem.
      CheckpointError: the file is damaged, unsafe or in an unknown format.
      ValueError: an entry of ``names`` matches nothing.
      TypeError: ``model`` or ``source`` has another type.

    Warns:
      PortingWarning: a setting that a state dict does not record may differ, such as an epsilon.
    """
    require_module(model, "jaxlstm.linen.load_state_dict")
    result = load(nnx_layers(model), source, names, strict, cast)
    for text in result.warnings:
        warnings.warn(text, PortingWarning, stacklevel=2)
    return result


def load(
    layers: list[FlaxLayer], source: Any, names: Mapping[str, str] | None, strict: bool, cast: bool
) -> LoadResult:
    """Fill the slots of all layers, after everything has been checked."""
    result, filled = fill(layers, source, names, strict, cast)
    for slot, array in [(slot, _place(array, slot.read())) for slot, array in filled]:
        slot.write(array)
    return result


def require_module(model: object, for_linen: str) -> None:
    """Raise TypeError if ``model`` is not an NNX module; ``for_linen`` names the function for Linen."""
    if isinstance(model, nnx.Module):
        return
    if isinstance(model, type):
        raise TypeError(f"model must be a flax.nnx.Module, got the class {model.__name__}; pass an instance")
    raise TypeError(
        f"model must be a flax.nnx.Module, got {type(model).__qualname__}; for Linen use {for_linen}"
    )


def _place(array: np.ndarray, old: Any) -> jax.Array:
    """Return a JAX array that owns its memory, on the devices of the array that it replaces."""
    new = jnp.array(array)
    committed = getattr(old, "committed", True)
    sharding = getattr(old, "sharding", None)
    return new if sharding is None or not committed else jax.device_put(new, sharding)
