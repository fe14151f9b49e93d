"""List every layer of a state dict.

A state dict records neither the type of a layer nor arguments such as strides. :class:`Layer` lists the types
whose tensors fit, and the arguments that are not recorded.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jaxlstm.layer.config import config_to_dict
from jaxlstm_converters.checkpoint.io.tensor import Tensor
from jaxlstm_converters.layers.types import (
    BUFFERS,
    LayerType,
    Module,
    choose_by_name,
    claimed_names,
    fitting_types,
    group_by_module,
    recorded_type,
)
from jaxlstm_converters.lstm._find_lstms import Survey, group_by_prefix, infer_config
from jaxlstm_converters.lstm.fold import ComputedWeight
from jaxlstm_converters.lstm.selected import unrecorded_arguments
from jaxlstm_converters.optimizer.state import is_optimizer_state


@dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes:
      name: its path in the model, such as "encoder.0.conv"; for a single tensor, the tensor's name.
      types: the types that fit, the likeliest first; empty for a tensor of no known layer.
      sizes: argument of the first type -> value, such as ``{"in_features": 4, "out_features": 2}``.
      shapes: name of a tensor without the prefix -> shape.
      dtype: the dtypes of the parameters, joined by ", ".
      parameters: number of elements without ``buffers``. Tied tensors count in their first layer only.
      buffers: number of elements of the running statistics of a normalization.
      not_recorded: arguments of the first type that neither the tensors nor the file record.
      notes: reparametrized and tied weights; invalid layers; a type that only the name implies.
    """

    name: str
    types: tuple[str, ...]
    sizes: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    dtype: str
    parameters: int
    buffers: int = 0
    not_recorded: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)


def find_layers(surveyed: Survey, hints: Mapping[str, Mapping[str, Any]]) -> list[Layer]:
    """Return the layers of a state dict in its order, without the state of optimizers."""
    tensors = {name: t for name, t in surveyed.tensors.items() if not is_optimizer_state(name)}
    recurrent = {
        prefix: {prefix + name: tensors[prefix + name] for name in shapes}
        for prefix, shapes in group_by_prefix(tensors).items()
        if prefix in surveyed.lstms or prefix in surveyed.broken or prefix in surveyed.others
    }
    in_recurrent = {name for members in recurrent.values() for name in members}
    modules = group_by_module({name: t for name, t in tensors.items() if name not in in_recurrent})
    drafts = [
        _recurrent(prefix, members, surveyed, hints.get(prefix, {})) for prefix, members in recurrent.items()
    ]
    for prefix, module in modules.items():
        drafts += _drafts(prefix, module, hints.get(prefix, {}))
    order = {name: position for position, name in enumerate(tensors)}
    drafts.sort(key=lambda draft: min(order[name] for name in draft.tensors))
    owners: dict[Any, str] = {}
    return [_layer(draft, owners) for draft in drafts]


class _Draft(NamedTuple):
    """A layer whose elements are not yet counted."""

    prefix: str
    tensors: dict[str, Any]
    types: list[LayerType]
    notes: list[str]


def _recurrent(prefix: str, members: dict[str, Any], surveyed: Survey, hints: Mapping[str, Any]) -> _Draft:
    kind = surveyed.others.get(prefix, "LSTM")
    notes = list(dict.fromkeys(t.note for t in members.values() if isinstance(t, ComputedWeight)))
    if prefix in surveyed.broken:
        return _Draft(prefix, members, [LayerType(kind)], [*notes, "invalid"])
    shapes = {name[len(prefix) :]: tuple(tensor.shape) for name, tensor in members.items()}
    if kind != "LSTM":  # Only an LSTM has projections.
        shapes = {name: shape for name, shape in shapes.items() if not name.startswith("weight_hr")}
    config = infer_config(shapes, hints)
    sizes = config_to_dict(config)
    cell = "Cell" if sizes.pop("type") == "LSTMCell" else ""
    missing = list(unrecorded_arguments(config, hints))
    for name in missing:
        del sizes[name]
    if kind != "LSTM":
        sizes.pop("proj_size", None)
    missing += ["nonlinearity"] * (kind == "RNN")
    layer_type = LayerType(kind + cell, sizes, tuple(missing)).with_settings(hints)
    return _Draft(prefix, members, [layer_type], notes)


def _drafts(prefix: str, module: Module, hints: Mapping[str, Any]) -> Iterator[_Draft]:
    """Yield the layer of a module, and one draft for each tensor that is not part of it."""
    shapes = {leaf: variable.shape for leaf, variable in module.items()}
    claimed = claimed_names(shapes)
    types = fitting_types({leaf: shapes[leaf] for leaf in claimed})
    if types:
        recorded = recorded_type(types, hints)
        chosen = choose_by_name(types, prefix.removesuffix("."))
        candidates = [recorded] if recorded else [type_.with_settings(hints) for type_ in chosen]
        notes = [f"{leaf}: {module[leaf].note}" for leaf in claimed if module[leaf].note]
        notes += ["type from the name"] * (len(candidates) < len(types) and not recorded)
        tensors = {name: t for leaf in claimed for name, t in module[leaf].tensors.items()}
        yield _Draft(prefix, tensors, candidates, notes)
    for leaf, variable in module.items():
        if not types or leaf not in claimed:
            for name, tensor in variable.tensors.items():
                yield _Draft(name, {name: tensor}, [], [])


def _layer(draft: _Draft, owners: dict[Any, str]) -> Layer:
    """Count the elements. ``owners`` maps the tensors that other layers counted to the layers' names."""
    layer_type = draft.types[0] if draft.types else LayerType("")
    name = draft.prefix.removesuffix(".") or "(root)"
    notes, counts = list(draft.notes), {"parameters": 0, "buffers": 0}
    for path, tensor in draft.tensors.items():
        for part in tensor.parameters if isinstance(tensor, ComputedWeight) else (tensor,):
            # Tied tensors are the same elements of one storage.
            key = part.identity if isinstance(part, Tensor) else id(part)
            owner = owners.setdefault(key, name)
            if owner != name:
                notes.append(f"{path[len(draft.prefix) :]} tied to {owner}")
            else:
                is_buffer = path.rpartition(".")[2] in BUFFERS
                counts["buffers" if is_buffer else "parameters"] += math.prod(part.shape)
    return Layer(
        name=name,
        types=tuple(t.name for t in draft.types),
        sizes=layer_type.sizes,
        shapes={path.removeprefix(draft.prefix): tuple(t.shape) for path, t in draft.tensors.items()},
        dtype=_dtypes(draft.tensors),
        **counts,
        not_recorded=layer_type.not_recorded,
        notes=notes,
    )


def _dtypes(tensors: Mapping[str, Any]) -> str:
    dtypes = {str(t.dtype) for name, t in tensors.items() if not name.endswith("num_batches_tracked")}
    return ", ".join(sorted(dtypes))
