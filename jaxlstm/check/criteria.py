"""The four criteria, each of them on arrays: what is measured and how much is allowed.

A user-set tolerance on the difference of two float32 runs either accepts wrong ports or refuses right
ones, whichever its value. These four need none; each alone misses something or raises false alarms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxlstm.check import answer, oracle
from jaxlstm.check.answer import Answer
from jaxlstm.check.inputs import Case
from jaxlstm.config import LSTMConfig

Array = np.ndarray

SEMANTICS = 1e-14
"""Absolute difference allowed in float64; rounding gave 2.8e-16 up to H=256 and T=1000."""

GRADIENT_SEMANTICS = 1e-12
"""Difference of a float64 gradient allowed, relative to its largest element."""

CONDITION = 32.0
"""Large weights magnify rounding: allowed are this many times what one ulp in every number does."""

RMS_MANY, RMS_FEW, MANY = 2.0, 4.0, 1000
"""RMS error allowed, in that of right implementations, over at least MANY elements and over fewer."""

CHAOTIC = 1e4
"""Where one ulp grows this many times, RMS errors are luck, and the step residual judges alone."""

RMS_ONE = 16.0
"""The same for one array of one case, where few roundings decide: right ports had up to 6."""


class Measured(NamedTuple):
    """A number, what it may be, and where it is worst."""

    value: float
    limit: float
    where: str

    @property
    def ok(self) -> bool:
        """Whether the value is within its limit; NaN is not."""
        return self.value <= self.limit

    @property
    def excess(self) -> float:
        """The value in units of its limit."""
        return self.value / self.limit if self.limit else np.inf * self.value


def form(actual: Answer, expected: Answer, dtype: Any) -> str:
    """What is wrong with shapes and dtypes; empty if nothing is."""
    wanted = dict(expected.leaves())
    problems = []
    for name, value in actual.leaves():
        if value.shape != wanted[name].shape:
            problems.append(f"{name} has shape {value.shape}, wanted {wanted[name].shape}")
        if value.dtype != np.dtype(dtype):
            problems.append(f"{name} has dtype {value.dtype}, wanted {np.dtype(dtype)}")
    return "; ".join(problems)


def masks(actual: Answer, expected: Answer) -> str:
    """Where NaN or infinity is on one side alone; empty if nowhere."""
    wanted = dict(expected.leaves())
    problems = []
    for name, value in actual.leaves():
        ours, theirs = _kind(value), _kind(wanted[name])
        if np.any(ours != theirs):
            index = tuple(int(k) for k in np.argwhere(ours != theirs)[0])
            problems.append(
                f"{name}: {np.count_nonzero(ours != theirs)} of {ours.size} differ, first {index}: "
                f"{value[index]}, wanted {wanted[name][index]}"
            )
    return "; ".join(problems)


def repeats(first: Answer, second: Answer) -> str:
    """Which arrays a second call with the same arguments gave otherwise; empty if none.

    A port that answers otherwise has kept something from the first call.
    """
    again = second.everything()
    differ = [
        name
        for name, a in first.everything().items()
        if not np.array_equal(a.astype(np.float64), again[name].astype(np.float64), equal_nan=True)
    ]
    return f"a second call gave another {', '.join(differ)}" if differ else ""


def semantics(actual: Answer, expected: Answer, condition: Mapping[str, float]) -> Measured:
    """The largest absolute difference in float64, of the leaf that comes nearest its limit."""
    wanted = dict(expected.leaves())
    return worst_of(
        _largest(name, value, wanted[name], max(SEMANTICS, CONDITION * condition[name]))
        for name, value in actual.leaves()
    )


def gradient_semantics(
    actual: Mapping[str, Array], expected: Mapping[str, Array], condition: Mapping[str, float]
) -> Measured:
    """The largest difference of a float64 gradient relative to the largest element of its array."""

    def relative(name: str) -> Measured:
        scale = float(np.max(np.abs(expected[name]), initial=0.0)) or 1.0
        limit = max(GRADIENT_SEMANTICS, CONDITION * condition[f"d {name}"] / scale)
        return _largest(f"d {name}", actual[name] / scale, expected[name] / scale, limit)

    return worst_of(relative(name) for name in actual)


class Ratio(NamedTuple):
    """RMS error to float64 of one array of one case, and what right implementations have."""

    where: str
    size: int
    ours: float
    torch: float | None
    own: float

    @property
    def value(self) -> float:
        """Ours in units of theirs."""
        return self.ours / self.own if self.own else (np.inf if self.ours else 1.0)


def rms_ratio(
    where: str, actual: Array, truth: Array, right: Sequence[Array], torch: Array | None
) -> Ratio:
    """RMS errors to the truth: of an array, and the largest of right implementations.

    Those are torch, the evaluations of the equations in ``right``, and the truth rounded to the working
    dtype: several, so that the luck of one accuses no other.
    """
    usable = np.isfinite(truth)
    theirs = None if torch is None else _rms(torch, truth, usable)
    errors = [_rms(a, truth, usable) for a in (*right, truth.astype(actual.dtype))]
    own = max(*errors, theirs or 0.0)
    return Ratio(where, int(np.count_nonzero(usable)), _rms(actual, truth, usable), theirs, own)


def rms(ratios: Sequence[Ratio]) -> Measured:
    """The geometric mean over the arrays of all cases: one case where rounding is magnified says little."""
    values = np.array([max(r.value, 1e-3) for r in ratios])
    against_torch = [max(r.ours, r.own * 1e-3) / r.torch for r in ratios if r.torch and r.own]
    size = sum(r.size for r in ratios)
    where = f"{size} elements in {len(ratios)} arrays"
    if against_torch:
        where += f"; against torch alone {_geometric_mean(against_torch):.3g}"
    return Measured(_geometric_mean(values), RMS_MANY if size >= MANY else RMS_FEW, where)


def rms_of_one(ratios: Sequence[Ratio]) -> Measured:
    """The array of one case that is worst."""
    worst = max(ratios, key=lambda r: np.inf if np.isnan(r.value) else r.value)
    where = f"{worst.where}: {worst.ours:.2e}, of right implementations {worst.own:.2e}"
    return Measured(worst.value, RMS_ONE, where)


def _geometric_mean(values: Any) -> float:
    return float(np.exp(np.mean(np.log(values))))


def right_answers(
    params: Mapping[str, Any], config: LSTMConfig, case: Case, dtype: Any, *, gradients: bool
) -> list[Answer]:
    """The equations evaluated by NumPy in the working dtype, twice.

    Once as they are written, and once with sigmoid through tanh, whose error is absolute where that of
    exp is relative, and with sums in the reverse order. Half precision computes in float32, as torch
    and we do.
    """
    compute = np.promote_types(dtype, np.float32)
    half = compute.type(0.5)
    otherwise = oracle.Equations(
        sigmoid=lambda z: half + half * np.tanh(half * z),
        product=lambda x, w: np.ascontiguousarray(x[:, ::-1]) @ w[:, ::-1].T,
    )
    return [
        answer.of_oracle(
            params, config, case, dtype=compute, gradients=gradients, equations=equations
        ).astype(dtype)
        for equations in (oracle.TRUE, otherwise)
    ]


def moved(
    params: Mapping[str, Any],
    config: LSTMConfig,
    case: Case,
    rng: np.random.Generator,
    *,
    gradients: bool,
) -> Answer:
    """The oracle's answer when every parameter, input and state is moved by one ulp."""

    def move(a: Any) -> Array:
        a = np.asarray(a).astype(np.float64)
        return a * (1 + np.spacing(1.0) * rng.choice([-1.0, 1.0], a.shape))

    state = case.initial_state
    shaken = Case(
        case.name,
        move(case.inputs),
        None if state is None else (move(state[0]), move(state[1])),
        case.seq_lengths,
        case.cotangents,
    )
    params = {name: move(a) for name, a in params.items()}
    return answer.of_oracle(params, config, shaken, gradients=gradients)


def amplification(condition: Mapping[str, float], truth: Answer) -> float:
    """How many times one ulp in every number grows until the results, at most."""

    def grown(name: str, value: Array) -> float:
        largest = np.max(np.abs(value[np.isfinite(value)]), initial=0.0)
        return condition[name] / (np.spacing(1.0) * largest) if largest else 0.0

    return max(grown(name, value) for name, value in truth.leaves())


def furthest(answer_: Answer, truth: Answer) -> dict[str, float]:
    """The largest absolute difference of each array from the truth, where that is finite."""
    true = truth.everything()
    return {
        name: _largest(name, a, true[name], np.inf).value
        for name, a in answer_.everything().items()
    }


def _largest(name: str, actual: Array, expected: Array, limit: float) -> Measured:
    """The largest absolute difference where a finite value is expected; infinite if there is none."""
    a, e = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    if not e.size:
        return Measured(0.0, limit, name)
    with np.errstate(invalid="ignore"):
        error = np.where(np.isfinite(e), np.abs(a - e), 0.0)
    error[np.isnan(error)] = np.inf
    index = tuple(int(k) for k in np.unravel_index(int(np.argmax(error)), error.shape))
    return Measured(float(error[index]), limit, f"{name}{list(index)}")


def worst_of(measured: Iterable[Measured]) -> Measured:
    """The one that is nearest its limit, or furthest beyond."""
    return max(measured, key=lambda m: np.inf if np.isnan(m.value) else m.excess)


def _rms(value: Array, true: Array, usable: Array) -> float:
    if not usable.any():
        return 0.0
    error = np.asarray(value, np.float64)[usable] - true[usable]
    return float(np.sqrt(np.mean(error**2)))


def _kind(values: Array) -> Array:
    """0 for a finite number, 1 for NaN, 2 and 3 for the two infinities."""
    values = np.asarray(values, np.float64)
    return np.isnan(values) * 1 + np.isposinf(values) * 2 + np.isneginf(values) * 3
