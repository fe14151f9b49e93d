"""The source of `load_state_dict`: a file, a state dict or a torch module."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxlstm_converters.checkpoint import Checkpoint, read_checkpoint
from jaxlstm_converters.flax import convolution_settings
from jaxlstm_converters.lstm.imitations import imitations
from jaxlstm_converters.lstm.module_state_dict import module_state_dict

SETTINGS = (
    *("eps", "momentum", "batch_first", "num_heads", "num_groups", "add_zero_attn", "max_norm"),
    *convolution_settings.SETTINGS,
)


@dataclass
class Source:
    """Tensors by name, and settings of torch's layers as far as the source records them.

    Attributes:
      tensors: name -> torch tensor, NumPy array or lazy tensor of a checkpoint.
      settings: prefix of a torch module -> its ``eps``, ``momentum`` and the other ``SETTINGS``; its class
        is under "imitation" if it is not torch's LSTM but has the same parameter names.
    """

    tensors: Mapping[str, Any]
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)


def open_source(source: Any) -> Source:
    """Open a source of `load_state_dict`.

    Raises:
      TypeError: ``source`` is none of the three kinds, or a value is not a tensor.
      CheckpointError: the file is damaged, unsafe or in an unknown format.
      OSError: the file cannot be read.
    """
    if isinstance(source, str | os.PathLike):
        checkpoint = read_checkpoint(source)
        return Source(checkpoint, _hints(checkpoint))
    if isinstance(source, Checkpoint):
        return Source(source, _hints(source))
    if isinstance(source, Mapping):
        return Source(_flat(source))
    if callable(getattr(source, "state_dict", None)) and callable(getattr(source, "named_modules", None)):
        settings = {
            name: {key: getattr(module, key) for key in SETTINGS if hasattr(module, key)}
            for name, module in source.named_modules()
        }
        for prefix, class_name in imitations(source).items():
            settings.setdefault(prefix.rstrip("."), {})["imitation"] = class_name
        return Source(module_state_dict(source), settings)
    raise TypeError(
        "source must be a path, a state dict or a torch.nn.Module, got "
        f"{type(source).__module__}.{type(source).__qualname__}"
    )


def _hints(checkpoint: Checkpoint) -> dict[str, dict[str, Any]]:
    return {prefix.rstrip("."): dict(hint) for prefix, hint in checkpoint.hints.items()}


def _flat(state_dict: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Return the tensors of nested dicts under dotted names; other values have no name in a model."""
    flat: dict[str, Any] = {}
    for key, value in state_dict.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        elif hasattr(value, "shape") and hasattr(value, "dtype"):
            flat[f"{prefix}{key}"] = value
    return flat
