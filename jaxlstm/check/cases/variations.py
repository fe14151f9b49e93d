"""Cases of a model with the shapes of its example: other values, magnitudes, signs, masks, integers, and NaN.

An example is often special: positive or small numbers, a mask of False, integers of a narrow range. Each
variation has several forms, the widest first; the first form that the reference accepts is tried.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from jaxlstm.check.cases.case import Array, Case, is_discrete, is_floating

Refusal = Callable[[Case], str]
"""Runs the reference on a case; returns in words why it cannot be compared, or an empty string."""

FAR = 1000
"""The largest distance of an integer from the integers of the example."""


def variations(
    example: Case, refusal: Refusal, rng: np.random.Generator, *, widen: bool
) -> tuple[list[Case], list[str]]:
    """Return the cases that torch takes, which a subject may refuse, and notes about the others.

    Without ``widen``, integers stay in the range of the example: a program does not refuse an index.
    """
    cases: list[Case | None] = []
    notes: list[str] = []

    def keep(name: str, forms: Iterator[Case]) -> Case | None:
        reason = ""
        for form in forms:
            case = replace(form, name=name, optional=True)
            if not (reason := refusal(case)):
                return case
        notes.extend([f"{name}: skipped, torch refuses them: {reason}"] if reason else [])
        return None

    if example.arrays:
        redrawn = {name: _redraw(a, rng) for name, a in example.arrays.items()}
        cases.append(keep("other values", iter([replace(example, arrays=redrawn, differentiate=True)])))
    numbers = [name for name, a in example.arrays.items() if is_floating(a) and a.size and not is_binary(a)]
    if any(is_floating(a) and not is_mask(a) for a in example.arrays.values()):
        small, large = (replace(example, differentiate=True) for _ in range(2))
        cases.append(keep("small values", iter([_scaled(small, 1e-3)])))
        cases.append(keep("large values", _with_signs(large, 10.0, rng)))
    if numbers:
        values = replace(example, compared="values")
        cases.append(keep("values times 0.1", iter([_scaled(values, 0.1)])))
        cases.append(keep("values times 1,000", _with_signs(values, 1e3, rng)))
        cases.append(keep("NaN", iter([_with_nan(replace(example, compared="NaN"), numbers)])))
    discrete, label = replace(example, compared="results", differentiate=True), "other masks and integers"
    kinds = [name for name, a in example.arrays.items() if widen or is_binary(a)]
    for name in kinds:  # One after the other, so that torch takes all together.
        forms = (discrete.with_arrays(**{name: form}) for form in _discrete_forms(example.arrays[name], rng))
        discrete = keep(f"{label} in {name}", forms) or discrete
    if discrete.optional:
        cases.append(replace(discrete, name=label))
    return [case for case in cases if case], notes


def _scaled(case: Case, factor: float) -> Case:
    return case.map(lambda a: a if is_mask(a) else a * np.asarray(factor, a.dtype))


def _with_signs(case: Case, factor: float, rng: np.random.Generator) -> Iterator[Case]:
    """Yield the scaled case with random signs, and as it is for a model that takes positive numbers only."""
    scaled = _scaled(case, factor)
    signs = np.array([-1, 1], np.int8)
    yield scaled.map(lambda a: a if is_mask(a) else a * rng.choice(signs, a.shape).astype(a.dtype))
    yield scaled


def _with_nan(case: Case, names: list[str]) -> Case:
    """Return the case with NaN in the first row of some arrays."""

    def changed(array: Array) -> Array:
        array = array.copy()
        array[(slice(1),) if array.ndim else ...] = np.nan
        return array

    return case.with_arrays(**{name: changed(case.arrays[name]) for name in names})


def _redraw(array: Array, rng: np.random.Generator) -> Array:
    """Return an array of the same shape with values from the range of the given one."""
    if not array.size:
        return array
    if array.dtype == bool or is_mask(array):
        return rng.permutation(array)  # Whole rows, so that no row loses its last valid element.
    if is_floating(array) or array.dtype.kind == "c":
        if array.min() == array.max():
            return (array + rng.normal(size=array.shape)).astype(array.dtype)
        return drawn(array, array.shape, rng)
    return rng.integers(array.min(), array.max(), array.shape, array.dtype, endpoint=True)


def drawn(array: Array, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Draw numbers from the values of an array. Numbers on which no model decides lie between its values.

    Equal numbers would compete in ``topk``, and any of them may have the gradient.
    """
    if not array.size:
        return rng.standard_normal(shape).astype(array.dtype)
    if array.dtype.kind == "c" or is_discrete(array) or not np.isfinite(array).all():
        return rng.choice(array.ravel(), shape)
    ordered = np.sort(np.asarray(array, np.float64), axis=None)
    places = rng.uniform(0, array.size - 1, shape)
    return np.asarray(np.interp(places, np.arange(array.size), ordered)).astype(array.dtype)


def _discrete_forms(array: Array, rng: np.random.Generator) -> Iterator[Array]:
    """Yield other masks of zeros and ones, or other integers, the widest range first."""
    if array.size and is_binary(array):
        drawn = rng.random(array.shape) < 0.5
        if array.ndim and array.shape[-1] > 1:  # No row is all masked, and none is all valid.
            place = rng.integers(array.shape[-1] - 1)
            drawn[..., place], drawn[..., place + 1] = True, False
        yield drawn.astype(array.dtype)
        flipped = np.arange(array.size).reshape(array.shape) == rng.integers(array.size)
        yield np.where(flipped, 1 - array.astype(np.int8), array).astype(array.dtype)
    elif array.size and array.dtype.kind in "iu":
        limits, low, high = np.iinfo(array.dtype), int(array.min()), int(array.max())
        drawn, far = array, high + min(max(abs(low), abs(high)), FAR) + 8
        ranges = [
            (-far, far),
            *((min(low, 0), end) for end in (far, high + 4, high + 1)),
            (min(low, 1), high),
        ]
        for start, end in ranges:
            start, end = max(start, limits.min), min(end, limits.max)
            drawn = rng.integers(start, end, array.shape, array.dtype, endpoint=True)
            drawn.flat[rng.permutation(array.size)[:2]] = [end, start][: array.size]
            yield drawn
        yield np.sort(drawn, axis=None)[::-1].reshape(array.shape)  # As packed sequences are sorted.


def is_binary(array: Array) -> bool:
    """Return True for an array of zeros and ones, or of one of them."""
    return array.dtype == bool or bool(np.isin(array, (0, 1)).all())


def is_mask(array: Array) -> bool:
    """Return True for an array of zeros and ones."""
    return bool(np.isin(array, (0, 1)).all()) and array.min(initial=1) != array.max(initial=0)
