"""Select one LSTM of a state dict and read its tensors."""

import dataclasses
import os
import warnings
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from jaxlstm._shared.progress import Progress, no_progress
from jaxlstm._shared.torch_tensors import as_numpy
from jaxlstm.layer.config import LSTMCellConfig, LSTMConfig
from jaxlstm.layer.params import param_shapes
from jaxlstm_converters.lstm._find_lstms import WITH_ARTICLE, recorded_settings, survey
from jaxlstm_converters.porting_warning import PortingWarning


class SelectedLSTM(NamedTuple):
    """The parameters and config of one LSTM.

    Attributes:
      config: the LSTM. It has torch's defaults for the arguments in ``unrecorded``.
      unrecorded: the unknown arguments among "batch_first" and "dropout".
      lookalike: the class of the module if it may not be torch's, else "".
    """

    params: dict[str, Any]
    config: LSTMConfig
    unrecorded: tuple[str, ...]
    lookalike: str = ""

    def warn_of_lookalike(self) -> None:
        """Warn the caller of a public function of a module that may be of another class than torch's."""
        if self.lookalike:
            warnings.warn(lookalike_warning(self.lookalike), PortingWarning, stacklevel=3)

    def warn_of_assumptions(self, path: str | os.PathLike[str], passed: str) -> None:
        """Warn the caller of a public function of the arguments in ``unrecorded``, and say what to pass."""
        if self.unrecorded:
            warnings.warn(
                f"{os.fspath(path)} does not record {' and '.join(self.unrecorded)} of the LSTM; assumed "
                f"{assumptions(self.config, self.unrecorded)}. Pass {passed}",
                PortingWarning,
                stacklevel=3,
            )


def lookalike_warning(class_name: str) -> str:
    """Return the warning for a module that may be of another class than torch's."""
    return (
        f"the torch module is a {class_name}; its parameters have the names of a torch.nn.LSTM or LSTMCell, "
        "but its equations and its order of gates may differ: compare the results with "
        "jaxlstm.check.verify_model"
    )


def select_lstm(
    state_dict: Mapping[str, Any],
    *,
    prefix: str | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    progress: Progress = no_progress,
    **given: Any,
) -> SelectedLSTM:
    """Return one LSTM with its parameters as NumPy arrays.

    ``settings`` holds the settings of the layers by prefix, if a module has the state dict. ``given``
    overrides ``batch_first`` and ``dropout`` unless it is None; an LSTMCell has neither.
    """
    settings = recorded_settings(state_dict) if settings is None else settings
    surveyed = survey(state_dict, settings)
    if not surveyed.lstms and not surveyed.broken:
        raise ValueError(_no_lstm_message(state_dict, surveyed.others))
    full_prefix = choose_prefix([*surveyed.lstms, *surveyed.broken], prefix, surveyed.others)
    if full_prefix in surveyed.broken:
        raise ValueError(surveyed.broken[full_prefix])
    config, recorded = surveyed.lstms[full_prefix], settings.get(full_prefix, {})
    given = {name: value for name, value in given.items() if value is not None}
    if given and not isinstance(config, LSTMCellConfig):
        config = dataclasses.replace(config, **given)
    names = list(param_shapes(config))
    params = {}
    for done, name in enumerate(names):
        progress(done, len(names), f"reading {full_prefix}{name}")
        params[name] = as_numpy(surveyed.tensors[full_prefix + name])
    unrecorded = unrecorded_arguments(config, {*recorded, *given})
    return SelectedLSTM(params, config, unrecorded, recorded.get("lookalike", ""))


def assumptions(config: LSTMConfig, unrecorded: Collection[str]) -> str:
    """Return the assumed arguments in words: "batch_first=False and dropout=0.0"."""
    return " and ".join(f"{name}={getattr(config, name)}" for name in unrecorded)


def unrecorded_arguments(config: LSTMConfig, recorded: Collection[str]) -> tuple[str, ...]:
    """Return the arguments that matter for an LSTM, follow from no tensor, and are not recorded.

    A cell has none of them, and a single layer has no dropout.
    """
    if isinstance(config, LSTMCellConfig):
        return ()
    names = ("batch_first", "dropout") if config.num_layers > 1 else ("batch_first",)
    return tuple(name for name in names if name not in recorded)


def choose_prefix(
    prefixes: Iterable[str], prefix: str | None, others: Mapping[str, str] | None = None
) -> str:
    """Return the one of ``prefixes`` that ``prefix`` selects.

    Args:
      prefixes: prefixes of LSTMs.
      prefix: the prefix or its last components, with or without the final dot; empty selects the only LSTM,
        or the one at the root.
      others: prefix -> "GRU" or "RNN", named in the error message.
    """
    prefixes = list(prefixes)
    listed = ", ".join(map(repr, prefixes))
    if not prefix:
        if "" in prefixes:
            return ""
        if len(prefixes) == 1:
            return prefixes[0]
        raise ValueError(f"prefix must select one of the LSTMs {listed}, got {prefix!r}")
    dotted = prefix if prefix.endswith(".") else f"{prefix}."
    matches = [p for p in prefixes if p == dotted]
    matches = matches or [p for p in prefixes if p.endswith(f".{dotted}")]
    if len(matches) == 1:
        return matches[0]
    kind = next((k for p, k in (others or {}).items() if f".{p}".endswith(f".{dotted}")), None)
    if matches:
        problem = "matches more than one LSTM"
    elif kind:
        problem = f"selects {WITH_ARTICLE[kind]}, which is not supported"
    else:
        problem = "matches no LSTM"
    raise ValueError(f"prefix {prefix!r} {problem}; the LSTMs are {listed}")


def _no_lstm_message(state_dict: Mapping[str, Any], kinds_by_prefix: Mapping[str, str]) -> str:
    if any("_all_weight_values" in name for name in state_dict):
        return (
            "the state dict has no LSTM, only a dynamically quantized one with packed weights; "
            "convert the float model that was quantized"
        )
    if kinds_by_prefix:
        layers = ", ".join(
            f"{prefix or 'the root'} is {WITH_ARTICLE[kind]}" for prefix, kind in kinds_by_prefix.items()
        )
        return (
            f"the state dict has no LSTM: {layers}; only LSTM and LSTMCell can be converted. Load a GRU or "
            "RNN with jaxlstm.load_state_dict(jaxlstm.nnx.GRU(...), state_dict), and a whole model with "
            "jaxlstm.from_module"
        )
    if not state_dict:
        return "the state dict has no LSTM: it is empty"
    names = ", ".join(list(state_dict)[:5])
    ellipsis = ", ..." if len(state_dict) > 5 else ""
    return f"the state dict has no LSTM; its {len(state_dict)} tensors are {names}{ellipsis}"
