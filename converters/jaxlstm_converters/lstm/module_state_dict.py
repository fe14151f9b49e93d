"""The state dict of a torch module, with the weights that its parametrizations compute."""

from __future__ import annotations

import copy
from typing import Any


def module_state_dict(module: Any) -> dict[str, Any]:
    """Return the tensors of a ``torch.nn.Module`` by name, without importing torch.

    A parametrized weight (``torch.nn.utils.parametrize``) has its plain name and its value in ``eval()``.
    Weight normalization keeps its two tensors, because Flax has it too; elsewhere they are folded. A state
    dict does not record which parametrizations its tensors belong to, but the module does.
    """
    tensors = {name: value for name, value in module.state_dict().items() if hasattr(value, "shape")}
    for path, part in module.named_modules(remove_duplicate=False):
        if type(part).__name__ != "ParametrizationList":
            continue
        if [type(parametrization).__name__ for parametrization in part] == ["_WeightNorm"]:
            continue
        tensors = {name: value for name, value in tensors.items() if not name.startswith(f"{path}.")}
        owner, _, weight = path.rpartition("parametrizations.")
        tensors[owner + weight] = _value(part)
    return tensors


def _value(chain: Any) -> Any:
    """Return the weight of a ``ParametrizationList``, without changing the buffers that it may hold."""
    return copy.deepcopy(chain).eval()().detach()
