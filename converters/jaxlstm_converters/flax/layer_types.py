"""The table of layers: for each type of Flax layer, its rule, the axes of its arrays and its settings."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np
from flax import nnx

import jaxlstm.linen.modules
import jaxlstm.nnx
from jaxlstm_converters.flax import rules
from jaxlstm_converters.flax.layer import FlaxLayer, TensorPair, each, join, pair
from jaxlstm_converters.flax.names import Names
from jaxlstm_converters.flax.rules import Rule
from jaxlstm_converters.flax.settings import differences
from jaxlstm_converters.lstm.selected import lookalike_warning


class FlaxLayerType(NamedTuple):
    """The knowledge about a type of Flax layers.

    Attributes:
      rule: returns the pairs of a layer; None if its arrays have torch's names and shapes.
      array: the name of an array of each layer; empty if the number of its axes is not known.
      axes: the number of its axes in a layer that is not stacked.
      kind: the kind of the layer in torch, which has settings that no state dict records; often empty.
    """

    rule: Rule | None = None
    array: str = ""
    axes: int | Callable[[Any], int] = 0
    kind: str = ""


def _kernel_axes(module: Any) -> int:
    return 2 + (1 if isinstance(module.kernel_size, int) else len(module.kernel_size))


def _general_axes(module: nnx.LinearGeneral) -> int:
    return len(module.in_features) + len(module.out_features)


def _weight_norm(layer: FlaxLayer) -> list[TensorPair]:
    return rules.weight_norm(layer, layer_type(layer.module.layer_instance).rule)


_ROWS: list[tuple[FlaxLayerType, *tuple[type, ...]]] = [
    (FlaxLayerType(rules.conv, "kernel", 2), nnx.Linear, nn.Dense),
    (FlaxLayerType(rules.dense_general, "kernel", _general_axes), nnx.LinearGeneral),
    (FlaxLayerType(rules.dense_general), nn.DenseGeneral),
    (FlaxLayerType(rules.conv, "kernel", _kernel_axes, "Conv{k}d"), nnx.Conv, nn.Conv),
    (
        FlaxLayerType(rules.conv_transpose, "kernel", _kernel_axes, "ConvTranspose{k}d"),
        *(nnx.ConvTranspose, nn.ConvTranspose),
    ),
    (FlaxLayerType(rules.embed, "embedding", 2, "Embedding"), nnx.Embed, nn.Embed),
    (FlaxLayerType(rules.batch_norm, "mean", 1, "BatchNorm"), nnx.BatchNorm, nn.BatchNorm),
    (FlaxLayerType(rules.norm, "scale", 1, "GroupNorm"), nnx.GroupNorm, nn.GroupNorm),
    (FlaxLayerType(rules.norm, "scale", 1, "LayerNorm"), nnx.LayerNorm, nnx.InstanceNorm),
    (FlaxLayerType(rules.norm, "scale", 1, "RMSNorm"), nnx.RMSNorm),
    # Linen normalizes over any axes, so that the number of axes is not known.
    (FlaxLayerType(rules.norm, kind="LayerNorm"), nn.LayerNorm, nn.InstanceNorm),
    (FlaxLayerType(rules.norm, kind="RMSNorm"), nn.RMSNorm),
    (FlaxLayerType(rules.prelu), nnx.PReLU, nn.PReLU),
    (
        FlaxLayerType(rules.attention, "query.kernel", 3, "MultiheadAttention"),
        *(nnx.MultiHeadAttention, nn.MultiHeadDotProductAttention),
    ),
    (FlaxLayerType(_weight_norm), nnx.WeightNorm, nn.WeightNorm),
    (FlaxLayerType(rules.rnn, kind="LSTM"), nnx.RNN, nn.RNN),
    (FlaxLayerType(rules.bidirectional, kind="LSTM"), nnx.Bidirectional, nn.Bidirectional),
    (FlaxLayerType(rules.lone_cell, "hi.kernel", 2), nnx.LSTMCell, nn.LSTMCell, nn.OptimizedLSTMCell),
    (FlaxLayerType(rules.lone_cell, "dense_h.kernel", 2), nnx.OptimizedLSTMCell, nnx.GRUCell),
    (FlaxLayerType(rules.lone_cell, "hn.kernel", 2), nn.GRUCell),
    (
        FlaxLayerType(rules.lone_cell, "weight_hh", 2),
        *(jaxlstm.nnx.LSTMCell, jaxlstm.linen.modules.LSTMCell, jaxlstm.nnx.GRUCell),
    ),
    (
        FlaxLayerType(None, "weight_hh_l0", 2, "LSTM"),
        *(jaxlstm.nnx.LSTM, jaxlstm.nnx.GRU, jaxlstm.linen.modules.LSTM),
    ),
    (FlaxLayerType(None, "weight_hh_l0", 2, "RNN"), jaxlstm.nnx.RNN),
]
LAYER_TYPES: dict[type, FlaxLayerType] = {kind: row for row, *kinds in _ROWS for kind in kinds}


def layer_type(module: Any) -> FlaxLayerType:
    """Return the row of a module's type or of its nearest base class."""
    return _row(type(module))


def _row(kind: type) -> FlaxLayerType:
    return next((LAYER_TYPES[base] for base in kind.__mro__ if base in LAYER_TYPES), FlaxLayerType())


def require_unstacked(layer: FlaxLayer) -> None:
    """Raise ValueError if the arrays of a layer have one axis more than its type has.

    ``nnx.vmap``, ``nn.vmap`` and ``nn.scan`` stack layers in this way.
    """
    _, name, axes, _ = layer_type(layer.module)
    axes = axes if isinstance(axes, int) else axes(layer.module)
    if name in layer.slots and len(layer.shape(name)) == axes + 1:
        raise ValueError(
            "its arrays are stacked along one more axis, as by vmap or scan; fill the layers one by one and "
            "stack them, as docs/porting.md shows"
        )


def settings_to_check(
    layers: list[FlaxLayer], names: Names, recorded: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Return one line for each setting that differs or may differ, with the layers that have it.

    ``recorded`` holds the settings that the source records, by prefix in torch.
    """
    paths_by_line: dict[str, list[str]] = {}
    for layer in layers:
        torch = names.to_torch(join(layer.torch_path, "weight"))
        theirs = recorded.get(torch[0].removesuffix("weight") if torch else "", {})
        lines = list(differences(layer.module, layer_type(layer.module).kind, theirs))
        if "lookalike" in theirs:
            lines.append(lookalike_warning(theirs["lookalike"]))
        for line in lines:
            paths_by_line.setdefault(line, []).append(layer.path or "the model")
    return [f"{_listed(paths)}: {line}" for line, paths in paths_by_line.items()]


def _listed(paths: list[str]) -> str:
    suffix = f" and {len(paths) - 4} more" if len(paths) > 4 else ""
    return ", ".join(paths[:4]) + suffix


UserRow = str | tuple[str, Callable[[np.ndarray], Any], Callable[[np.ndarray], Any]]


def register_layer(
    layer_type: type, tensors: Mapping[str, UserRow] | Callable[[Any], Mapping[str, UserRow]]
) -> None:
    """Register the names and layouts of your own layer type for ``load_state_dict`` and ``state_dict``.

    >>> jaxlstm.register_layer(  # doctest: +SKIP
    ...     MyDense, {"weight": ("kernel", np.transpose, np.transpose), "bias": "bias"}
    ... )

    The rule also holds for subclasses, and replaces an earlier rule of the same type. A layer whose arrays
    have torch's names and shapes needs no rule.

    Args:
      layer_type: a class of NNX or Linen modules.
      tensors: name in torch -> name of the array in the layer, or ``(name, to_flax, to_torch)`` with two
        functions of one array that are inverse to each other. Names are relative to the layer, with dots. A
        function gets the layer and returns such a dict.

    Raises:
      TypeError: ``layer_type`` is not a class of Flax modules.
    """
    if not (isinstance(layer_type, type) and issubclass(layer_type, nnx.Module | nn.Module)):
        raise TypeError(f"layer_type must be a subclass of nnx.Module or linen.Module, got {layer_type!r}")

    def rule(layer: FlaxLayer) -> list[TensorPair]:
        rows = tensors(layer.module) if callable(tensors) else tensors
        return [
            pair(torch, row) if isinstance(row, str) else pair(torch, row[0], each(row[1], row[2]))
            for torch, row in rows.items()
        ]

    LAYER_TYPES[layer_type] = _row(layer_type)._replace(rule=rule)
