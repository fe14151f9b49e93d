"""Modules with the parameter names of torch's LSTM that are of another class."""

from __future__ import annotations

from typing import Any

_NAMES = ("LSTM", "LSTMCell")


def imitations(module: Any) -> dict[str, str]:
    """Return prefix -> class of each submodule that has an LSTM's parameter names but is not torch's.

    Such a module may have other equations or another order of gates. Subclasses of torch's layers are not
    among them.
    """
    return {
        f"{name}." if name else "": f"{type(part).__module__}.{type(part).__qualname__}"
        for name, part in module.named_modules(remove_duplicate=False)
        if not _is_torchs(part) and _has_lstm_names(part)
    }


def warning_of(class_name: str) -> str:
    """Return the warning for a module that may be of another class than torch's."""
    return (
        f"the torch module is a {class_name}; its parameters have the names of a torch.nn.LSTM or LSTMCell, "
        "but its equations and its order of gates may differ: compare the results with "
        "jaxlstm.check.verify_model"
    )


def _is_torchs(module: Any) -> bool:
    """Return True for torch's recurrent layers, classes derived from them, and their TorchScript."""
    derived = any(cls.__module__ == "torch.nn.modules.rnn" for cls in type(module).__mro__)
    return derived or getattr(module, "original_name", "") in _NAMES


def _has_lstm_names(module: Any) -> bool:
    return any(name.startswith("weight_ih") for name, _ in module.named_parameters(recurse=False))
