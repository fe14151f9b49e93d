"""Test inputs of a model, made from one example: other values, batch sizes and lengths."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from jaxlstm.check.cases.case import Case, is_floating

Array = np.ndarray
Axis = tuple[str, int]
"""The name of an array and one of its axes."""

Refusal = Callable[[Case], str]
"""Runs the reference on a case; returns its exception in words, or an empty string."""


def model_cases(example: Case, refusal: Refusal, rng: np.random.Generator) -> tuple[list[Case], list[str]]:
    """Return the example and the cases made from it that torch takes, and notes about the others.

    A subject may refuse each of them but the example.
    Floating-point values are drawn from those of the example, so that they stay in its range, and also
    scaled down and up; integers are drawn from the range of the example. Axes of equal size are resized
    together.
    """
    cases, notes = [example], []
    for case in _other_values(example, rng):
        if reason := refusal(case):
            notes.append(f"{case.name}: skipped, torch refuses them: {reason}")
        else:
            cases.append(case)
    resized, refused = _free_sizes(example, refusal)
    if refused:
        notes.append("sizes that torch refuses to change: " + "; ".join(refused))
    alone: set[tuple[tuple[Axis, ...], int]] = set()
    for changes in _combined(resized):
        case = _resize(example, changes, rng)
        if refusal(case):  # Sizes that torch takes one by one, but not together.
            single = [change for change in changes.items() if change not in alone]
            cases += [_resize(example, dict([change]), rng) for change in single]
            alone.update(single)
        else:
            cases.append(case)
    return cases, notes


def _other_values(example: Case, rng: np.random.Generator) -> Iterator[Case]:
    if not example.arrays:
        return
    redrawn = {name: _redraw(a, rng) for name, a in example.arrays.items()}
    yield replace(example, name="other values", arrays=redrawn, optional=True)
    if any(is_floating(a) and not _is_mask(a) for a in example.arrays.values()):
        for name, scale in (("small values", 1e-3), ("large values", 10.0)):
            scaled = example.map(lambda a, by=scale: a if _is_mask(a) else a * np.asarray(by, a.dtype))
            yield replace(scaled, name=name, optional=True)


def _redraw(array: Array, rng: np.random.Generator) -> Array:
    """Return an array of the same shape with values from the range of the given one."""
    if not array.size:
        return array
    if array.dtype == bool or _is_mask(array):
        return rng.permutation(array)  # Whole rows, so that no row loses its last valid element.
    if is_floating(array):
        if array.min() == array.max():
            return (array + rng.normal(size=array.shape)).astype(array.dtype)
        return rng.choice(array.ravel(), array.shape)
    return rng.integers(array.min(), array.max(), array.shape, array.dtype, endpoint=True)


def _is_mask(array: Array) -> bool:
    """Return True for an array of zeros and ones."""
    return bool(np.isin(array, (0, 1)).all()) and array.min(initial=1) != array.max(initial=0)


def _free_sizes(example: Case, refusal: Refusal) -> tuple[dict[tuple[Axis, ...], list[int]], list[str]]:
    """Return the sizes that torch takes for each group of axes, and in words the axes that it keeps."""
    axes: dict[int, list[Axis]] = {}
    for name, array in example.arrays.items():
        for axis, size in enumerate(array.shape):
            axes.setdefault(size, []).append((name, axis))
    free: dict[tuple[Axis, ...], list[int]] = {}
    refused = []
    for size, group in axes.items():
        subsets = [tuple(group)] + [(axis,) for axis in group if len(group) > 1]
        found = False
        for subset in subsets:
            sizes = _accepted(example, subset, size, refusal)
            if sizes:
                free[subset] = sizes
                found = True
            if found and len(subset) == len(group):
                break
        if not found:
            refused += [f"axis {axis} of {name}" for name, axis in group]
    return free, refused


def _accepted(example: Case, axes: tuple[Axis, ...], size: int, refusal: Refusal) -> list[int]:
    """Return at most one smaller and one larger size that torch takes."""

    def first(sizes: tuple[int, ...]) -> list[int]:
        fits = (n for n in dict.fromkeys(sizes) if 0 < n != size)
        rng = np.random.default_rng(0)
        return list(itertools.islice((n for n in fits if not refusal(_resize(example, {axes: n}, rng))), 1))

    # Five more elements remain visible after pooling, and change an even size into an odd one.
    return first((1, size // 2, size - 1)) + first((size + 5, 2 * size, size + 1))


def _combined(resized: dict[tuple[Axis, ...], list[int]]) -> Iterator[dict[tuple[Axis, ...], int]]:
    """Yield the smallest and the largest accepted size of every group, together."""
    if resized:
        yield {axes: sizes[0] for axes, sizes in resized.items()}
    if any(len(sizes) > 1 for sizes in resized.values()):
        yield {axes: sizes[-1] for axes, sizes in resized.items()}


def _resize(example: Case, changes: dict[tuple[Axis, ...], int], rng: np.random.Generator) -> Case:
    """Return the example with other sizes of some axes. Integers up to a size stay within the new size.

    The name of the case names an axis only if another one has the same size.
    """
    arrays, parts = dict(example.arrays), []
    for axes, size in changes.items():
        (name, axis), *_ = axes
        old = example.arrays[name].shape[axis]
        alike = sum(array.shape.count(old) for array in example.arrays.values())
        parts.append(f"{old} -> {size}" + f" on axis {axis} of {name}" * (alike > len(axes)))
        for name, axis in axes:
            arrays[name] = np.take(arrays[name], np.arange(size) % old, axis)
        for name, a in arrays.items():
            if a.dtype.kind in "iu" and size < a.max(initial=0) <= old:
                arrays[name] = np.minimum(a, np.asarray(size, a.dtype))
    resized = replace(example, name=f"sizes {', '.join(parts)}", arrays=arrays, optional=True)
    return resized.map(lambda a: a if _is_mask(a) else rng.permutation(a.ravel()).reshape(a.shape))
