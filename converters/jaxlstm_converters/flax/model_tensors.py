"""The tensors of a model in a file, a state dict or a torch module, without nesting and wrappers."""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from jaxlstm_converters.checkpoint import Checkpoint, read_checkpoint
from jaxlstm_converters.flax.names import (
    COUNT,
    Names,
    find_root,
    is_training_state,
    leading_keys,
    without_wrappers,
)
from jaxlstm_converters.flax.plan import ConversionPlan
from jaxlstm_converters.lstm._find_lstms import by_module, recorded_settings
from jaxlstm_converters.lstm._load import module_settings, module_state_dict
from jaxlstm_converters.lstm.fold import ComputedWeight, fold, parts_of_weights
from jaxlstm_converters.pt2.layer_settings import read_records


class TorchSource(NamedTuple):
    """Tensors by name, and settings of torch's layers as far as the source records them.

    Attributes:
      tensors: name -> torch tensor, NumPy array or lazy tensor of a checkpoint.
      settings: prefix of a torch module -> its settings, as `module_settings` returns them.
      unused: names that a model of a program need not have; None for other sources.
    """

    tensors: Mapping[str, Any]
    settings: dict[str, dict[str, Any]]
    unused: frozenset[str] | None = None


def open_source(source: Any) -> TorchSource:
    """Open a source of `load_state_dict`."""
    if isinstance(source, str | os.PathLike):
        source = read_checkpoint(source)
    if isinstance(source, Checkpoint):
        settings, unused = read_records(source.path) if source.container == "pt2" else ({}, None)
        return TorchSource(source, settings | recorded_settings(source), unused)
    if isinstance(source, Mapping):
        return TorchSource(_flat(source), {})
    if callable(getattr(source, "state_dict", None)) and callable(getattr(source, "named_modules", None)):
        return TorchSource(module_state_dict(source), module_settings(source))
    raise TypeError(
        "source must be a path, a state dict or a torch.nn.Module, got "
        f"{type(source).__module__}.{type(source).__qualname__}"
    )


def _flat(state_dict: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Return the tensors of nested dicts under dotted names; other values have no name in a model."""
    flat: dict[str, Any] = {}
    for key, value in state_dict.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        elif hasattr(value, "shape") and hasattr(value, "dtype"):
            flat[f"{prefix}{key}"] = value
    return flat


@dataclass
class ModelTensors:
    """The tensors of a model in a source, under plain names.

    Attributes:
      tensors: plain name -> tensor.
      original: plain name -> name in the source.
      settings: plain prefix of a layer -> the settings that the source records.
      notes: one line per folded weight and per group of tensors that are not part of the model.
      root: the prefix among the plain names below which most of the model was found; often empty.
      key: the usual key that was removed from the names, such as "model_state_dict"; often empty.
      beside: name in the source -> tensor beside ``key`` that may be part of a larger model.
      unused: names in the source that a model of a program need not have; None for other sources.
    """

    tensors: dict[str, Any]
    original: dict[str, str]
    settings: dict[str, dict[str, Any]]
    notes: list[str]
    root: str
    key: str
    beside: dict[str, Any] = field(default_factory=dict)
    unused: frozenset[str] | None = None

    @cached_property
    def layers(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """Prefix of a layer, such as "conv.", -> the shapes of its tensors."""
        return by_module(self.tensors)

    def has(self, name: str) -> bool:
        """Return True if there is a tensor of this plain name."""
        return name in self.tensors

    def fold(self, model_names: Collection[str]) -> None:
        """Fold reparametrized weights, unless the model itself has their parts."""
        names = {id(tensor): self.original[name] for name, tensor in self.tensors.items()}
        self.tensors, notes, _ = fold(self.tensors, model_names)
        self.notes += notes
        for name, tensor in self.tensors.items():
            shaping = tensor.parameters[-1] if isinstance(tensor, ComputedWeight) else tensor
            self.original.setdefault(name, names[id(shaping)])


def find_model(source: TorchSource, plan: ConversionPlan, names: Names) -> ModelTensors:
    """Find the tensors of a model."""
    keep = {part for name in plan.flax_names for part in name.split(".")}
    plain = {name: without_wrappers(name, keep) for name in source.tensors}
    expected = [without_wrappers(name, keep) for name in plan.torch_names]
    available = [*plain.values(), *parts_of_weights(plain.values())]
    root = find_root(available, expected)
    key = leading_keys(root)
    start = f"{key}." if key else ""
    names.make_plain(lambda torch: without_wrappers(torch, keep).removeprefix(start))
    settings = {
        without_wrappers(prefix, keep).removeprefix(start): recorded
        for prefix, recorded in source.settings.items()
    }
    matches = set(available).intersection(f"{root}.{name}" for name in expected)
    root = root.removeprefix(key).strip(".") if 2 * len(matches) >= len(expected) else ""
    model = ModelTensors({}, {}, settings, [], root, key, unused=source.unused)
    ignored: list[str] = []
    for original, name in plain.items():
        short = name[len(start) :]
        # Of the tensors below the root, ``names`` may select a part.
        is_part = not names.selected or any(
            short.startswith(f"{prefix}.") for prefix in names.flax_of if prefix
        )
        is_count = name.rpartition(".")[2] == COUNT and name not in expected
        if name.startswith(start) and is_part and not is_count:
            if model.has(short):
                raise ValueError(
                    f"source holds {model.original[short]!r} and {original!r}, which are the same tensor of "
                    "the model once wrappers are removed; remove one"
                )
            model.tensors[short], model.original[short] = source.tensors[original], original
        elif name.startswith(start) or names.selected or is_training_state(name, key):
            ignored.append(original)
        else:
            model.beside[original] = source.tensors[original]
    model.fold({name.removeprefix(start) for name in expected})
    if ignored:
        groups = sorted({name.split(".")[0] for name in ignored})
        outside = key or ", ".join(names.selected)
        model.notes.append(f"{len(ignored)} tensors outside {outside!r} are ignored: {', '.join(groups[:8])}")
    return model
