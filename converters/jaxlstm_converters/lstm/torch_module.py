"""A live torch module, read without importing torch: its state dict, and its lookalikes of an LSTM."""

from __future__ import annotations

import copy
from typing import Any

from jaxlstm_converters.checkpoint.pickle.modules import has_lstm_names


def module_state_dict(module: Any) -> dict[str, Any]:
    """Return the tensors of a ``torch.nn.Module`` by name.

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
        # A copy, because the call changes buffers that the parametrization may hold.
        tensors[owner + weight] = copy.deepcopy(part).eval()().detach()
    return tensors


def lookalikes(module: Any) -> dict[str, str]:
    """Return prefix -> class of each submodule that has an LSTM's parameter names but is not torch's.

    Such a module may have other equations or another order of gates. Subclasses of torch's layers are not
    among them.
    """
    return {
        f"{name}." if name else "": f"{type(part).__module__}.{type(part).__qualname__}"
        for name, part in module.named_modules(remove_duplicate=False)
        if not _is_torchs(part) and has_lstm_names(key for key, _ in part.named_parameters(recurse=False))
    }


def lookalike_warning(class_name: str) -> str:
    """Return the warning for a module that may be of another class than torch's."""
    return (
        f"the torch module is a {class_name}; its parameters have the names of a torch.nn.LSTM or LSTMCell, "
        "but its equations and its order of gates may differ: compare the results with "
        "jaxlstm.check.verify_model"
    )


def _is_torchs(module: Any) -> bool:
    """Return True for torch's recurrent layers, classes derived from them, and their TorchScript."""
    derived = any(cls.__module__ == "torch.nn.modules.rnn" for cls in type(module).__mro__)
    return derived or getattr(module, "original_name", "") in ("LSTM", "LSTMCell")
