"""Convert an NNX model to a PyTorch state dict."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import jax
import numpy as np
from flax import nnx

from jaxlstm_converters.flax._load_state_dict import require_module
from jaxlstm_converters.flax.layer import FlaxLayer, Slot
from jaxlstm_converters.flax.names import Names
from jaxlstm_converters.flax.nnx_tree import nnx_layers
from jaxlstm_converters.flax.plan import make_plan
from jaxlstm_converters.flax.result import StateDictError
from jaxlstm_converters.lstm._to_torch import StateArray
from jaxlstm_converters.porting_warning import PortingWarning


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
    name_map = Names(names)
    name_map.renamed({layer.path: layer.torch_path for layer in layers if layer.path})
    plan = make_plan(layers, name_map)
    name_map.require_flax_prefixes(plan.flax_names)
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
