"""Find the LSTMs in a state dict."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxlstm.layer.config import ASSUMABLE, METADATA_KEY, LSTMCellConfig, LSTMConfig, saved_config
from jaxlstm.layer.params import shape_mismatches
from jaxlstm_converters.checkpoint import read_checkpoint
from jaxlstm_converters.lstm.fold import fold
from jaxlstm_converters.lstm.shapes import (
    foreign_tensors,
    group_by_prefix,
    infer_config,
    layer_kind,
    module_shapes,
)


def find_lstms(state_dict_or_path: Mapping[str, Any] | str | os.PathLike[str]) -> dict[str, LSTMConfig]:
    """Return prefix -> config for every LSTM and LSTMCell in a state dict or file, in its order.

    An LSTMCell has an :class:`jaxlstm.LSTMCellConfig`. A state dict does not record ``batch_first`` and
    ``dropout``. They are set if the checkpoint records them (``Checkpoint.hints``), and have torch's
    defaults otherwise.

    Args:
      state_dict_or_path: name -> any object with a ``shape``, of which only the shapes are read, or the path
        of a checkpoint for ``read_checkpoint``.

    Raises:
      TypeError: the argument is neither a mapping nor a path.
      ValueError: an LSTM has missing, unexpected or misshapen tensors. The message names all of them.

    >>> list(jaxlstm.find_lstms(torch.nn.LSTM(3, 5).state_dict(prefix="encoder.")))
    ['encoder.']
    """
    if isinstance(state_dict_or_path, Mapping):
        found = survey(state_dict_or_path)
    elif isinstance(state_dict_or_path, (str, os.PathLike)):
        found = survey(read_checkpoint(state_dict_or_path))
    else:
        raise TypeError(
            "state_dict_or_path must be a mapping of names to tensors or the path of a checkpoint, got "
            f"{type(state_dict_or_path).__name__}; pass module.state_dict() for a torch module"
        )
    for problem in found.broken.values():
        raise ValueError(problem)
    return found.lstms


class Survey(NamedTuple):
    """The recurrent layers of a state dict.

    Attributes:
      lstms: prefix -> config of each valid LSTM.
      broken: prefix of each invalid LSTM -> the reason.
      tensors: the state dict with each folded weight under its plain name.
      notes: one line per folded weight.
      others: prefix -> "GRU" or "RNN".
    """

    lstms: dict[str, LSTMConfig]
    broken: dict[str, str]
    tensors: Mapping[str, Any]
    notes: list[str]
    others: dict[str, str]


def survey(state_dict: Mapping[str, Any]) -> Survey:
    """Find the LSTMs as :func:`find_lstms` does, but report invalid ones instead of raising."""
    tensors, notes, problems = fold(state_dict)
    found = Survey({}, dict(problems), tensors, notes, {})
    hints = config_hints(state_dict)
    modules = module_shapes(tensors)
    for prefix, shapes in group_by_prefix(tensors).items():
        kind = layer_kind(shapes)
        if prefix in problems:
            continue
        if kind == "LSTM":
            try:
                config = infer_config(shapes, **hints.get(prefix, {}))
            except ValueError as error:  # for example a projection that is larger than the hidden size
                found.broken[prefix] = f"the LSTM at {prefix!r} is invalid: {error}"
                continue
            mismatches = shape_mismatches(shapes, config, prefix=prefix)
            if foreign := foreign_tensors(modules[prefix], config):
                mismatches += [f"unexpected {prefix}{name} {shape}" for name, shape in foreign.items()]
                mismatches.append("torch.nn.LSTM does not have these, so this is another kind of layer")
            if mismatches:
                found.broken[prefix] = f"the LSTM at {prefix!r} is invalid: {'; '.join(mismatches)}"
            else:
                found.lstms[prefix] = config
        elif kind:
            found.others[prefix] = kind
    return found


def config_hints(state_dict: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return prefix -> {"batch_first": ..., "dropout": ...} as far as the checkpoint records them.

    Modules that were pickled whole record them as attributes, and files of ``jaxlstm.save`` in their
    metadata, unless they were assumed when the file was written.
    """
    hints = {
        prefix: {name: hint[name] for name in ASSUMABLE if name in hint}
        for prefix, hint in getattr(state_dict, "hints", {}).items()
    }
    metadata = getattr(state_dict, "metadata", {}).get(METADATA_KEY)
    if metadata is not None:
        try:
            prefix, config, assumed = saved_config(metadata)
        except ValueError:  # another program's metadata under the same key
            return hints
        if not isinstance(config, LSTMCellConfig):
            hints[prefix] = {name: getattr(config, name) for name in ASSUMABLE if name not in assumed}
    return hints
