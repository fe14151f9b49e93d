"""Fold reparametrized weights of a state dict into the weights that the model runs with.

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

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jaxlstm._shared.torch_tensors import as_numpy

_PART = re.compile(r"(?P<weight>.*[^.])_(?P<part>g|v|u|orig|mask|raw)", re.DOTALL)
_PARAMETRIZATION = re.compile(
    r"(?P<prefix>(?:.*\.)?)parametrizations\.(?P<base>\w+)\.(?P<part>original\d?|\d+\..+)", re.DOTALL
)
PARAMETER = re.compile(
    r"(.*\.)?(weight_ih|weight_hh|bias_ih|bias_hh|weight_hr)(?P<suffix>|_l(?P<layer>0|[1-9]\d*)(_reverse)?)",
    re.DOTALL,
)
"""The name of a parameter of a recurrent layer, with any prefix."""


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


@dataclass(frozen=True)
class ComputedWeight:
    """A weight that is computed from other tensors when it is read.

    Attributes:
      note: the reparametrization.
      parameters: the tensors that torch trains; the last one has the shape and dtype of the weight.
      function: returns the weight for the arrays of the parameters.
    """

    note: str
    parameters: tuple[Any, ...]
    function: Callable[..., np.ndarray]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return tuple(self.parameters[-1].shape)

    @property
    def dtype(self) -> Any:
        """Dtype of the weight."""
        return self.parameters[-1].dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        weight = self.function(*map(as_numpy, self.parameters))
        return weight if dtype is None else weight.astype(dtype)


def _normalized(g: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return ``v * (g / norm(v))``. The norm is accumulated in float64."""
    axes = tuple(axis for axis in range(v.ndim) if not g.ndim or g.shape[axis] != v.shape[axis])
    squares = np.square(v.astype(np.float64)).sum(axis=axes, keepdims=True)
    return v * (g / np.sqrt(squares).astype(v.dtype))


def _pruned(mask: Any) -> Callable[[np.ndarray], np.ndarray]:
    return lambda orig: orig * as_numpy(mask).astype(orig.dtype)


def parts_of_weights(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return weight -> part -> name, such as "lstm.weight_hh_l0" -> "g" -> "lstm.weight_hh_l0_g"."""
    parts: dict[str, dict[str, str]] = {}
    for name in names:
        if match := _PARAMETRIZATION.fullmatch(name):
            parts.setdefault(match["prefix"] + match["base"], {})[match["part"]] = name
        elif match := _PART.fullmatch(name):
            parts.setdefault(match["weight"], {})[match["part"]] = name
    return parts


def fold(state_dict: Mapping[str, Any], keep: Collection[str] = ()) -> Folded:
    """Return the state dict with each reparametrized weight under its plain name.

    The names in ``keep``, such as "lstm.weight_g", stay: the model itself has these parameters.
    """
    folded = Folded(dict(state_dict), [], {})
    for weight, parts in parts_of_weights(state_dict).items():
        start = weight.rfind(".") + 1
        is_of_lstm = PARAMETER.fullmatch(weight) is not None
        if any(name in keep for name in parts.values()) or (weight in state_dict and not is_of_lstm):
            continue
        problem = _fold(folded, weight, parts)
        if is_of_lstm and "raw" in parts:
            _fold_raw(folded, weight)
        if is_of_lstm and problem:
            folded.problems[weight[:start]] = problem
    return folded


def _fold(folded: Folded, weight: str, parts: Mapping[str, str]) -> str:
    """Fold the parts of a weight; return the reason if that is not possible, or ""."""
    tensors, kinds = folded.tensors, parts.keys()
    if kinds >= {"orig", "mask"}:
        orig, mask = parts["orig"], parts["mask"]
        if tuple(tensors[orig].shape) == tuple(tensors[mask].shape):
            tensors[weight] = ComputedWeight("pruning", (tensors.pop(orig),), _pruned(tensors.pop(mask)))
            folded.notes.append(f"{weight} = {orig} * {mask} (pruning)")
    custom = sorted(name for name in parts.values() if "parametrizations." in name)
    if custom and kinds != {"original0", "original1"} and kinds != {"original1"}:
        return (
            f"{weight} has a parametrization other than weight normalization ({', '.join(custom)}); pass the "
            "torch module to jaxlstm.from_torch, or call torch.nn.utils.parametrize.remove_parametrizations "
            "on it and save the model again"
        )
    g, v = parts.get("g") or parts.get("original0"), parts.get("v") or parts.get("original1")
    if g and not v:
        return f"{weight} cannot be folded: {g} needs a direction {weight}_v"
    if g and v and _is_length_of(tensors[g], tensors[v]):
        tensors[weight] = ComputedWeight(
            "weight normalization", (tensors.pop(g), tensors.pop(v)), _normalized
        )
        folded.notes.append(f"{weight} = {v} * ({g} / norm({v})) (weight normalization)")
    elif g and v:
        length, direction = tuple(tensors[g].shape), tuple(tensors[v].shape)
        return (
            f"{weight} cannot be folded: {g} has shape {length}, expected (), or the shape {direction} "
            f"of {v} with some axes of size 1"
        )
    return ""


def _is_length_of(g: Any, v: Any) -> bool:
    """Return True if g is a scalar, or has the shape of v with some axes of size 1."""
    if len(g.shape) != len(v.shape):
        return not g.shape
    return all(length in (1, size) for length, size in zip(g.shape, v.shape, strict=True))


def _fold_raw(folded: Folded, weight: str) -> None:
    """Move ``weight_hh_l0_raw`` to the module that holds the other weights of the LSTM."""
    start, raw = weight.rfind(".") + 1, f"{weight}_raw"
    siblings = (
        name.startswith(weight[:start]) and re.fullmatch(r"(weight|bias)_[ih]h.*", name[start:])
        for name in folded.tensors
        if not name.endswith("_raw")
    )
    weight = weight if any(siblings) else f"{weight[:start]}module.{weight[start:]}"
    folded.tensors[weight] = folded.tensors.pop(raw)
    folded.notes.append(f"{weight} = {raw} (weight drop, off in inference)")
