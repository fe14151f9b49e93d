"""Find the LSTMs in a state dict.

torch's LSTM, GRU and RNN share the names ``weight_ih_l0`` and so on. The number of rows distinguishes them:
4, 3 and 1 times the hidden size.
"""

import os
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxlstm.layer.config import ASSUMABLE, METADATA_KEY, LSTMCellConfig, LSTMConfig, saved_config
from jaxlstm.layer.params import shape_mismatches
from jaxlstm_converters.checkpoint import read_checkpoint
from jaxlstm_converters.layer_kinds import SETTINGS_KEY, read_settings
from jaxlstm_converters.lstm.fold import PARAMETER, fold
from jaxlstm_converters.optimizer.state import is_moment

_FOREIGN = re.compile(r"(weight|bias)_[^.]+")
_KINDS = {4: "LSTM", 3: "GRU", 1: "RNN"}
WITH_ARTICLE = {"LSTM": "an LSTM", "GRU": "a GRU", "RNN": "an RNN"}

Shapes = dict[str, tuple[int, ...]]
"""Parameter name without its prefix -> shape."""


def by_module(tensors: Mapping[str, Any]) -> dict[str, Shapes]:
    """Return prefix -> shapes of the tensors of each module without its submodules."""
    modules: dict[str, Shapes] = defaultdict(dict)
    for name, tensor in tensors.items():
        start = name.rfind(".") + 1
        modules[name[:start]][name[start:]] = tuple(tensor.shape)
    return modules


def group_by_prefix(state_dict: Mapping[str, Any]) -> dict[str, Shapes]:
    """Return prefix -> shapes for every set of tensors named like a recurrent layer.

    If layer names (``weight_ih_l0``) and cell names (``weight_ih``) share a prefix, the cell is left out.
    """
    groups: dict[str, Shapes] = {}
    for prefix, shapes in by_module(state_dict).items():
        matches = filter(None, map(PARAMETER.fullmatch, shapes))
        # An optimizer that stores its moments by parameter name repeats the names and shapes of the LSTM.
        names = {match[0]: match["suffix"] for match in matches if not is_moment(prefix + match[0])}
        if names:
            groups[prefix] = {name: shapes[name] for name in names if names[name] or not any(names.values())}
    return groups


def foreign_tensors(prefix: str, modules: Mapping[str, Shapes], config: LSTMConfig) -> Shapes:
    """Return the tensors which show that a layer with the names of torch's LSTM computes something else.

    They are weights and biases with other names, such as peepholes, and in a cell, which has no
    submodules, also all with one number per row of the gates, such as the weight of a layer normalization.
    """
    unknown = {name: shape for name, shape in modules[prefix].items() if not PARAMETER.fullmatch(name)}
    foreign = {name: shape for name, shape in unknown.items() if _FOREIGN.fullmatch(name)}
    if isinstance(config, LSTMCellConfig):
        children = [p for p in modules if p.startswith(prefix) and p.count(".") == prefix.count(".") + 1]
        unknown |= {f"{p[len(prefix) :]}weight": modules[p].get("weight", ()) for p in children}
        foreign |= {name: shape for name, shape in unknown.items() if shape == (4 * config.hidden_size,)}
    return foreign


def layer_kind(shapes: Shapes) -> str:
    """Return "LSTM", "GRU" or "RNN" by the rows of the matrices, or "" for none of these.

    The first layer with a matrix of 4, 3 or 1 times the hidden size decides, so that one wrong tensor does
    not hide an LSTM.
    """
    recurrent = {name: shape for name, shape in shapes.items() if name.startswith("weight_hh")}
    if not recurrent and any(name.startswith("weight_ih") for name in shapes):
        return "LSTM"  # the missing tensors are reported later
    for name, shape in recurrent.items():
        if len(shape) != 2:
            continue
        end = name.removeprefix("weight_hh")
        hidden_size = _size(shapes, f"weight_hr{end}", 1, default=shape[1])
        rows = {shape[0], *shapes.get(f"weight_ih{end}", ())[:1]}
        for factor, kind in _KINDS.items():
            if hidden_size and factor * hidden_size in rows:
                return kind
    matrices = ("weight_ih", "weight_hh")
    rows = {shape[0] for name, shape in shapes.items() if name.startswith(matrices) and shape}
    if len(rows) == 1 and min(rows) % 4 == 0:  # a projected LSTM with a missing or misshapen projection
        return "LSTM"
    return ""


def infer_config(shapes: Shapes, recorded: Mapping[str, Any]) -> LSTMConfig:
    """Return the config that the tensors of one LSTM imply, without checking that every tensor fits it.

    ``recorded`` holds the settings that the source records.
    """
    matches = list(filter(None, map(PARAMETER.fullmatch, shapes)))
    is_cell = any(not match["suffix"] for match in matches)
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
    layers = {int(match["layer"]) for match in matches}
    return LSTMConfig(
        input_size=input_size,
        hidden_size=hidden_size,
        num_layers=next(k for k in range(len(layers) + 1) if k not in layers) or 1,
        bias=bias,
        bidirectional=any(name.endswith("_reverse") for name in shapes),
        proj_size=proj_size,
        **{name: recorded[name] for name in ASSUMABLE if name in recorded},
    )


def _size(shapes: Shapes, name: str, axis: int, default: int = 1) -> int:
    """Return one dimension of a matrix, or ``default`` if the matrix is missing or misshapen."""
    shape = shapes.get(name, ())
    return shape[axis] if len(shape) == 2 and shape[axis] > 0 else default


def find_lstms(state_dict_or_path: Mapping[str, Any] | str | os.PathLike[str]) -> dict[str, LSTMConfig]:
    """Return prefix -> config for every LSTM and LSTMCell in a state dict or file, in its order.

    An LSTMCell has an :class:`jaxlstm.LSTMCellConfig`. A state dict does not record ``batch_first`` and
    ``dropout``. They are set if the checkpoint records them, and have torch's defaults otherwise.

    Args:
      state_dict_or_path: name -> any object with a ``shape``, of which only the shapes are read, or the path
        of a checkpoint for ``read_checkpoint``.

    Raises:
      TypeError: the argument is neither a mapping nor a path.
      ValueError: an LSTM has missing, unexpected or misshapen tensors. The message names all of them.

    >>> list(jaxlstm.find_lstms(torch.nn.LSTM(3, 5).state_dict(prefix="encoder.")))
    ['encoder.']
    """
    source = state_dict_or_path
    if not isinstance(source, Mapping | str | os.PathLike):
        raise TypeError(
            "state_dict_or_path must be a mapping of names to tensors or the path of a checkpoint, got "
            f"{type(source).__name__}; pass module.state_dict() for a torch module"
        )
    surveyed = survey(source if isinstance(source, Mapping) else read_checkpoint(source))
    for problem in surveyed.broken.values():
        raise ValueError(problem)
    return surveyed.lstms


class Survey(NamedTuple):
    """The recurrent layers of a state dict.

    Attributes:
      lstms: prefix -> config of each valid LSTM.
      broken: prefix of each invalid LSTM -> the reason.
      tensors: the state dict with each folded weight under its plain name.
      notes: one line per folded weight of these layers.
      others: prefix -> "GRU" or "RNN".
    """

    lstms: dict[str, LSTMConfig]
    broken: dict[str, str]
    tensors: Mapping[str, Any]
    notes: list[str]
    others: dict[str, str]


def survey(state_dict: Mapping[str, Any], settings: Mapping[str, Mapping[str, Any]] | None = None) -> Survey:
    """Find the LSTMs as :func:`find_lstms` does, but report invalid ones instead of raising.

    ``settings`` holds the settings of the layers by prefix; by default, the state dict has them.
    """
    tensors, notes, problems = fold(state_dict)
    notes = [note for note in notes if PARAMETER.fullmatch(note.partition(" = ")[0])]
    result = Survey({}, dict(problems), tensors, notes, {})
    settings = recorded_settings(state_dict) if settings is None else settings
    modules = by_module(tensors)
    for prefix, shapes in group_by_prefix(tensors).items():
        kind = layer_kind(shapes)
        if prefix in problems:
            continue
        if kind == "LSTM":
            try:
                config = infer_config(shapes, settings.get(prefix, {}))
            except ValueError as error:  # for example a projection that is larger than the hidden size
                result.broken[prefix] = f"the LSTM at {prefix!r} is invalid: {error}"
                continue
            mismatches = shape_mismatches(shapes, config, prefix=prefix)
            if foreign := foreign_tensors(prefix, modules, config):
                mismatches += [f"unexpected {prefix}{name} {shape}" for name, shape in foreign.items()]
                mismatches.append("torch.nn.LSTM does not have these, so this is another kind of layer")
            if mismatches:
                result.broken[prefix] = f"the LSTM at {prefix!r} is invalid: {'; '.join(mismatches)}"
            else:
                result.lstms[prefix] = config
        elif kind:
            result.others[prefix] = kind
    return result


def recorded_settings(state_dict: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return prefix -> the settings of a layer that a checkpoint records.

    Modules that were pickled whole and programs record them, see ``Checkpoint.hints``. The weights of written
    source and files of ``jaxlstm.save`` have them in their metadata, unless they were assumed when the file
    was written.
    """
    metadata = getattr(state_dict, "metadata", {})
    settings = read_settings(metadata.get(SETTINGS_KEY, "")) | getattr(state_dict, "hints", {})
    try:
        prefix, config, assumed = saved_config(metadata.get(METADATA_KEY, ""))
    except ValueError:  # no metadata, or another program's under the same key
        return settings
    if not isinstance(config, LSTMCellConfig):
        settings[prefix] = {name: getattr(config, name) for name in ASSUMABLE if name not in assumed}
    return settings
