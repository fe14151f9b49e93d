"""What an LSTM is, before any number: torch's constructor arguments, validated once.

The rules are those of ``torch.nn.LSTM.__init__`` (torch/nn/modules/rnn.py); each error adds what came
and how to mend it.
"""

from __future__ import annotations

import numbers
import operator
import warnings
from dataclasses import dataclass, field


@dataclass(frozen=True)
class LSTMConfig:
    """The constructor arguments of ``torch.nn.LSTM``, same names, defaults and meaning.

    Frozen and hashable: it can be a static argument of ``jax.jit``.

    Args:
      input_size: features of one time step of the input.
      hidden_size: units of the cell state, written H.
      num_layers: layers stacked on one another.
      bias: whether each layer has ``bias_ih`` and ``bias_hh``.
      batch_first: input and output are (batch, time, feature) rather than (time, batch, feature).
        States are (layers * directions, batch, feature) either way, as in torch.
      dropout: share of elements zeroed after each layer but the last, in training only.
      bidirectional: each layer also runs from the last time step to the first.
      proj_size: if above zero, h is projected to this many features by ``weight_hr``.

    Raises:
      TypeError: an argument of the wrong type.
      ValueError: an argument out of its range.
    """

    input_size: int
    hidden_size: int
    num_layers: int = 1
    bias: bool = True
    batch_first: bool = False
    dropout: float = 0.0
    bidirectional: bool = False
    proj_size: int = 0

    def __post_init__(self) -> None:
        for name in ("input_size", "hidden_size", "num_layers"):
            self._set(name, _positive_int(name, getattr(self, name)))
        for name in ("bias", "batch_first", "bidirectional"):
            _require_bool(name, getattr(self, name))
        self._set("dropout", _probability("dropout", self.dropout))
        self._set("proj_size", _projection(self.proj_size, self.hidden_size))
        if self.dropout > 0 and self.num_layers == 1:
            warnings.warn(
                f"dropout={self.dropout} has no effect: it acts after each layer but the last, and "
                "num_layers is 1. Set dropout=0.0, or stack more layers.",
                stacklevel=3,
            )

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # the dataclass is frozen

    @property
    def num_directions(self) -> int:
        """2 if bidirectional, else 1: D in torch's documentation."""
        return 2 if self.bidirectional else 1

    @property
    def h_size(self) -> int:
        """Features of h: ``proj_size`` if there is a projection, else ``hidden_size``."""
        return self.proj_size or self.hidden_size

    @property
    def output_size(self) -> int:
        """Features of one time step of the output: those of h, for each direction."""
        return self.h_size * self.num_directions

    def layer_input_size(self, layer: int) -> int:
        """Features that layer number ``layer`` reads: the input's, or the output's of the one below."""
        return self.input_size if layer == 0 else self.output_size

    def state_shapes(self, batch: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Shapes of h and c for ``batch`` sequences."""
        slots = self.num_layers * self.num_directions
        return (slots, batch, self.h_size), (slots, batch, self.hidden_size)


@dataclass(frozen=True)
class LSTMCellConfig(LSTMConfig):
    """The constructor arguments of ``torch.nn.LSTMCell``: ``LSTMCellConfig(input_size, hidden_size, bias)``.

    It is also the config of a one-layer LSTM whose parameters have no ``_l0`` in their names, so that
    whatever takes an :class:`LSTMConfig` runs such a cell over time too.
    """

    num_layers: int = field(default=1, init=False, repr=False)
    batch_first: bool = field(default=False, init=False, repr=False)
    dropout: float = field(default=0.0, init=False, repr=False)
    bidirectional: bool = field(default=False, init=False, repr=False)
    proj_size: int = field(default=0, init=False, repr=False)


def _positive_int(name: str, value: object) -> int:
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            f"{name} must be an int, got {value!r} of type {type(value).__name__}"
        ) from None
    if number <= 0:
        raise ValueError(f"{name} must be greater than zero, got {number}")
    return number


def _require_bool(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(
            f"{name} must be a bool, got {value!r} of type {type(value).__name__}; "
            f"pass {name}=True or {name}=False"
        )


def _probability(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"{name} must be a number from 0 to 1, got {value!r} of type {type(value).__name__}"
        )
    if not 0 <= float(value) <= 1:  # also false for NaN
        raise ValueError(
            f"{name} must be in [0, 1], the share of elements to zero; got {float(value)}"
        )
    return float(value)


def _projection(proj_size: object, hidden_size: int) -> int:
    try:
        number = operator.index(proj_size)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            f"proj_size must be an int, got {proj_size!r} of type {type(proj_size).__name__}"
        ) from None
    if number < 0:
        raise ValueError(f"proj_size must be positive, or zero for no projection; got {number}")
    if number >= hidden_size:
        raise ValueError(
            f"proj_size must be smaller than hidden_size, got proj_size={number} and "
            f"hidden_size={hidden_size}; leave it at 0 for no projection"
        )
    return number
