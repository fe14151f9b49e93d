"""Infer recurrent layers and their configs from the names and shapes of tensors.

torch's LSTM, GRU and RNN share the names ``weight_ih_l0`` and so on. The number of rows distinguishes them:
4, 3 and 1 times the hidden size.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from jaxlstm.layer.config import LSTMCellConfig, LSTMConfig
from jaxlstm_converters.optimizer.state import is_moment

_NAME = re.compile(
    r"(?P<prefix>(?:.*\.)?)(?P<base>weight_ih|weight_hh|bias_ih|bias_hh|weight_hr)"
    r"(?P<suffix>|_l(?P<layer>0|[1-9]\d*)(?P<reverse>_reverse)?)",
    re.DOTALL,
)
_FOREIGN = re.compile(r"(weight|bias)_[^.]+")
_KINDS = {4: "LSTM", 3: "GRU", 1: "RNN"}
WITH_ARTICLE = {"LSTM": "an LSTM", "GRU": "a GRU", "RNN": "an RNN"}

Shapes = dict[str, tuple[int, ...]]
"""Parameter name without its prefix -> shape."""


def group_by_prefix(state_dict: Mapping[str, Any]) -> dict[str, Shapes]:
    """Return prefix -> shapes for every set of tensors named like a recurrent layer.

    If layer names (``weight_ih_l0``) and cell names (``weight_ih``) share a prefix, the cell is left out.
    """
    groups: dict[tuple[str, bool], Shapes] = defaultdict(dict)
    for name, tensor in state_dict.items():
        match = _NAME.fullmatch(name)
        # An optimizer that stores its moments by parameter name repeats the names and shapes of the LSTM.
        if match and not is_moment(name):
            prefix, is_cell = match["prefix"], match["suffix"] == ""
            groups[prefix, is_cell][name[len(prefix) :]] = tuple(tensor.shape)
    return {
        prefix: shapes
        for (prefix, is_cell), shapes in groups.items()
        if not (is_cell and (prefix, False) in groups)
    }


def module_shapes(state_dict: Mapping[str, Any]) -> dict[str, Shapes]:
    """Return prefix -> shapes of a module's own tensors and of the ``weight`` of each of its submodules."""
    groups: dict[str, Shapes] = defaultdict(dict)
    for name, tensor in state_dict.items():
        start = name.rfind(".") + 1
        starts = {start, name.rfind(".", 0, max(start - 1, 0)) + 1} if name[start:] == "weight" else {start}
        for start in starts:
            groups[name[:start]][name[start:]] = tuple(tensor.shape)
    return groups


def foreign_tensors(shapes: Shapes, config: LSTMConfig) -> Shapes:
    """Return the tensors which show that a layer with the names of torch's LSTM computes something else.

    They are weights and biases with other names, such as peepholes, and in a cell, which has no
    submodules, also all with one number per row of the gates, such as the weight of a layer normalization.

    Args:
      shapes: the module of the layer, as ``module_shapes`` returns it.
      config: the config that its other tensors imply.
    """
    per_row = (4 * config.hidden_size,) if isinstance(config, LSTMCellConfig) else None
    others = {name: shape for name, shape in shapes.items() if not _NAME.fullmatch(name)}
    return {name: shape for name, shape in others.items() if shape == per_row or _FOREIGN.fullmatch(name)}


def layer_kind(shapes: Shapes) -> str:
    """Return "LSTM", "GRU" or "RNN" by the rows of the matrices, or "" for none of these.

    The first layer with a matrix of 4, 3 or 1 times the hidden size decides, so that one wrong tensor does
    not hide an LSTM.
    """
    recurrent = {name: shape for name, shape in shapes.items() if name.startswith("weight_hh")}
    if not recurrent and any(name.startswith("weight_ih") for name in shapes):
        return "LSTM"  # the missing tensors are reported later
    for name, shape in recurrent.items():
        match = _NAME.fullmatch(name)
        assert match is not None
        if len(shape) != 2:
            continue
        projection = shapes.get(f"weight_hr{match['suffix']}", (0, shape[1]))
        hidden_size = projection[1] if len(projection) == 2 else shape[1]
        rows = {shape[0], *shapes.get(f"weight_ih{match['suffix']}", ())[:1]}
        for factor, kind in _KINDS.items():
            if hidden_size and factor * hidden_size in rows:
                return kind
    matrices = ("weight_ih", "weight_hh")
    rows = {shape[0] for name, shape in shapes.items() if name.startswith(matrices) and shape}
    if len(rows) == 1 and min(rows) % 4 == 0:  # a projected LSTM with a missing or misshapen projection
        return "LSTM"
    return ""


def infer_config(shapes: Shapes, *, batch_first: bool = False, dropout: float = 0.0) -> LSTMConfig:
    """Return the config that the tensors of one LSTM imply, without checking that every tensor fits it."""
    is_cell = any(_NAME.fullmatch(name)["suffix"] == "" for name in shapes)  # type: ignore[index]
    end = "" if is_cell else "_l0"
    rows = _size(shapes, f"weight_ih{end}", 0)
    input_size = _size(shapes, f"weight_ih{end}", 1)
    proj_size = _size(shapes, f"weight_hr{end}", 0, default=0)
    hidden_size = _size(shapes, f"weight_hh{end}", 1, default=rows // 4 or 1)
    hidden_size = _size(shapes, f"weight_hr{end}", 1, default=hidden_size)
    if not proj_size and hidden_size < rows // 4 and rows == _size(shapes, f"weight_hh{end}", 0):
        hidden_size, proj_size = rows // 4, hidden_size  # projected, but the projection is missing
    bias = any(name.startswith("bias_") for name in shapes)
    if is_cell:
        return LSTMCellConfig(input_size, hidden_size, bias=bias)
    layers = {int(match["layer"]) for name in shapes if (match := _NAME.fullmatch(name))}
    num_layers = next(k for k in range(len(layers) + 1) if k not in layers) or 1
    return LSTMConfig(
        input_size=input_size,
        hidden_size=hidden_size,
        num_layers=num_layers,
        bias=bias,
        batch_first=batch_first,
        dropout=dropout,
        bidirectional=any(name.endswith("_reverse") for name in shapes),
        proj_size=proj_size,
    )


def _size(shapes: Shapes, name: str, axis: int, default: int = 1) -> int:
    """Return one dimension of a matrix, or ``default`` if the matrix is missing or misshapen."""
    shape = shapes.get(name, ())
    return shape[axis] if len(shape) == 2 and shape[axis] > 0 else default
