"""The types of layers, and their names and sizes in a state dict."""

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxlstm_converters.layer_kinds import KINDS
from jaxlstm_converters.lstm.fold import parts_of_weights


class Variable(NamedTuple):
    """A weight or buffer of a module.

    Attributes:
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
    weights = {
        name: (weight, parts)
        for weight, parts in parts_of_weights(tensors).items()
        if "orig" in parts or any(part.startswith("original") for part in parts)
        for name in parts.values()
    }
    modules: dict[str, Module] = defaultdict(dict)
    for name, tensor in tensors.items():
        weight, parts = weights.get(name, (name, {}))
        start = weight.rfind(".") + 1
        prefix, leaf = weight[:start], weight[start:]
        outer = prefix.removesuffix("out_proj.")
        if outer != prefix and (f"{outer}in_proj_weight" in tensors or f"{outer}q_proj_weight" in tensors):
            prefix, leaf = outer, f"out_proj.{leaf}"
        is_spectral = not parts.keys().isdisjoint({"u", "0._u"})
        note = "spectral normalization" if is_spectral else "a parametrization" * ("original" in parts)
        shape = tuple(tensors[parts.get("orig") or parts.get("original") or name].shape)
        variable = Variable(shape, {}, getattr(tensor, "note", note))
        modules[prefix].setdefault(leaf, variable).tensors[name] = tensor
    return modules


Shapes = Mapping[str, tuple[int, ...]]
"""Name in the layer -> shape."""

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")

# Words in a layer's name that decide among types with the same tensors, tried in this order.
_WORDS = {
    "ConvTranspose": r"transpose|deconv|upconv|convt|^up",
    "Conv": r"conv|down|shortcut|stem|patch",
    "Embedding": r"emb|^w[tp]e$|lookup|vocab",
    "Linear": r"lin|^fc|dense|proj|head|classif|logit|mlp|^[qkvo]$",
    "GroupNorm": r"group_?norm|^gn",
    "InstanceNorm": r"instance_?norm",
    "RMSNorm": r"rms",
    "PReLU": r"prelu|^act",
    "LayerNorm": r"layer_?norm|^ln",
}


class LayerType(NamedTuple):
    """A type that fits.

    Attributes:
      sizes: argument -> value, as far as the shapes tell.
      not_recorded: arguments that a state dict does not record.
    """

    name: str
    sizes: dict[str, Any] = {}  # noqa: RUF012 - never changed
    not_recorded: tuple[str, ...] = ()

    def with_settings(self, recorded: Mapping[str, Any]) -> "LayerType":
        """Return the type with the arguments that the source records, although a state dict does not."""
        settings = {name: recorded[name] for name in self.not_recorded if name in recorded}
        missing = tuple(name for name in self.not_recorded if name not in recorded)
        return self._replace(sizes={**self.sizes, **settings}, not_recorded=missing)


def claimed_names(shapes: Shapes) -> list[str]:
    """Return the names of the tensors that may form one layer of torch."""
    return max((kind.claimed(shapes) for kind in KINDS), key=len)


def fitting_types(shapes: Shapes) -> list[LayerType]:
    """Return the types whose tensors have exactly these names and shapes, the likeliest first."""
    fitting: dict[bool, dict[str, LayerType]] = {False: {}, True: {}}
    for kind in KINDS:
        if len(kind.claimed(shapes)) == len(shapes) > 0 and (axes := kind.axes(shapes)) is not None:
            name = kind.name.format(k=len(axes.get("*k", ())))
            type_ = LayerType(name, kind.arguments(axes), tuple(kind.settings))
            fitting[kind.is_rare].setdefault(name, type_)
    return list((fitting[False] or fitting[True]).values())


def choose_by_name(types: list[LayerType], name: str) -> list[LayerType]:
    """Return the one type that a word in the layer's name implies, or all types."""
    if len(types) < 2:
        return types
    # Models call an RMSNorm "layernorm" too; without a bias the word decides nothing.
    misleading = "LayerNorm" if any(t.name == "RMSNorm" for t in types) else ""
    for part in reversed(name.split(".")):
        for word, pattern in _WORDS.items():
            matches = [t for t in types if t.name.rstrip("123d") == word != misleading]
            if matches and re.search(pattern, part, re.IGNORECASE):
                return matches
    return types


def recorded_type(types: list[LayerType], recorded: Mapping[str, Any]) -> LayerType | None:
    """Return the type that a program records, with its arguments, or None if it is not one of ``types``."""
    for candidate in types:
        if candidate.name == recorded.get("type"):
            sizes, groups = candidate.with_settings(recorded).sizes, recorded.get("groups", 1)
            if isinstance(groups, int) and candidate.name.startswith("ConvTranspose"):
                sizes["out_channels"] *= 1 if sizes["bias"] else groups
            elif isinstance(groups, int) and "in_channels" in sizes:
                sizes["in_channels"] *= groups
            return candidate._replace(sizes=sizes, not_recorded=())
    return None
