"""The example of a model at other sizes: one smaller and one larger, of every axis that torch lets change."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from jaxlstm.check.cases.case import Case, is_floating
from jaxlstm.check.cases.variations import Refusal, drawn, is_mask
from jaxlstm.programs.inputs import flatten_arguments
from jaxlstm.programs.program import Program

Axis = tuple[str, int]
"""The name of an array and one of its axes."""

Changes = dict[tuple[Axis, ...], int]
"""The new size of each group of axes."""

LARGE = (131, 67, 35)
"""Large sizes, of which the largest within the two limits is tried."""

ELEMENTS, WORK = 2**18, 2**30
"""The most elements of the arguments, and the most products of an element and a parameter."""


def other_sizes(
    example: Case,
    refusal: Refusal,
    free: Sequence[tuple[Axis, ...]] | None,
    parameters: int,
    takes: Callable[[Case], bool],
) -> tuple[list[Case], list[str]]:
    """Return the example at smaller and at larger sizes, which a subject may refuse, and notes.

    Of a program, ``free`` holds the axes that share each free size; these sizes are changed one by one and
    together. Otherwise axes of equal size are resized together, to different sizes if torch takes those.
    ``takes`` returns True if the subject can run a case of large sizes at about the cost of the example.
    ``parameters`` is the number of parameters.
    """
    rng, cases, notes = np.random.default_rng(1), [], []
    groups = _equal_axes(example) if free is None else [[axes] for axes in free]
    resized, refused = _free_sizes(example, groups, refusal)
    if refused:
        declared = "" if free is None else ", although the program has them free"
        notes.append(f"sizes that torch refuses to change{declared}: {'; '.join(refused)}")
    single_changes = [(axes, sizes[-1]) for axes, sizes in resized.items() if free and len(resized) > 1]
    # An axis that cannot grow keeps its size: on a short axis, a fault far along another one may cancel out.
    smallest = {axes: sizes[0] for axes, sizes in resized.items() if sizes[0] < _size(example, axes)}
    largest = {axes: sizes[-1] for axes, sizes in resized.items() if sizes[-1] > _size(example, axes)}
    for whole, *parts in groups:  # Equal sizes become different if torch accepts that.
        unequal = {axes: _larger(_size(example, axes), number) for number, axes in enumerate(parts)}
        if parts and whole in largest and not refusal(resize(example, unequal, rng)):
            largest = {axes: size for axes, size in largest.items() if axes != whole} | unequal
    for changes in filter(None, (smallest, largest)):
        case = resize(example, changes, rng)
        if refusal(case):  # Sizes that torch takes one by one, but not together.
            single_changes += changes.items()
        elif changes is largest:
            # The gradients at one other size than the example's: compiling more of them would take long.
            large = _large(example, largest, parameters, lambda c: not refusal(c) and takes(c), rng)
            cases.append(replace(large or case, compared="results", differentiate=True))
        else:
            cases.append(case)
    return cases + [resize(example, dict([change]), rng) for change in dict.fromkeys(single_changes)], notes


def free_axes(program: Program, example: Case) -> list[tuple[Axis, ...]]:
    """Return the axes of the arrays of an example that share each free size of a program."""
    names = flatten_arguments(program.graph, *example.arguments)
    axes: dict[str, list[Axis]] = {}
    for declared, place in zip(program.inputs, names, strict=True):
        for axis, size in enumerate(declared.type.shape if declared.type else ()):
            if isinstance(size, str):
                axes.setdefault(size, []).append((place.name, axis))
    return [tuple(group) for group in axes.values()]


def _larger(size: int, number: int = 0) -> int:
    """Return a size of the other parity that is not the double, one for each number.

    Five more elements remain visible after pooling.
    """
    return size + [step for step in range(5, 9 + 2 * number, 2) if step != size][number]


def _equal_axes(example: Case) -> list[list[tuple[Axis, ...]]]:
    """Return for each size the group of all axes that have it, and then each of them."""
    axes: dict[int, list[Axis]] = {}
    for name, array in example.arrays.items():
        for axis, size in enumerate(array.shape):
            axes.setdefault(size, []).append((name, axis))
    return [[tuple(group)] + [(axis,) for axis in group if len(group) > 1] for group in axes.values()]


def _free_sizes(
    example: Case, groups: list[list[tuple[Axis, ...]]], refusal: Refusal
) -> tuple[dict[tuple[Axis, ...], list[int]], list[str]]:
    """Return the sizes that torch takes for each group of axes, and in words the axes that it keeps."""
    free: dict[tuple[Axis, ...], list[int]] = {}
    refused = []
    for whole, *parts in groups:
        for subset in [whole, *parts]:
            if sizes := _accepted(example, subset, refusal):
                free[subset] = sizes
            if whole in free:
                break
        if not free.keys() & {whole, *parts}:
            refused += [f"axis {axis} of {name}" for name, axis in whole]
    return free, refused


def _size(example: Case, axes: tuple[Axis, ...]) -> int:
    (name, axis), *_ = axes
    return example.arrays[name].shape[axis]


def _accepted(example: Case, axes: tuple[Axis, ...], refusal: Refusal) -> list[int]:
    """Return at most one smaller and one larger size that torch takes."""
    size = _size(example, axes)

    def first(sizes: tuple[int, ...]) -> list[int]:
        trials = (n for n in dict.fromkeys(sizes) if 0 < n != size)
        rng = np.random.default_rng(0)
        return list(itertools.islice((n for n in trials if not refusal(resize(example, {axes: n}, rng))), 1))

    return first((1, size // 2, size - 1)) + first((_larger(size), 2 * size, size + 1))


def _large(
    example: Case, largest: Changes, parameters: int, takes: Callable[[Case], bool], rng: np.random.Generator
) -> Case | None:
    """Return an accepted case with much larger sizes within the limits, or None.

    Even sizes become odd and odd sizes even; a size becomes a multiple if only its double was accepted. The
    largest size becomes the smallest.
    """
    descending = sorted(largest, key=lambda axes: -_size(example, axes))

    def enlarged(axes: tuple[Axis, ...], large: int, goal: int) -> int:
        size = _size(example, axes)
        return size * -(-goal // size) if large == 2 * size else goal + size % 2 + 2 * descending.index(axes)

    def allowed(changes: Changes) -> Case | None:
        shapes = {name: [*a.shape] for name, a in example.arrays.items()}
        for axes, size in changes.items():
            for name, axis in axes:
                shapes[name][axis] = size
        elements = sum(map(math.prod, shapes.values()))
        if elements > ELEMENTS or elements * parameters > WORK:
            return None
        case = resize(example, changes, rng)
        return case if takes(case) else None

    every = [
        {axes: max(large, enlarged(axes, large, goal)) for axes, large in largest.items()} for goal in LARGE
    ]
    if resized := next(filter(None, map(allowed, every)), None):
        return resized
    changes = largest
    for axes, size in every[-1].items():  # One after the other, if torch rejects all together.
        if size > changes[axes] and (case := allowed({**changes, axes: size})):
            changes, resized = {**changes, axes: size}, case
    return resized


def resize(example: Case, changes: Changes, rng: np.random.Generator) -> Case:
    """Return the example with other sizes of some axes. Integers up to a size stay within the new size.

    The name of the case names an axis only if another one has the same size.
    """
    arrays, parts = dict(example.arrays), []
    for axes, size in changes.items():
        (name, axis), *_ = axes
        old = _size(example, axes)
        alike = sum(array.shape.count(old) for array in example.arrays.values())
        parts.append(f"{old} -> {size}" + f" on axis {axis} of {name}" * (alike > len(axes)))
        for name, axis in axes:
            padding = [(0, max(size - old, 0) * (k == axis)) for k in range(arrays[name].ndim)]
            wrapped = np.pad(arrays[name], padding, "wrap" if old else "constant")
            arrays[name] = np.take(wrapped, np.arange(size), axis)
        for name, a in arrays.items():
            if a.dtype.kind in "iu" and size < a.max(initial=0) <= old:
                arrays[name] = np.minimum(a, np.asarray(size, a.dtype))
    for name, a in example.arrays.items():
        if is_floating(a) and not is_mask(a):
            arrays[name] = drawn(a, arrays[name].shape, rng)
    return replace(example, name=f"sizes {', '.join(parts)}", arrays=arrays, optional=True)
