"""Convert an NNX model from a PyTorch checkpoint, and back to a state dict."""

import os
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from jaxlstm_converters.flax.fill import fill
from jaxlstm_converters.flax.layer import FlaxLayer, Slot
from jaxlstm_converters.flax.plan import plan_alone
from jaxlstm_converters.flax.result import LoadResult, StateDictError
from jaxlstm_converters.flax.tree import nnx_layers
from jaxlstm_converters.lstm._load import StateArray
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
    result = fill(nnx_layers(model), source, names, strict, cast)
    for text in result.warnings:
        warnings.warn(text, PortingWarning, stacklevel=2)
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


def state_dict(model: nnx.Module, *, names: Mapping[str, str] | None = None) -> dict[str, np.ndarray]:
    """Return the PyTorch state dict of a Flax NNX model, the inverse of ``load_state_dict``.

    The arrays have torch's names, shapes and layouts, and the model's dtypes and bits.
    ``torch_model.load_state_dict(state_dict)`` accepts them. ``num_batches_tracked`` of a BatchNorm is zero,
    because Flax does not count batches.

    Flax's own LSTM and GRU cells keep only the sum of torch's two biases. It is returned as ``bias_ih``, with
    zeros as ``bias_hh``. The function is the same, the tensors are not.

    Args:
      model: the model.
      names: as for ``load_state_dict``, torch prefix -> Flax prefix.

    Raises:
      StateDictError: a layer has no counterpart in torch.
      ValueError: the model is abstract, or an entry of ``names`` matches no layer.
      TypeError: ``model`` is not an NNX module.

    Warns:
      PortingWarning: a layer does not hold all that torch's layer holds.

    >>> list(jaxlstm.state_dict(nnx.Linear(2, 3, rngs=nnx.Rngs(0))))
    ['weight', 'bias']
    """
    require_module(model, "jaxlstm.linen.state_dict")
    return collect(nnx_layers(model), names)


def _read(slot: Slot) -> np.ndarray:
    value = slot.read()
    if isinstance(value, jax.ShapeDtypeStruct):
        raise ValueError(f"model must have values, but {slot.path!r} is abstract; fill the model first")
    return np.asarray(value)


def collect(layers: list[FlaxLayer], names: Mapping[str, str] | None) -> dict[str, np.ndarray]:
    """Return the state dict of the layers; warn the user of each layout that is not invertible."""
    plan = plan_alone(layers, names)
    if plan.failures:
        raise StateDictError("\n  ".join(["the model has no state dict in torch", *plan.failures]))
    tensors: dict[str, np.ndarray] = {}
    losses: dict[str, list[str]] = {}
    for assignment in plan.assignments:
        arrays = tuple(map(_read, assignment.slots))
        layout = assignment.pair.layout
        for name, array in zip(assignment.torch, layout.to_torch(arrays), strict=True):
            tensors[name] = np.ascontiguousarray(array).reshape(array.shape).view(StateArray)
        if layout.loss:
            losses.setdefault(layout.loss, []).append(assignment.layer.path or "the model")
    for loss, paths in losses.items():
        warnings.warn(f"{', '.join(paths)}: {loss}", PortingWarning, stacklevel=3)
    return tensors
