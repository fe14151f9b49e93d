"""The layers of both models: their outputs in one run, compared in torch's order."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxlstm.check.model.layout import Pairing
from jaxlstm.check.model.names import ModuleNames
from jaxlstm.check.report.layers import LayerDifference

Array = np.ndarray

EQUAL = 1e-9
"""Distance in float64, relative to the largest element, within which two outputs are equal."""


@dataclass(frozen=True)
class LayerRecord:
    """One call of a module: its path, its type, and the arrays that it received and returned.

    Attributes:
      ragged: True if torch packed the sequences. Its arrays end at the longest one, with NaN in the padding.
    """

    path: str
    kind: str
    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]
    ragged: bool = False


def compare_layers(
    ours: Sequence[LayerRecord],
    theirs: Sequence[LayerRecord],
    names: ModuleNames,
    pairing: Pairing,
    limits: Mapping[int, float],
) -> list[LayerDifference]:
    """Compare the outputs of the layers that correspond, in torch's order of calls.

    Layers correspond if their paths do, or else if their parameters have the same values. Layers of torch
    without a counterpart are left out. ``limits`` holds the largest distance of equal outputs by position in
    ``theirs``; the default is ``EQUAL``.
    """
    by_path: dict[str, list[LayerRecord]] = {}
    for record in ours:
        by_path.setdefault(record.path, []).append(record)
    partners, calls = _partners(pairing), dict[str, int]()
    found = []
    for position, record in enumerate(theirs):
        calls[record.path] = call = calls.get(record.path, -1) + 1
        candidates = [path for path in by_path if names.match(path, record.path)] if record.path else [""]
        candidates += partners.get(record.path, ())
        records = [by_path[p][call] for p in candidates if p in by_path and len(by_path[p]) > call]
        if not records:
            continue
        compared = [(distance(r.outputs, record.outputs, record.ragged), r) for r in records]
        outputs, ours_record = min(compared, key=lambda pair: pair[0])
        found.append(
            LayerDifference(
                theirs=record.path,
                ours=ours_record.path,
                kind=record.kind,
                shape=shape_of(record.outputs),
                ours_shape=shape_of(ours_record.outputs),
                inputs=distance(ours_record.inputs, record.inputs, record.ragged),
                outputs=outputs,
                limit=limits.get(position, EQUAL),
            )
        )
    return found


def distance(ours: Sequence[Array], theirs: Sequence[Array], ragged: bool = False) -> float:
    """Return the largest difference of two lists of arrays, relative to the largest element of each.

    Axes may be permuted, as between channels first and last, and one side may have merged all axes but the
    last, as torch's models do before a linear layer. Arrays of other sizes are infinitely distant.
    If ``ragged`` is true, one axis of ours may be longer: the padding after torch's longest sequence.
    """
    floats = [[np.asarray(a, np.float64) for a in arrays if a.dtype.kind != "b"] for arrays in (ours, theirs)]
    if not floats[0] or not floats[1]:
        return math.inf if len(floats[0]) != len(floats[1]) else 0.0
    return max((_array_distance(a, b, ragged) for a, b in zip(*floats, strict=False)), default=0.0)


def shape_of(outputs: Sequence[Array]) -> tuple[int, ...]:
    """Return the shape of the first output, or ``()`` without one."""
    return tuple(outputs[0].shape) if outputs else ()


def _array_distance(ours: Array, theirs: Array, ragged: bool) -> float:
    scale = float(np.max(np.abs(theirs), initial=0.0, where=np.isfinite(theirs))) or 1.0
    best = math.inf
    for actual, expected in _arrangements(ours, theirs, ragged):
        with np.errstate(invalid="ignore"):
            error = np.abs(actual - expected)
        error = np.where(np.isfinite(expected), error, 0.0)
        error[np.isnan(error)] = np.inf
        best = min(best, float(np.max(error, initial=0.0)) / scale)
    return best


def _arrangements(ours: Array, theirs: Array, ragged: bool) -> Iterator[tuple[Array, Array]]:
    """Yield both arrays in the layouts in which they have the same shape."""
    for axes in itertools.permutations(range(theirs.ndim)):
        expected = theirs.transpose(axes)
        actual = _without_padding(ours, expected.shape) if ragged else ours
        if actual.shape == expected.shape:
            yield actual, expected
    if ours.ndim != theirs.ndim and ours.size == theirs.size and ours.shape[-1:] == theirs.shape[-1:] != ():
        yield from itertools.product(_merged(ours), _merged(theirs))


def _merged(array: Array) -> list[Array]:
    """Return the array with all axes but the last merged, in each order."""
    last = array.ndim - 1
    orders = itertools.permutations(range(last))
    return [array.transpose(*order, last).reshape(-1, array.shape[last]) for order in orders]


def _without_padding(array: Array, shape: tuple[int, ...]) -> Array:
    """Return the array cut to a shape, if exactly one axis is longer."""
    if array.ndim != len(shape) or sum(a != b for a, b in zip(array.shape, shape, strict=True)) > 1:
        return array
    return array[tuple(map(slice, shape))]


def _partners(pairing: Pairing) -> Mapping[str, Sequence[str]]:
    """Return for each torch module the paths of ours whose parameters hold its values, and their parents."""
    paths: dict[str, list[list[str]]] = {}
    for name, choices in pairing.choices.items():
        if len(choices) == 1:
            for layout in choices[0]:
                paths.setdefault(layout.theirs.rpartition(".")[0], []).append(name.split(".")[:-1])
    partners = {}
    for module, found in paths.items():
        same = itertools.takewhile(lambda steps: len(set(steps)) == 1, zip(*found, strict=False))
        common = [steps[0] for steps in same]
        partners[module] = [".".join(common[:length]) for length in range(len(common), 0, -1)]
    return partners
