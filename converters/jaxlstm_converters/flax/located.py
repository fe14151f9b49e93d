"""The tensors of a source under plain names, without nesting and wrappers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from jaxlstm_converters.flax.names import (
    COUNT,
    Names,
    find_root,
    is_training_state,
    leading_keys,
    without_wrappers,
)
from jaxlstm_converters.flax.plan import Plan
from jaxlstm_converters.flax.source import Source
from jaxlstm_converters.lstm.fold import WeightNorm, fold, fold_pruning, is_length_of


@dataclass
class Located:
    """The tensors of a model in a source.

    Attributes:
      tensors: plain name -> tensor.
      original: plain name -> name in the source.
      settings: plain prefix of a layer -> the settings that the source records.
      notes: one line per folded weight and per group of tensors that are not part of the model.
      root: the prefix among the plain names below which most of the model was found; often empty.
      key: the usual key that was removed from the names, such as "model_state_dict"; often empty.
      beside: name in the source -> tensor beside ``key`` that may be part of a larger model.
    """

    tensors: dict[str, Any]
    original: dict[str, str]
    settings: dict[str, dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    root: str = ""
    key: str = ""
    beside: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def layers(self) -> dict[str, set[str]]:
        """Prefix of a layer -> the last components of its tensors."""
        layers: dict[str, set[str]] = {}
        for name in self.tensors:
            prefix, _, last = name.rpartition(".")
            layers.setdefault(prefix, set()).add(last)
        return layers

    def has(self, name: str) -> bool:
        """Return True if there is a tensor of this plain name."""
        return name in self.tensors


def locate(source: Source, plan: Plan, names: Names) -> Located:
    """Find the tensors of a model.

    Args:
      source: the source.
      plan: the plan of the model without a source.
      names: the user's map. Its torch prefixes become plain, too.
    """
    tensors, fold_notes, _ = fold(source.tensors)
    keep = {part for name in plan.flax_names for part in name.split(".")}
    plain = {name: without_wrappers(name, keep) for name in tensors}
    wanted = [without_wrappers(name, keep) for name in plan.torch_names]
    root = find_root(plain.values(), wanted)
    removed = leading_keys(root)
    start = f"{removed}." if removed else ""
    names.make_plain(lambda torch: without_wrappers(torch, keep).removeprefix(start))

    found = set(plain.values()).intersection(f"{root}.{name}" for name in wanted)
    most = 2 * len(found) >= len(wanted)
    located = Located({}, {}, {}, list(fold_notes), root.removeprefix(removed).strip(".") if most else "")
    ignored: list[str] = []
    for original, name in plain.items():
        if not _is_model(name, start, names) or (name.rpartition(".")[2] == COUNT and name not in wanted):
            if name.startswith(start) or names.selected or is_training_state(name, removed):
                ignored.append(original)
            else:
                located.beside[original] = tensors[original]
            continue
        name = name[len(start) :]
        if name in located.tensors:
            raise ValueError(
                f"source holds {located.original[name]!r} and {original!r}, which are the same tensor of the "
                "model once wrappers are removed; remove one"
            )
        located.tensors[name], located.original[name] = tensors[original], original
    for prefix, settings in source.settings.items():
        located.settings[without_wrappers(prefix, keep).removeprefix(start)] = settings
    located.key = removed
    if ignored:
        located.notes.append(_ignored_note(ignored, removed or ", ".join(names.selected)))
    return located


def _is_model(name: str, start: str, names: Names) -> bool:
    """Return True unless a tensor lies outside the root, or outside the part that ``names`` selects."""
    if not name.startswith(start):
        return False
    name = name[len(start) :]
    return not names.selected or any(name.startswith(f"{prefix}.") for prefix in names.flax_of if prefix)


def _ignored_note(ignored: list[str], root: str) -> str:
    groups = sorted({name.split(".")[0] for name in ignored})
    return f"{len(ignored)} tensors outside {root!r} are ignored: {', '.join(groups[:8])}"


def fold_reparametrized(located: Located, expected: Iterable[str]) -> None:
    """Fold pruning, and weight normalization for layers of the model that do not have it."""
    expected = set(expected)
    for name in expected - located.tensors.keys():
        fold_pruning(located.tensors, located.notes, name)
        if name in located.tensors:
            located.original[name] = located.original[f"{name}_orig"]
        pair = f"{name}_g", f"{name}_v"
        if not expected.isdisjoint(pair) or not all(map(located.has, pair)):
            continue
        g, v = (located.tensors[part] for part in pair)
        if is_length_of(g, v):
            for part in pair:
                del located.tensors[part]
            located.tensors[name] = WeightNorm(g, v)
            located.original[name] = located.original[pair[1]]
            located.notes.append(f"{name} = {pair[1]} * ({pair[0]} / norm({pair[1]})) (weight normalization)")
