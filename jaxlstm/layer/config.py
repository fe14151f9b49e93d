"""Configurations: the arguments of torch's recurrent layers, validated, and as JSON."""

import dataclasses
import json
import numbers
import operator
import sys
import warnings
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True)
class LayerConfig:
    """The constructor arguments that torch's LSTM, GRU and RNN share, see :class:`LSTMConfig`."""

    input_size: int
    hidden_size: int
    num_layers: int = 1
    bias: bool = True
    batch_first: bool = False
    dropout: float = 0.0
    bidirectional: bool = False

    gates: ClassVar[tuple[str, ...]] = ()
    """The gates in the order of the rows of ``weight_ih`` and ``weight_hh``."""

    def __post_init__(self) -> None:
        for name in ("input_size", "hidden_size", "num_layers"):
            self._set(name, positive_int(name, getattr(self, name)))
        for name in ("bias", "batch_first", "bidirectional"):
            if not isinstance(value := getattr(self, name), bool):
                raise TypeError(
                    f"{name} must be a bool, got {value!r} of type {type(value).__name__}; "
                    f"pass {name}=True or {name}=False"
                )
        self._set("dropout", _probability("dropout", self.dropout))
        if self.dropout > 0 and self.num_layers == 1:
            warnings.warn(
                f"dropout={self.dropout} has no effect: it follows each layer except the last, and "
                "num_layers is 1. Set dropout=0.0, or add layers.",
                stacklevel=_stacklevel_of_the_user(),
            )

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    @property
    def num_directions(self) -> int:
        """Number of directions: 2 if bidirectional, else 1 (D in torch's documentation)."""
        return 2 if self.bidirectional else 1

    @property
    def h_size(self) -> int:
        """Number of features of h."""
        return self.hidden_size

    @property
    def output_size(self) -> int:
        """Number of features of the output, ``h_size`` for each direction."""
        return self.h_size * self.num_directions

    def layer_input_size(self, layer: int) -> int:
        """Return the number of input features of a layer."""
        return self.input_size if layer == 0 else self.output_size

    def state_shapes(self, batch: int) -> tuple[tuple[int, int, int], ...]:
        """Return the shapes of the arrays of the state for ``batch`` sequences."""
        return ((self.num_layers * self.num_directions, batch, self.hidden_size),)


@dataclass(frozen=True)
class GRUConfig(LayerConfig):
    """The constructor arguments of ``torch.nn.GRU``."""

    gates = ("r", "z", "n")


@dataclass(frozen=True)
class GRUCellConfig(GRUConfig):
    """The constructor arguments of ``torch.nn.GRUCell``, by keyword."""


@dataclass(frozen=True)
class RNNConfig(LayerConfig):
    """The constructor arguments of ``torch.nn.RNN``; ``nonlinearity`` is "tanh" or "relu"."""

    nonlinearity: str = "tanh"

    gates = ("h",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"nonlinearity must be 'tanh' or 'relu', got {self.nonlinearity!r}")


@dataclass(frozen=True)
class LSTMConfig(LayerConfig):
    """The constructor arguments of ``torch.nn.LSTM``, with its names and defaults.

    A config is immutable and hashable, so it can be a static argument of ``jax.jit``.

    Args:
      input_size: number of features of the input.
      hidden_size: number of features of the cell state, H.
      num_layers: number of stacked layers.
      bias: use ``bias_ih`` and ``bias_hh``.
      batch_first: inputs and outputs are (batch, time, feature) instead of (time, batch, feature). States
        are (layers * directions, batch, feature) in both cases.
      dropout: probability of zeroing an element of the outputs of each layer except the last, in training.
      bidirectional: add a reverse direction to each layer.
      proj_size: number of features of h after the projection by ``weight_hr``; 0 for no projection.

    Raises:
      TypeError: an argument has the wrong type.
      ValueError: an argument is out of range.
    """

    proj_size: int = 0

    gates = ("i", "f", "g", "o")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("proj_size", _projection(self.proj_size, self.hidden_size))

    @property
    def h_size(self) -> int:
        """Number of features of h: ``proj_size`` with a projection, else ``hidden_size``."""
        return self.proj_size or self.hidden_size

    def state_shapes(self, batch: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Return the shapes of h and c for ``batch`` sequences."""
        slots = self.num_layers * self.num_directions
        return (slots, batch, self.h_size), (slots, batch, self.hidden_size)


@dataclass(frozen=True)
class LSTMCellConfig(LSTMConfig):
    """The constructor arguments of ``torch.nn.LSTMCell``: ``LSTMCellConfig(input_size, hidden_size, bias)``.

    It is also an :class:`LSTMConfig` of one layer whose parameter names have no suffix ``_l0``, so functions
    of an LSTM can run a cell over time.
    """

    num_layers: int = field(default=1, init=False, repr=False)
    batch_first: bool = field(default=False, init=False, repr=False)
    dropout: float = field(default=0.0, init=False, repr=False)
    bidirectional: bool = field(default=False, init=False, repr=False)
    proj_size: int = field(default=0, init=False, repr=False)


def _stacklevel_of_the_user() -> int:
    """Return the ``stacklevel`` with which a warning of the caller names the first line outside this library.

    A config is also built from files and by ``dataclasses.replace``. Python shows a repeated warning once if
    each names the same line.
    """
    internal = ("jaxlstm", "jaxlstm_converters", "dataclasses")
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in internal:
        level, frame = level + 1, frame.f_back
    return level


def _int(name: str, value: object) -> int:
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be an int, got {value!r} of type {type(value).__name__}") from None


def positive_int(name: str, value: object) -> int:
    """Return ``value`` as an int; raise torch's error if it is zero or negative."""
    number = _int(name, value)
    if number <= 0:
        raise ValueError(f"{name} must be greater than zero, got {number}")
    return number


def _probability(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number from 0 to 1, got {value!r} of type {type(value).__name__}")
    if not 0 <= float(value) <= 1:
        raise ValueError(
            f"{name} must be in [0, 1], the probability of zeroing an element; got {float(value)}"
        )
    return float(value)


def _projection(proj_size: object, hidden_size: int) -> int:
    number = _int("proj_size", proj_size)
    if number < 0:
        raise ValueError(f"proj_size must be positive, or zero for no projection; got {number}")
    if number >= hidden_size:
        raise ValueError(
            f"proj_size must be smaller than hidden_size, got proj_size={number} and "
            f"hidden_size={hidden_size}; leave it at 0 for no projection"
        )
    return number


def require_config(config: Any) -> LSTMConfig:
    """Return the config, or raise TypeError."""
    if not isinstance(config, LSTMConfig):
        raise TypeError(f"config must be an LSTMConfig or LSTMCellConfig, got {type(config).__name__}")
    return config


METADATA_KEY = "jaxlstm"
ASSUMABLE = ("batch_first", "dropout")
"""The arguments of an LSTM that follow from no tensor."""
_TYPES = {"LSTM": LSTMConfig, "LSTMCell": LSTMCellConfig}


def config_to_dict(config: LSTMConfig, assumed: Collection[str] = ()) -> dict[str, Any]:
    """Return the constructor arguments by name, and ``type``: "LSTM" or "LSTMCell".

    ``assumed`` names the arguments that the source of the LSTM did not record. They are listed under
    "assumed", unless there are none.
    """
    kind = "LSTMCell" if isinstance(config, LSTMCellConfig) else "LSTM"
    fields = [field.name for field in dataclasses.fields(config) if field.init]
    data = {"type": kind, **{name: getattr(config, name) for name in fields}}
    return {**data, "assumed": list(assumed)} if assumed else data


def saved_metadata(prefix: str, config: LSTMConfig, assumed: Collection[str] = ()) -> str:
    """Return prefix and config as one line of JSON, stored under :data:`METADATA_KEY`."""
    return json.dumps({"prefix": prefix, "config": config_to_dict(config, assumed)})


def saved_config(text: str) -> tuple[str, LSTMConfig, tuple[str, ...]]:
    """Return prefix, config and assumed arguments from :func:`saved_metadata`; raise ValueError otherwise."""
    try:
        data = json.loads(text)
        arguments = dict(data["config"])
        kind, assumed = arguments.pop("type"), arguments.pop("assumed", [])
        if isinstance(assumed, list) and set(assumed) <= set(ASSUMABLE):
            return str(data["prefix"]), _TYPES[kind](**arguments), tuple(assumed)
        raise TypeError(f"assumed must list some of {ASSUMABLE}, got {assumed!r}")
    except (KeyError, TypeError, RecursionError, json.JSONDecodeError) as error:
        raise ValueError(f"metadata {METADATA_KEY!r} is not from jaxlstm: {text[:80]!r}") from error
