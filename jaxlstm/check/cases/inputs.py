"""Test inputs: the cases of an LSTM, and cases of a model made from one example.

The choice of inputs matters more than the tolerance. On one layer with a zero initial state, 16 of 30 wrong
ports look right. The cases of an LSTM therefore have:

- a non-zero initial state, with h_0 unlike c_0;
- ragged, unsorted lengths, with numbers in the padding, and a sequence of length 0, which torch refuses;
- a batch of one and larger batches, and one, some and many time steps;
- no initial state;
- magnitudes that saturate the gates and magnitudes that nearly vanish;
- cell states of up to 10,000, which show that c is not clipped;
- NaN in one row and infinity in another, which must not reach the other rows.

Every case follows from the config and a seed.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from jaxlstm.check.cases.case import Array, Case, is_floating
from jaxlstm.layer.config import LSTMConfig

RAGGED_TIME = 12
_RAGGED: dict[str, Any] = {"time": RAGGED_TIME, "batch": 5, "ragged": True}
LONG_TIME = 202
LARGE_BATCH = 70
LARGE_C = 1e4
"""Largest element of an initial cell state. float16 ends at 65,504."""


def make_case(
    name: str,
    config: LSTMConfig,
    rng: np.random.Generator,
    *,
    time: int,
    batch: int,
    ragged: bool = False,
    scale: float = 1.0,
    differentiate: bool = True,
) -> Case:
    """Draw a case with normal inputs of standard deviation ``scale`` and a non-zero initial state.

    If ``ragged`` is true, lengths are drawn from 1 to ``time``. Both extremes occur, and the lengths are
    not sorted.
    """
    h_shape, c_shape = config.state_shapes(batch)
    arrays = {
        "inputs": scale * rng.standard_normal((time, batch, config.input_size)),
        "h_0": scale * rng.uniform(-1, 1, h_shape),
        "c_0": scale * (0.5 + rng.standard_normal(c_shape)),
    }
    if ragged:
        arrays["seq_lengths"] = _ragged_lengths(rng, time, batch)
    shapes = {"outputs": (time, batch, config.output_size), "h_n": h_shape, "c_n": c_shape}
    cotangents = {result: rng.standard_normal(shape) for result, shape in shapes.items()}
    return Case(name, arrays, cotangents, differentiate)


def ordinary_case(config: LSTMConfig, seed: int = 0) -> Case:
    """Return the case that shows most faults: a ragged batch of ordinary magnitudes."""
    return replace(make_case("ragged", config, np.random.default_rng([seed, 0]), **_RAGGED), repeated=True)


def standard_cases(config: LSTMConfig, seed: int = 0) -> tuple[Case, ...]:
    """Return every case of a verification.

    Cases share shapes where possible, because each shape costs a jitted port one compilation. The dense case
    has as many rows as steps, so that a port which swaps the batch and time axes runs on it. A port may
    refuse the last two.
    """

    def rng(number: int) -> np.random.Generator:
        return np.random.default_rng([seed, number])

    one: dict[str, Any] = {"time": 1, "batch": LARGE_BATCH, "differentiate": False}
    one_step = make_case("one step from zeros", config, rng(8), **one)
    zeros = {name: np.zeros_like(one_step.arrays[name]) for name in ("h_0", "c_0")}
    return (
        ordinary_case(config, seed),
        make_case("saturating", config, rng(1), scale=8.0, **_RAGGED),
        make_case("tiny", config, rng(2), scale=1e-4, **_RAGGED),
        nan_case(config, rng(3)),
        make_case("dense", config, rng(4), time=9, batch=9),
        make_case("batch 1", config, rng(5), time=7, batch=1, differentiate=False),
        make_case("one step", config, rng(6), **one),
        # From a zero state, where a fault of the initial state cannot hide another fault.
        one_step.with_arrays(**zeros),
        large_c_case(config, rng(9)),
        make_case("long", config, rng(7), time=LONG_TIME, batch=1),
        replace(one_step.without("h_0", "c_0"), name="no state", optional=True),
        _length_0_case(config, rng(10)),
    )


def large_c_case(config: LSTMConfig, rng: np.random.Generator) -> Case:
    """Return a case of one step from cell states of either sign, between 100 and ``LARGE_C``."""
    case = make_case("large c", config, rng, time=1, batch=LARGE_BATCH, differentiate=False)
    c_0 = case.arrays["c_0"]
    sizes = 10 ** rng.uniform(2, np.log10(LARGE_C), c_0.shape)
    return replace(case.with_arrays(c_0=np.copysign(sizes, c_0)), scale=LARGE_C)


def nan_case(config: LSTMConfig, rng: np.random.Generator) -> Case:
    """Return a case with NaN in one row, infinity in another and NaN in the padding of a third."""
    case = make_case("NaN and Inf", config, rng, differentiate=False, **_RAGGED)
    inputs, lengths = case.inputs.copy(), case.arrays["seq_lengths"]
    longest, second, *_, shortest = np.argsort(-lengths, kind="stable")
    inputs[lengths[longest] // 2, longest, 0] = np.nan
    inputs[0, second, -1] = np.inf
    inputs[lengths[shortest] :, shortest] = np.nan
    return case.with_arrays(inputs=inputs)


def _length_0_case(config: LSTMConfig, rng: np.random.Generator) -> Case:
    """Return a case whose longest sequence has no step: its final state is the initial one."""
    case = make_case("length 0", config, rng, differentiate=False, **_RAGGED)
    lengths = case.arrays["seq_lengths"]
    return replace(case.with_arrays(seq_lengths=lengths % lengths.max()), optional=True)


def _ragged_lengths(rng: np.random.Generator, time: int, batch: int) -> Array:
    """Draw lengths from 1 to ``time``, both of which occur if the batch has two rows."""
    lengths = rng.integers(1, time + 1, batch)
    # Short before long, which is never torch's sorted order.
    lengths[(batch - 2) % batch], lengths[(batch - 1) % batch] = 1, time
    return lengths.astype(np.int32)


Axis = tuple[str, int]
"""The name of an array and one of its axes."""

Refusal = Callable[[Case], str]
"""Runs the reference on a case; returns its exception in words, or an empty string."""


def model_cases(
    example: Case, refusal: Refusal, rng: np.random.Generator, free: Sequence[tuple[Axis, ...]] | None = None
) -> tuple[list[Case], list[str]]:
    """Return the example and the cases made from it that torch takes, and notes about the others.

    A subject may refuse each of them but the example. Floating-point values are drawn from the example, so
    that they stay in its range, and also scaled down and up; integers are drawn from the range of the
    example. Of a program, ``free`` holds the axes that share each free size; these sizes are changed one by
    one and together. Otherwise axes of equal size are resized together.
    """
    cases, notes = [example], []
    for case in _other_values(example, rng):
        if reason := refusal(case):
            notes.append(f"{case.name}: skipped, torch refuses them: {reason}")
        else:
            cases.append(case)
    groups = _equal_axes(example) if free is None else [[axes] for axes in free]
    resized, refused = _free_sizes(example, groups, refusal)
    if refused:
        declared = "" if free is None else ", although the program has them free"
        notes.append(f"sizes that torch refuses to change{declared}: {'; '.join(refused)}")
    alone = [(axes, sizes[-1]) for axes, sizes in resized.items() if free and len(resized) > 1]
    for changes in _combined(resized):
        case = _resize(example, changes, rng)
        if refusal(case):  # Sizes that torch takes one by one, but not together.
            alone += changes.items()
        else:
            cases.append(case)
    return cases + [_resize(example, dict([change]), rng) for change in dict.fromkeys(alone)], notes


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
    if is_floating(array) or array.dtype.kind == "c":
        if array.min() == array.max():
            return (array + rng.normal(size=array.shape)).astype(array.dtype)
        return rng.choice(array.ravel(), array.shape)
    return rng.integers(array.min(), array.max(), array.shape, array.dtype, endpoint=True)


def _is_mask(array: Array) -> bool:
    """Return True for an array of zeros and ones."""
    return bool(np.isin(array, (0, 1)).all()) and array.min(initial=1) != array.max(initial=0)


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
        (name, axis), *_ = whole
        size = example.arrays[name].shape[axis]
        for subset in [whole, *parts]:
            if sizes := _accepted(example, subset, size, refusal):
                free[subset] = sizes
            if whole in free:
                break
        if not free.keys() & {whole, *parts}:
            refused += [f"axis {axis} of {name}" for name, axis in whole]
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
