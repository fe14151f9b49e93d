"""The LSTMs in a state dict, told by the names and shapes of their tensors alone.

torch's LSTM, GRU and RNN share the names ``weight_ih_l0`` and so on; what tells them apart is the rows:
4, 3 and 1 times the hidden size.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from jaxlstm.config import LSTMCellConfig, LSTMConfig
from jaxlstm.params import param_shapes
from jaxlstm_converters.config_json import METADATA_KEY, saved_config
from jaxlstm_converters.fold import fold

_NAME = re.compile(
    r"(?P<prefix>(?:.*\.)?)(?P<base>weight_ih|weight_hh|bias_ih|bias_hh|weight_hr)"
    r"(?P<suffix>|_l(?P<layer>0|[1-9]\d*)(?P<reverse>_reverse)?)",
    re.DOTALL,
)
_KINDS = {4: "LSTM", 3: "GRU", 1: "RNN"}
# An optimizer that keys its moments by parameter name holds tensors just like an LSTM's.
_OPTIMIZER = re.compile(
    r"(^|\.)(exp_avg|exp_avg_sq|max_exp_avg_sq|momentum_buffer|square_avg|grad_avg)\."
)

Shapes = dict[str, tuple[int, ...]]


def find_lstms(state_dict: Mapping[str, Any]) -> dict[str, LSTMConfig]:
    """Every LSTM and LSTMCell of a state dict: prefix -> config, in the order of the file.

    A cell's config is an :class:`jaxlstm.LSTMCellConfig`. ``batch_first`` and ``dropout`` are not in a
    state dict; where the file tells them (a checkpoint's ``hints``) they are set, else torch's defaults.

    Args:
      state_dict: name -> anything with a ``shape``; only shapes are read.

    Raises:
      ValueError: tensors that are an LSTM but for some that are missing, unexpected or misshapen; all of
        them are named.
    """
    found = survey(state_dict)
    for problem in found.broken.values():
        raise ValueError(problem)
    return found.lstms


class Survey(NamedTuple):
    """What a state dict holds: its LSTMs, those that are not whole (prefix -> why), and what was folded.

    ``tensors`` are those of the state dict with each folded weight under its plain name.
    """

    lstms: dict[str, LSTMConfig]
    broken: dict[str, str]
    tensors: Mapping[str, Any]
    notes: list[str]
    others: dict[str, str]  # prefix -> "GRU" or "RNN"


def survey(state_dict: Mapping[str, Any]) -> Survey:
    """As :func:`find_lstms`, but what is wrong with one LSTM does not stand in the way of the others."""
    tensors, notes, problems = fold(state_dict)
    found = Survey({}, {}, tensors, notes, {})
    told = hints(state_dict)
    for prefix, shapes in group(tensors).items():
        if prefix in problems:
            found.broken[prefix] = problems[prefix]
        elif kind(shapes) == "LSTM":
            try:
                config = config_of(shapes, **told.get(prefix, {}))
            except ValueError as error:  # no LSTM has such sizes: a projection to more than it has
                found.broken[prefix] = f"the LSTM at {prefix!r} is none: {error}"
                continue
            if faults := misfits(shapes, config, prefix):
                found.broken[prefix] = f"the LSTM at {prefix!r} is not whole: {'; '.join(faults)}"
            else:
                found.lstms[prefix] = config
        elif other := kind(shapes):
            found.others[prefix] = other
    return found


def hints(state_dict: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What a checkpoint says of batch_first and dropout: prefix -> argument -> value.

    Whole modules say it in their attributes, files of ``jaxlstm.save`` in their metadata.
    """
    told = {prefix: dict(hint) for prefix, hint in getattr(state_dict, "hints", {}).items()}
    saved = getattr(state_dict, "metadata", {}).get(METADATA_KEY)
    if saved is not None:
        try:
            prefix, config = saved_config(saved)
        except ValueError:  # somebody else's use of the name: the shapes still tell the config
            return told
        if not isinstance(config, LSTMCellConfig):
            told[prefix] = {"batch_first": config.batch_first, "dropout": config.dropout}
    return told


def group(state_dict: Mapping[str, Any]) -> dict[str, Shapes]:
    """The tensors with names of a recurrent layer: prefix -> name without it -> shape.

    Names without ``_l0``, those of a cell, are a group apart from names with it.
    """
    layers: dict[tuple[str, bool], Shapes] = defaultdict(dict)
    for name, tensor in state_dict.items():
        match = _NAME.fullmatch(name)
        if match and not _OPTIMIZER.search(name):
            prefix = match["prefix"]
            layers[prefix, match["suffix"] == ""][name[len(prefix) :]] = tuple(tensor.shape)
    clash = {prefix for prefix, cell in layers if cell and (prefix, False) in layers}
    return {prefix: s for (prefix, cell), s in layers.items() if not (cell and prefix in clash)}


def kind(shapes: Shapes) -> str:
    """ "LSTM", "GRU" or "RNN" by the rows of the matrices; "" if they are none of these.

    The first pair of matrices of which one has four, three or one times the hidden size decides, so that
    one wrong tensor does not hide an LSTM.
    """
    recurrent = {name: shape for name, shape in shapes.items() if name.startswith("weight_hh")}
    if not recurrent and any(name.startswith("weight_ih") for name in shapes):
        return "LSTM"  # what it lacks is for misfits() to say
    for name, shape in recurrent.items():
        match = _NAME.fullmatch(name)
        assert match is not None
        if len(shape) != 2:
            continue
        projection = shapes.get(f"weight_hr{match['suffix']}", (0, shape[1]))
        hidden = projection[1] if len(projection) == 2 else shape[1]
        for factor, found in _KINDS.items():
            rows = {shape[0], *shapes.get(f"weight_ih{match['suffix']}", ())[:1]}
            if hidden and factor * hidden in rows:
                return found
    matrices = ("weight_ih", "weight_hh")
    rows = {shape[0] for name, shape in shapes.items() if name.startswith(matrices) and shape}
    if len(rows) == 1 and min(rows) % 4 == 0:  # a projected LSTM whose projection is missing or odd
        return "LSTM"
    return ""


def config_of(shapes: Shapes, *, batch_first: bool = False, dropout: float = 0.0) -> LSTMConfig:
    """The config that the tensors of one LSTM imply; whether all fit it is for :func:`misfits`."""
    cell = any(_NAME.fullmatch(name)["suffix"] == "" for name in shapes)  # type: ignore[index]
    end = "" if cell else "_l0"
    input_size = _dim(shapes, f"weight_ih{end}", 1)
    proj_size = _dim(shapes, f"weight_hr{end}", 0, default=0)
    hidden_size = _dim(
        shapes, f"weight_hh{end}", 1, default=_dim(shapes, f"weight_ih{end}", 0) // 4 or 1
    )
    hidden_size = _dim(shapes, f"weight_hr{end}", 1, default=hidden_size)
    rows = _dim(shapes, f"weight_ih{end}", 0)
    if not proj_size and hidden_size < rows // 4 and rows == _dim(shapes, f"weight_hh{end}", 0):
        hidden_size, proj_size = rows // 4, hidden_size  # projected, but the projection is missing
    bias = any(name.startswith("bias_") for name in shapes)
    if cell:
        return LSTMCellConfig(input_size, hidden_size, bias=bias)
    layers = {int(match["layer"]) for name in shapes if (match := _NAME.fullmatch(name))}
    num_layers = next(k for k in range(len(layers) + 1) if k not in layers) or 1
    return LSTMConfig(
        input_size,
        hidden_size,
        num_layers,
        bias,
        batch_first,
        dropout,
        any(name.endswith("_reverse") for name in shapes),
        proj_size,
    )


def _dim(shapes: Shapes, name: str, axis: int, default: int = 1) -> int:
    """One side of a matrix; ``default`` if it is missing or no matrix, which ``misfits`` reports."""
    shape = shapes.get(name, ())
    return shape[axis] if len(shape) == 2 and shape[axis] > 0 else default


def misfits(shapes: Shapes, config: LSTMConfig, prefix: str = "") -> list[str]:
    """What keeps the tensors from being an LSTM of this config: missing, unexpected, misshapen."""
    wanted = param_shapes(config)
    return [
        *(
            f"missing {prefix}{name} {shape}"
            for name, shape in wanted.items()
            if name not in shapes
        ),
        *(
            f"unexpected {prefix}{name} {shape}"
            for name, shape in shapes.items()
            if name not in wanted
        ),
        *(
            f"{prefix}{name} has shape {shapes[name]}, wanted {shape}"
            for name, shape in wanted.items()
            if name in shapes and shapes[name] != shape
        ),
    ]


def choose(
    found: Iterable[str], prefix: str | None, others: Mapping[str, str] | None = None
) -> str:
    """The one prefix that is meant: given whole, by its unique end, or the only one there is.

    Raises:
      ValueError: none or several could be meant; those that exist are named, and what the prefix is
        where it is one of ``others``, a GRU or RNN.
    """
    prefixes = list(found)
    there = ", ".join(repr(p) for p in prefixes)
    if not prefix:
        if "" in prefixes:
            return ""
        if len(prefixes) == 1:
            return prefixes[0]
        raise ValueError(f"prefix must say which LSTM of the state dict is meant: {there}")
    ended = prefix if prefix.endswith(".") else f"{prefix}."
    candidates = [p for p in prefixes if p == ended]
    candidates = candidates or [p for p in prefixes if p.endswith(f".{ended}")]
    if len(candidates) != 1:
        other = next((w for p, w in (others or {}).items() if f".{p}".endswith(f".{ended}")), "")
        problem = f"is a {other}, not an LSTM," if other else "is no LSTM"
        problem = "fits several LSTMs" if candidates else problem
        raise ValueError(f"prefix {prefix!r} {problem} of the state dict, which has {there}")
    return candidates[0]
