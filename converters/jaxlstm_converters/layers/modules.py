"""Group the tensors of a state dict by the module that holds them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

# The parts of a reparametrized weight: "weight_g", "weight_orig", "parametrizations.weight.original0".
_OLD_PART = re.compile(r"(?P<prefix>(?:.*\.)?)(?P<leaf>weight|bias)_(?P<part>g|v|u|orig|mask)", re.DOTALL)
_NEW_PART = re.compile(
    r"(?P<prefix>(?:.*\.)?)parametrizations\.(?P<leaf>\w+)\.(?P<part>original\d?|\d+\..+)", re.DOTALL
)
# The part with the weight's shape, another part, and the name of the reparametrization.
_REPARAMETRIZATIONS = (
    ("v", "g", "weight normalization"),
    ("original1", "original0", "weight normalization"),
    ("orig", "u", "spectral normalization"),
    ("orig", "mask", "pruning"),
    ("original", "0._u", "spectral normalization"),
    ("original", "original", "a parametrization"),
)


class Variable(NamedTuple):
    """A weight or buffer of a module.

    Attributes:
      shape: its shape.
      tensors: name in the state dict -> tensor; more than one for a reparametrized weight.
      note: the reparametrization, or "".
    """

    shape: tuple[int, ...]
    tensors: dict[str, Any]
    note: str = ""


Module = dict[str, Variable]
"""Name in the module -> variable."""


def group_by_module(tensors: Mapping[str, Any]) -> dict[str, Module]:
    """Return prefix -> module. The output projection of an attention layer belongs to that layer."""
    parts: dict[str, dict[str, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    for name in tensors:
        prefix, leaf, part = _split(name, tensors)
        parts[prefix][leaf][part] = name
    return {
        prefix: {leaf: _variable(names, tensors) for leaf, names in leaves.items()}
        for prefix, leaves in parts.items()
    }


def _split(name: str, tensors: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the prefix of a tensor's module, its name in the module, and the part of it or ""."""
    if match := _NEW_PART.fullmatch(name):
        return match["prefix"], match["leaf"], match["part"]
    if match := _OLD_PART.fullmatch(name):
        stem = name.rpartition("_")[0]
        if f"{stem}_orig" in tensors or {f"{stem}_g", f"{stem}_v"} <= tensors.keys():
            return match["prefix"], match["leaf"], match["part"]
    start = name.rfind(".") + 1
    prefix, leaf = name[:start], name[start:]
    outer = prefix.removesuffix("out_proj.")
    if outer != prefix and (f"{outer}in_proj_weight" in tensors or f"{outer}q_proj_weight" in tensors):
        return outer, f"out_proj.{leaf}", ""
    return prefix, leaf, ""


def _variable(names: Mapping[str, str], tensors: Mapping[str, Any]) -> Variable:
    shaping, note = next(iter(names)), ""
    for part, other, reparametrization in _REPARAMETRIZATIONS:
        if part in names and other in names:
            shaping, note = part, reparametrization
            break
    return Variable(
        tuple(tensors[names[shaping]].shape), {name: tensors[name] for name in names.values()}, note
    )
