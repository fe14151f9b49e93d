"""Other values for the parameters and statistics of both models, where it is known which arrays correspond.

A bias of zeros, a gain of one or statistics of (0, 1) that a port forgot do not show in its results. With
other values they do. An array moves by up to a quarter of each value, so that signs and zeros stay; an array
of zeros moves away from zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxlstm.check.cases.case import Array, Results, is_floating
from jaxlstm.check.subjects.pairing import Choice, Pairing

SHARE = 0.25
"""The largest change, relative to a value."""

CERTAIN = 1e-3
"""Gradients tell which of two arrays of equal values is meant if the distances have at most this ratio."""


@dataclass(frozen=True)
class Moves:
    """The moved arrays of torch and of the model by name.

    Attributes:
      missing: names of torch's arrays that the model lacks.
      fixed: names of torch's arrays that stay, at least in part.
    """

    theirs: Mapping[str, Array]
    ours: Mapping[str, Array]
    missing: Sequence[str]
    fixed: Sequence[str]


def moved_arrays(
    ours: Mapping[str, Array],
    theirs: Mapping[str, Array],
    pairing: Pairing,
    gradients: tuple[Results, Results] | None,
    constants: Sequence[Array],
    rng: np.random.Generator,
) -> Moves:
    """Return other values for the arrays that correspond, and for constant ones that the model lacks.

    ``pairing`` has every choice for each array of ours, and ``gradients`` the gradients of both models, if
    they were computed. ``constants`` are arrays that the model holds besides ``ours``.
    """
    theirs = {name: a for name, a in theirs.items() if is_floating(a)}
    choices = {name: choice for name in ours if (choice := _certain(name, pairing, gradients))}
    choices = {n: choice for n, choice in choices.items() if all(p.theirs in theirs for p in choice)}
    paired = {name: np.zeros(a.size, bool) for name, a in theirs.items()}
    missing = []
    for choice in choices.values():
        for layout in choice:
            paired[layout.theirs][layout.index[layout.index >= 0]] = True
    # An array without a counterpart may hold a constant one of torch's in another form.
    unpaired_sizes = [0, *(a.size for a in constants), *(a.size for n, a in ours.items() if n not in choices)]
    for name, array in theirs.items():
        # The other bias may hold the sum of both.
        both = {name, name.replace("bias_ih", "bias_hh"), name.replace("bias_hh", "bias_ih")} & paired.keys()
        if not any(paired[n].any() for n in both) and array.size > max(unpaired_sizes) and _is_special(array):
            paired[name][:] = True
            missing.append(name)
    moved = {name: _moved(theirs[name], places, rng) for name, places in paired.items() if places.any()}

    def ours_of(name: str, choice: Choice) -> Array:
        index = choice[0].index
        values = [np.asarray(moved[layout.theirs], np.float64).ravel()[layout.index] for layout in choice]
        return np.where(index < 0, np.asarray(ours[name], np.float64), sum(values))

    fixed = [name for name, a in theirs.items() if a.size and not paired[name].all()]
    return Moves(moved, {name: ours_of(name, choice) for name, choice in choices.items()}, missing, fixed)


def _certain(name: str, pairing: Pairing, gradients: tuple[Results, Results] | None) -> Choice | None:
    """Return the choice for an array if there is no other, or if its gradients fit no other."""
    choices = pairing.choices.get(name, ())
    if len(choices) < 2 or gradients is None:
        return choices[0] if len(choices) == 1 else None
    ours, theirs = (results.gradients or {} for results in gradients)
    if name not in ours or not all(layout.theirs in theirs for choice in choices for layout in choice):
        return None
    best, second, *_ = sorted(choices, key=lambda choice: pairing.distance(name, choice, ours, theirs))
    near, far = (pairing.distance(name, choice, ours, theirs) for choice in (best, second))
    return best if near <= CERTAIN * far and far else None


def _is_special(array: Array) -> bool:
    """Return True for an array of zeros or of ones."""
    return bool((array == 0).all() or (array == 1).all())


def _moved(array: Array, places: Array, rng: np.random.Generator) -> Array:
    step = rng.uniform(-SHARE, SHARE, array.shape)
    values = np.asarray(array, np.float64)
    moved = values + step if not values.any() else values * (1 + step)
    return np.where(places.reshape(array.shape), moved, values).astype(array.dtype)
