"""Pairing modules with torch's by their paths, and parameters by their values, without any converter.

A parameter of the model holds the values of one of torch's in some order: transposed, reshaped, flipped, or
one block of rows of a packed parameter. The order that reproduces the values bit for bit also relates the
gradients. A bias may be the sum of torch's ``bias_ih`` and ``bias_hh``.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from jaxlstm.check.cases.case import Array


@dataclass(frozen=True)
class ParameterLayout:
    """The order in which a parameter holds the values of one of torch's.

    ``index`` has the shape of the parameter and holds positions in torch's flattened parameter, or -1 where
    equal values leave the position open.
    """

    theirs: str
    index: Array


Choice = tuple[ParameterLayout, ...]
"""The layouts of one parameter: one of them, or two whose values are added."""


@dataclass(frozen=True)
class Pairing:
    """The layouts of each parameter of a model.

    Attributes:
      choices: by parameter, every choice that reproduces its values; empty for a parameter without one.
    """

    choices: Mapping[str, tuple[Choice, ...]]

    @property
    def unpaired(self) -> list[str]:
        """The parameters whose values are not a re-ordering of torch's."""
        return [name for name, choices in self.choices.items() if not choices]

    def resolve(self, ours: Mapping[str, Array], theirs: Mapping[str, Array]) -> Pairing:
        """Keep for each parameter the choice whose gradients agree best.

        Equal values, such as a bias of zeros, leave several choices, each of which makes the same model.
        """

        def best(name: str, choices: tuple[Choice, ...]) -> tuple[Choice, ...]:
            if len(choices) < 2:
                return choices
            return (min(choices, key=lambda c: self.distance(name, c, ours, theirs)),)

        return Pairing({name: best(name, choices) for name, choices in self.choices.items()})

    def distance(
        self, name: str, choice: Choice, ours: Mapping[str, Array], theirs: Mapping[str, Array]
    ) -> float:
        """Return the largest difference of the gradients; statistics, which have none, are not far off."""
        if not all(p.theirs in theirs for p in choice):
            return 1e-3 * float(np.max(np.abs(ours[name]), initial=0.0))
        errors = [
            ours[name] - np.where(p.index < 0, ours[name], theirs[p.theirs].flat[p.index]) for p in choice
        ]
        return float(max(np.max(np.abs(error), initial=0.0) for error in errors))

    def gradients(self, ours: Mapping[str, Array], theirs: Mapping[str, Array]) -> dict[str, Array]:
        """Return our gradients under torch's names and in torch's order.

        Gradients of parameters that torch ties are added up. Elements that no parameter holds are torch's.
        """
        totals: dict[str, Array] = {}
        covered: dict[str, Array] = {}
        for name, choices in self.choices.items():
            for layout in choices[0] if choices else ():
                if layout.theirs not in theirs:  # Statistics, which have no gradient in torch.
                    continue
                size, valid = theirs[layout.theirs].size, layout.index >= 0
                total = totals.setdefault(layout.theirs, np.zeros(size, ours[name].dtype))
                np.add.at(total, layout.index[valid], ours[name][valid])
                covered.setdefault(layout.theirs, np.zeros(size, bool))[layout.index[valid]] = True
        complete = {
            name: np.where(covered[name], total, theirs[name].ravel().astype(total.dtype))
            for name, total in totals.items()
        }
        return {name: total.reshape(theirs[name].shape) for name, total in complete.items()}

    def summed(self) -> dict[str, tuple[str, str]]:
        """Return the names of the two parameters of torch whose sum a parameter holds."""
        firsts = {name: choices[0] for name, choices in self.choices.items() if choices}
        return {name: (a.theirs, b.theirs) for name, (a, *rest) in firsts.items() for b in rest}


def pair_parameters(
    ours: Mapping[str, Array], theirs: Mapping[str, Array], same_module: Callable[[str, str], bool]
) -> Pairing:
    """Find the layouts of each parameter; pairs of which ``same_module`` is True are preferred."""
    sources = _Sources(theirs)

    def choices(name: str, value: Array) -> tuple[Choice, ...]:
        layouts = [*sources.layouts(value), *sources.sums(value)]
        same_path = [choice for choice in layouts if same_module(name, choice[0].theirs)]
        # Two biases of zeros have equal gradients, too.
        last = [(name.rpartition(".")[2],)]
        same_name = [c for c in same_path if [tuple(part.theirs.rpartition(".")[2] for part in c)] == last]
        return tuple(same_name or same_path or layouts)

    return Pairing({name: choices(name, value) for name, value in ours.items()})


class _Sources:
    """torch's parameters, and the sorted values of their blocks of rows."""

    def __init__(self, params: Mapping[str, Array]) -> None:
        self._params = params
        self._sorted: dict[tuple[str, int, int, str], Array] = {}

    def layouts(self, value: Array) -> Iterator[Choice]:
        """Yield every order of a parameter or of one of its blocks that gives ``value``."""
        sorted_value = np.sort(value, axis=None)
        for name, param in self._params.items():
            blocks = param.size // value.size if value.size else 0
            if not blocks or param.size % value.size or (blocks > 1 and len(param) % blocks):
                continue
            for block in range(blocks):
                if not np.array_equal(self._sorted_block(name, blocks, block, value.dtype), sorted_value):
                    continue
                index = np.arange(param.size).reshape(param.shape)
                if blocks > 1:
                    index = np.split(index, blocks)[block]
                yield from ((layout,) for layout in _orders(name, param.astype(value.dtype), index, value))

    def sums(self, value: Array) -> Iterator[Choice]:
        """Yield the pairs of torch's biases whose sum is ``value``, whole or one block of it."""
        for name, param in self._params.items():
            partner = name.replace("bias_ih", "bias_hh")
            if partner == name or partner not in self._params:
                continue
            both = param, self._params[partner]
            single = np.add(*both).astype(value.dtype)
            double = np.add(*(a.astype(np.float64) for a in both)).astype(value.dtype)
            blocks = param.size // value.size if value.size else 0
            if not blocks or param.size % value.size:
                continue
            for index in np.split(np.arange(param.size), blocks):
                if any(np.array_equal(total[index], value.ravel()) for total in (single, double)):
                    index = index.reshape(value.shape)
                    yield tuple(ParameterLayout(source, index) for source in (name, partner))

    def _sorted_block(self, name: str, blocks: int, block: int, dtype: np.dtype) -> Array:
        key = (name, blocks, block, str(dtype))
        if key not in self._sorted:
            param = self._params[name]
            part = np.split(param, blocks)[block] if blocks > 1 else param
            self._sorted[key] = np.sort(part.astype(dtype), axis=None)
        return self._sorted[key]


def _orders(name: str, param: Array, index: Array, value: Array) -> Iterator[ParameterLayout]:
    """Yield the permutations and flips that give ``value``, or else the order of the values themselves."""
    matched = False
    spatial = tuple(range(2, index.ndim))
    for flipped in (False, True) if spatial else (False,):
        base = np.flip(index, spatial) if flipped else index
        for axes in itertools.permutations(range(index.ndim)):
            candidate = base.transpose(axes).reshape(value.shape)
            if np.array_equal(param.flat[candidate], value):
                matched = True
                yield ParameterLayout(name, candidate)
    if not matched:
        yield ParameterLayout(name, _by_value(param.ravel()[index.ravel()], index.ravel(), value))


def _by_value(param: Array, index: Array, value: Array) -> Array:
    """Return the position of each value, or -1 for values that occur more than once."""
    order = np.argsort(param, kind="stable")
    positions = np.empty(value.size, np.int64)
    positions[np.argsort(value, axis=None, kind="stable")] = index[order]
    _, inverse, counts = np.unique(value.ravel(), return_inverse=True, return_counts=True)
    return np.where(counts[inverse] == 1, positions, -1).reshape(value.shape)


class ModuleNames:
    """The map from torch's module paths to ours: a prefix in ``names`` is replaced, the longest first.

    Paths are compared without the ``layers`` that ``nnx.Sequential`` adds, and ``layers[0]`` equals
    ``layers.0``.
    """

    def __init__(self, names: Mapping[str, str] | None) -> None:
        """Take ``names``, which maps torch prefixes to ours."""
        names = {} if names is None else names
        if not isinstance(names, Mapping) or not all(
            isinstance(s, str) for pair in names.items() for s in pair
        ):
            raise TypeError(f"names must map torch prefixes to prefixes of the model, got {names!r}")
        self._names = sorted(names.items(), key=lambda pair: -len(pair[0]))

    def ours(self, theirs: str) -> str:
        """Return the path of the model that a torch path corresponds to."""
        for prefix, replacement in self._names:
            if theirs == prefix or theirs.startswith(prefix + "."):
                return (replacement + theirs[len(prefix) :]).strip(".")
        return theirs

    def match(self, ours: str, theirs: str) -> bool:
        """Return True if two module paths correspond."""
        return _plain(ours) == _plain(self.ours(theirs))

    def same_module(self, our_parameter: str, their_parameter: str) -> bool:
        """Return True if two parameters belong to modules that correspond."""
        return self.match(our_parameter.rpartition(".")[0], their_parameter.rpartition(".")[0])


def _plain(path: str) -> str:
    steps = re.sub(r"\[(\w+)\]", r".\1", path).split(".")
    return ".".join(step for step in steps if step not in ("layers", ""))
