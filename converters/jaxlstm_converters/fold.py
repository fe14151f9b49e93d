"""Weights that a checkpoint stores in another form: folded into the weights that the LSTM runs with.

- **Weight normalisation** (Salimans and Kingma, 2016, https://arxiv.org/abs/1602.07868): a direction v and
  a length g, stored as ``weight_hh_l0_v`` and ``weight_hh_l0_g`` (``torch.nn.utils.weight_norm``) or as
  ``parametrizations.weight_hh_l0.original1`` and ``original0`` (``torch.nn.utils.parametrizations``). The
  weight is ``v * (g / norm(v))``, the norm over all axes that g does not have.
- **Weight drop** (Merity et al., 2017, https://arxiv.org/abs/1708.02182): ``weight_hh_l0_raw`` is the weight
  before dropout, in the wrapper or in the module inside it; in inference it is the weight.

Each is said in the notes, since a folded weight does not go back into the module that it came from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

_WEIGHT = (
    r"(?P<prefix>(?:.*\.)?)(?P<base>(?:weight_(?:ih|hh|hr)|bias_(?:ih|hh))(?:_l\d+(?:_reverse)?)?)"
)
_LENGTH = re.compile(_WEIGHT + "_g", re.DOTALL)
_RAW = re.compile(_WEIGHT + "_raw", re.DOTALL)
_PARAMETRIZATION = re.compile(
    _WEIGHT.replace("(?P<base>", r"parametrizations\.(?P<base>") + r"\.(?P<part>.+)", re.DOTALL
)


class Folded(NamedTuple):
    """A state dict with plain names, what was done to get there, and what could not be done."""

    tensors: dict[str, Any]
    notes: list[str]
    problems: dict[str, str]  # prefix -> why


@dataclass(frozen=True)
class WeightNorm:
    """``v * (g / norm(v))``, computed when it is read."""

    g: Any
    v: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """That of v."""
        return tuple(self.v.shape)

    @property
    def dtype(self) -> Any:
        """That of v."""
        return self.v.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the weight."""
        return self.v.nbytes

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        from jaxlstm_converters.from_torch import as_numpy

        g, v = as_numpy(self.g), as_numpy(self.v)
        axes = tuple(axis for axis, size in enumerate(g.shape) if size != v.shape[axis])
        wide = np.square(v.astype(np.float64)).sum(axis=axes, keepdims=True)
        weight = v * (g / np.sqrt(wide).astype(v.dtype))
        return weight if dtype is None else weight.astype(dtype)


def fold(state_dict: Mapping[str, Any]) -> Folded:
    """The state dict with each weight under its plain name.

    A parametrization that is not weight normalisation is a problem of its LSTM, and not guessed at.
    """
    folded = Folded(dict(state_dict), [], {})
    for name in state_dict:
        if match := _LENGTH.fullmatch(name):
            _fold_weight_norm(folded, match, name, f"{name[:-2]}_v")
        elif match := _RAW.fullmatch(name):
            _fold_raw(folded, match, name)
        elif match := _PARAMETRIZATION.fullmatch(name):
            _fold_parametrization(folded, match, name)
    return folded


def _fold_weight_norm(folded: Folded, match: re.Match[str], g: str, v: str) -> None:
    tensors = folded.tensors
    weight = match["prefix"] + match["base"]
    if v not in tensors or len(tensors[g].shape) != len(tensors[v].shape):
        folded.problems[match["prefix"]] = f"{g} has no direction {v} of as many axes beside it"
        return
    tensors[weight] = WeightNorm(tensors.pop(g), tensors.pop(v))
    folded.notes.append(f"{weight} is folded from {g} and {v} (weight normalisation)")


def _fold_parametrization(folded: Folded, match: re.Match[str], name: str) -> None:
    stem = name[: -len(match["part"])]
    parts = {n for n in folded.tensors if n.startswith(stem)}
    if match["part"] == "original0" and parts == {f"{stem}original0", f"{stem}original1"}:
        _fold_weight_norm(folded, match, f"{stem}original0", f"{stem}original1")
    elif parts and match["part"] != "original1":
        folded.problems[match["prefix"]] = (
            f"{match['prefix']}{match['base']} has a parametrization that is not weight normalisation "
            f"({', '.join(sorted(parts))}); remove it in torch with "
            "torch.nn.utils.parametrize.remove_parametrizations, and save again"
        )


def _fold_raw(folded: Folded, match: re.Match[str], name: str) -> None:
    prefix, base = match["prefix"], match["base"]
    siblings = (
        n.startswith(prefix) and re.fullmatch(r"(weight|bias)_[ih]h.*", n[len(prefix) :])
        for n in folded.tensors
        if not n.endswith("_raw")
    )
    weight = (prefix if any(siblings) else f"{prefix}module.") + base
    folded.tensors[weight] = folded.tensors.pop(name)
    folded.notes.append(f"{weight} is {name} (weight drop, off in inference)")
