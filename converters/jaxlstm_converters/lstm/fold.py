"""Fold reparametrized weights of a state dict into the weights that the LSTM runs with.

- **Weight normalization** (Salimans and Kingma, 2016, https://arxiv.org/abs/1602.07868) stores a direction
  v and a length g, as ``weight_hh_l0_v`` and ``weight_hh_l0_g`` (``torch.nn.utils.weight_norm``) or as
  ``parametrizations.weight_hh_l0.original1`` and ``original0`` (``torch.nn.utils.parametrizations``). The
  weight is ``v * (g / norm(v))``; the norm runs over the axes on which g has size 1, or over all axes if g is
  a scalar (``dim=None``).
- **Pruning** (``torch.nn.utils.prune``) stores the weight before pruning as ``weight_hh_l0_orig`` and a mask
  as ``weight_hh_l0_mask``. The weight is their product.
- **Weight drop** (Merity et al., 2017, https://arxiv.org/abs/1708.02182) stores the weight before dropout as
  ``weight_hh_l0_raw``, in the wrapper or in the wrapped module. It is the weight in inference.

A folded weight cannot be loaded back into the module that it came from, so the notes list each one.
"""

import abc
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jaxlstm._shared.torch_tensors import as_numpy

_WEIGHT = r"(?P<prefix>(?:.*\.)?)(?P<base>(?:weight_(?:ih|hh|hr)|bias_(?:ih|hh))(?:_l\d+(?:_reverse)?)?)"
_LENGTH = re.compile(_WEIGHT + "_g", re.DOTALL)
_MASK = re.compile(_WEIGHT + "_mask", re.DOTALL)
_RAW = re.compile(_WEIGHT + "_raw", re.DOTALL)
_PARAMETRIZATION = re.compile(
    _WEIGHT.replace("(?P<base>", r"parametrizations\.(?P<base>") + r"\.(?P<part>.+)", re.DOTALL
)


class Folded(NamedTuple):
    """A state dict after folding.

    Attributes:
      tensors: every tensor, with each folded weight under its plain name.
      notes: one line per folded weight.
      problems: prefix of an LSTM -> the reason why one of its weights cannot be folded.
    """

    tensors: dict[str, Any]
    notes: list[str]
    problems: dict[str, str]


class ComputedWeight(abc.ABC):
    """A weight that is computed from other tensors when it is read."""

    @property
    @abc.abstractmethod
    def parameters(self) -> tuple[Any, ...]:
        """The tensors that torch trains; the last one has the shape and dtype of the weight."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return tuple(self.parameters[-1].shape)

    @property
    def dtype(self) -> Any:
        """Dtype of the weight."""
        return self.parameters[-1].dtype

    @abc.abstractmethod
    def compute(self) -> np.ndarray:
        """Return the weight."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        weight = self.compute()
        return weight if dtype is None else weight.astype(dtype)


@dataclass(frozen=True)
class WeightNorm(ComputedWeight):
    """The weight ``v * (g / norm(v))``."""

    g: Any
    v: Any

    @property
    def parameters(self) -> tuple[Any, ...]:
        """The length and the direction."""
        return self.g, self.v

    def compute(self) -> np.ndarray:
        """Return the weight. The norm is accumulated in float64."""
        g, v = as_numpy(self.g), as_numpy(self.v)
        axes = tuple(axis for axis in range(v.ndim) if not g.ndim or g.shape[axis] != v.shape[axis])
        squares = np.square(v.astype(np.float64)).sum(axis=axes, keepdims=True)
        return v * (g / np.sqrt(squares).astype(v.dtype))


@dataclass(frozen=True)
class Pruned(ComputedWeight):
    """The weight ``orig * mask``."""

    mask: Any
    orig: Any

    @property
    def parameters(self) -> tuple[Any, ...]:
        """The weight before pruning; the mask is a buffer."""
        return (self.orig,)

    def compute(self) -> np.ndarray:
        """Return the weight."""
        orig = as_numpy(self.orig)
        return orig * as_numpy(self.mask).astype(orig.dtype)


def is_length_of(g: Any, v: Any) -> bool:
    """Return True if g is a scalar, or has the shape of v with some axes of size 1."""
    if len(g.shape) != len(v.shape):
        return not g.shape
    return all(length in (1, size) for length, size in zip(g.shape, v.shape, strict=True))


def fold(state_dict: Mapping[str, Any], held: tuple[str, ...] = ()) -> Folded:
    """Return the state dict with each reparametrized weight under its plain name.

    A parametrization other than weight normalization is reported as a problem of its LSTM. Names that end
    with one of ``held`` (".lstm.weight_g") stay: the model itself has such parameters.
    """
    folded = Folded(dict(state_dict), [], {})
    for name in (name for name in state_dict if not f".{name}".endswith(held)):
        if match := _LENGTH.fullmatch(name):
            _fold_weight_norm(folded, match, name, f"{name[:-2]}_v")
        elif match := _MASK.fullmatch(name):
            fold_pruning(folded.tensors, folded.notes, match["prefix"] + match["base"])
        elif match := _RAW.fullmatch(name):
            _fold_raw(folded, match, name)
        elif match := _PARAMETRIZATION.fullmatch(name):
            _fold_parametrization(folded, match, name)
    return folded


def _fold_weight_norm(folded: Folded, match: re.Match[str], g: str, v: str) -> None:
    tensors = folded.tensors
    weight = match["prefix"] + match["base"]
    problem = ""
    if v not in tensors:
        problem = f"{g} needs a direction {v}"
    elif not is_length_of(tensors[g], tensors[v]):
        length, direction = tuple(tensors[g].shape), tuple(tensors[v].shape)
        problem = (
            f"{g} has shape {length}, expected (), or the shape {direction} of {v} with some axes of size 1"
        )
    if problem:
        folded.problems[match["prefix"]] = f"{weight} cannot be folded: {problem}"
        return
    tensors[weight] = WeightNorm(tensors.pop(g), tensors.pop(v))
    folded.notes.append(f"{weight} = {v} * ({g} / norm({v})) (weight normalization)")


def fold_pruning(tensors: dict[str, Any], notes: list[str], weight: str) -> None:
    """Replace ``weight_orig`` and ``weight_mask`` by the weight, if both are there and have one shape."""
    orig, mask = f"{weight}_orig", f"{weight}_mask"
    if orig in tensors and mask in tensors and tuple(tensors[orig].shape) == tuple(tensors[mask].shape):
        tensors[weight] = Pruned(tensors.pop(mask), tensors.pop(orig))
        notes.append(f"{weight} = {orig} * {mask} (pruning)")


def _fold_parametrization(folded: Folded, match: re.Match[str], name: str) -> None:
    stem = name[: -len(match["part"])]
    parts = {n for n in folded.tensors if n.startswith(stem)}
    if match["part"] == "original0" and parts == {f"{stem}original0", f"{stem}original1"}:
        _fold_weight_norm(folded, match, f"{stem}original0", f"{stem}original1")
    elif parts and match["part"] != "original1":
        folded.problems[match["prefix"]] = (
            f"{match['prefix']}{match['base']} has a parametrization other than weight normalization "
            f"({', '.join(sorted(parts))}); pass the torch module to jaxlstm.from_torch, or call "
            "torch.nn.utils.parametrize.remove_parametrizations on it and save the model again"
        )


def _fold_raw(folded: Folded, match: re.Match[str], name: str) -> None:
    """Move ``weight_hh_l0_raw`` to the module that holds the other weights of the LSTM."""
    prefix, base = match["prefix"], match["base"]
    siblings = (
        n.startswith(prefix) and re.fullmatch(r"(weight|bias)_[ih]h.*", n[len(prefix) :])
        for n in folded.tensors
        if not n.endswith("_raw")
    )
    weight = (prefix if any(siblings) else f"{prefix}module.") + base
    folded.tensors[weight] = folded.tensors.pop(name)
    folded.notes.append(f"{weight} = {name} (weight drop, off in inference)")
