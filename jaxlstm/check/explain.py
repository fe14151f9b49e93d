"""Naming the fault: under which fault of the catalogue does the oracle agree with a port?

A port's answers to several cases are kept as evidence. Each fault is made to the oracle, then each pair
of faults while time lasts; one that makes the oracle agree with all the evidence is the explanation.
Cases are tried from the cheapest on, so that nearly every pair is refuted by a single time step.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jaxlstm.check.answer import Answer
from jaxlstm.check.faults import Call, Fault, catalogue
from jaxlstm.check.inputs import Case
from jaxlstm.check.oracle import Result
from jaxlstm.check.report import number
from jaxlstm.config import LSTMConfig

Array = np.ndarray

AGREES = {"float64": 1e-8, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""Distance, relative to the RMS of an array, within which a port agrees with a faulty oracle."""

CLOSER = 8.0
"""An explanation brings the oracle at least this many times closer to the port."""

MOST = 3
"""Explanations by single faults that are told; of pairs, the first that is found."""


class Evidence(NamedTuple):
    """A port's answer to a case, with the numbers that it was given."""

    case: Case
    params: Mapping[str, Any]
    answer: Answer


@dataclass(frozen=True)
class Explanation:
    """Faults that together make the oracle agree with a port, to a distance."""

    causes: tuple[str, ...]
    distance: float

    def __str__(self) -> str:
        return f"agrees to {number(self.distance)} if {' and '.join(self.causes)}"


@np.errstate(all="ignore")  # weights may be infinite, and faults may make them so
def explain(
    evidence: Sequence[Evidence],
    config: LSTMConfig,
    *,
    seconds: float = 10.0,
    rounding: bool = False,
) -> list[Explanation]:
    """The faults, or pairs of faults, that explain every answer; the best first.

    Args:
      evidence: answers without NaN.
      config: what the port should be.
      seconds: for pairs; single faults are always tried, all of them.
      rounding: only faults of precision.
    """
    search = _Search(evidence, config)
    faults = [fault for fault in catalogue(config) if fault.rounding or not rounding]
    found = list(search.agreeing([()])) if search.given else []
    if not found:
        found = list(search.agreeing((fault,) for fault in faults))
    if not found:
        pairs = search.pairs(faults, time.monotonic() + seconds)
        found = list(itertools.islice(search.agreeing(pairs), 1))
    return sorted(found, key=lambda e: np.floor(np.log10(e.distance + 1e-17)))[:MOST]


class _Search:
    """The evidence made ready: shapes set right, cheapest case first, what was run remembered."""

    def __init__(self, evidence: Sequence[Evidence], config: LSTMConfig) -> None:
        self.calls: list[Call] = []
        self.answers: list[Answer] = []
        self.given: dict[str, None] = {}  # causes that hold whatever else does, in order
        swapped = {name for entry in evidence for name in _swapped(entry, config)}
        for entry in sorted(evidence, key=_cost):
            call = Call.of(entry.params, config, entry.case)
            answer, causes = _set_right(entry.answer, call, swapped)
            self.given |= dict.fromkeys(causes)
            self.calls.append(call)
            self.answers.append(answer)
        dtypes = {e.answer.outputs.dtype.name for e in evidence}
        self.tolerance = max((AGREES.get(name, 0.0) for name in dtypes), default=0.0)
        self.truths = [call.result() for call in self.calls]
        self.results: dict[tuple[Fault, ...], Result] = {}  # of the cheapest case
        self.true = max(
            (self.distance((), which) for which in range(len(self.calls))), default=np.inf
        )

    def agreeing(self, candidates: Iterable[tuple[Fault, ...]]) -> Iterator[Explanation]:
        """The candidates under which the oracle agrees with all the answers."""
        for faults in candidates:
            distance = self._furthest(faults)
            if distance is not None:
                causes = (*(fault.cause for fault in faults), *self.given)
                yield Explanation(causes, distance)

    def pairs(self, faults: Sequence[Fault], until: float) -> Iterator[tuple[Fault, Fault]]:
        """Pairs that the cheapest case does not refute, those first that take no further run.

        The clock is looked at before each pair, refuted or not, and nothing comes once it shows ``until``.

        A fault that does nothing in that case leaves the other as it is alone. One of precision is
        paired with what comes near without it.
        """
        meant = [fault for fault in faults if not fault.rounding]
        alone = {fault: self.distance((fault,), 0) for fault in meant}
        near = [fault for fault in meant if alone[fault] <= self.true / CLOSER]
        couples = [p for p in itertools.combinations(meant, 2) if p[0].group != p[1].group]
        runs = {fault for fault in meant if not self._is_idle(fault)}
        cheap = [pair for pair in couples if not runs.issuperset(pair)]
        dear = [pair for pair in couples if runs.issuperset(pair)]
        of_precision = itertools.product(near, (fault for fault in faults if fault.rounding))

        def in_time(pairs: Iterable[tuple[Fault, Fault]]) -> Iterator[tuple[Fault, Fault]]:
            return itertools.takewhile(lambda _: time.monotonic() < until, pairs)

        yield from (pair for pair in in_time(cheap) if self.distance(pair, 0) <= self.tolerance)
        yield from in_time(of_precision)
        yield from (pair for pair in in_time(dear) if self._lowest_layer(pair) <= self.tolerance)

    def distance(self, faults: tuple[Fault, ...], which: int) -> float:
        """How far an answer is from the oracle under some faults."""
        call = self._call(faults, which)
        result = self._result(faults, call) if which == 0 else call.result()
        return _distance(self.answers[which], call.finished(result), self.calls[which])

    def _furthest(self, faults: tuple[Fault, ...]) -> float | None:
        """The largest distance of any answer under some faults; None as soon as one is too large."""
        allowed, worst = self._allowed(faults), 0.0
        for which in range(len(self.calls)):
            distance = self.distance(faults, which)
            if not distance <= allowed or distance == np.inf:
                return None
            worst = max(worst, distance)
        return worst

    def _allowed(self, faults: tuple[Fault, ...]) -> float:
        """An explanation is within the tolerance; one of precision is much closer than without it."""
        meant = tuple(fault for fault in faults if not fault.rounding)
        if not faults:
            return self.tolerance
        if len(meant) == len(faults):
            return min(self.tolerance, self.true / CLOSER)
        without = self.true
        if meant:
            without = max(self.distance(meant, which) for which in range(len(self.calls)))
        return min(self.true, without) / CLOSER

    def _call(self, faults: tuple[Fault, ...], which: int) -> Call:
        call = self.calls[which]
        for fault in faults:
            call = fault.apply(call)
        return call

    def _result(self, faults: tuple[Fault, ...], call: Call) -> Result:
        """The oracle's run in the cheapest case, made once for the faults that change it."""
        if len(faults) > 1:
            faults = tuple(fault for fault in faults if not self._is_idle(fault))
            call = self._call(faults, 0)
        if not faults:
            return self.truths[0]
        if faults not in self.results:
            finishes = len(faults) == 1 and faults[0].only_finishes(self.calls[0])
            self.results[faults] = self.truths[0] if finishes else call.result()
        return self.results[faults]

    def _is_idle(self, fault: Fault) -> bool:
        """Whether a fault leaves the run of the cheapest case as it is."""
        found, truth = self._result((fault,), self._call((fault,), 0)), self.truths[0]
        return found is truth or all(
            np.array_equal(a, b) for a, b in zip(found[:3], truth[:3], strict=True)
        )

    def _lowest_layer(self, faults: tuple[Fault, ...]) -> float:
        """The distance of the lowest layer's state in the cheapest case."""
        found = self._call(faults, 0).result(layers=1)
        ours, count = self.answers[0], len(found.h_n)
        pairs = [(ours.h_n, found.h_n), (ours.c_n, found.c_n)]
        return max((_relative(a[:count], b) for a, b in pairs if a is not None), default=0.0)


def _cost(evidence: Evidence) -> tuple[int, bool]:
    case = evidence.case
    idle = case.initial_state is None or not any(a.any() for a in case.initial_state)
    return case.inputs.shape[0] * 100 + case.inputs.shape[1], not idle


def _shapes(config: LSTMConfig, time_: int, batch: int) -> dict[str, tuple[int, int, int]]:
    h_shape, c_shape = config.state_shapes(batch)
    return {"outputs": (time_, batch, config.output_size), "h_n": h_shape, "c_n": c_shape}


def _swapped(entry: Evidence, config: LSTMConfig) -> Iterator[str]:
    """The arrays whose first two axes are swapped, as a case that is not square shows."""
    for name, shape in _shapes(config, *entry.case.inputs.shape[:2]).items():
        value = getattr(entry.answer, name)
        turned = (shape[1], shape[0], shape[2])
        if value is not None and value.shape != shape and value.shape == turned:
            yield name


def _set_right(answer: Answer, call: Call, swapped: set[str]) -> tuple[Answer, list[str]]:
    """The answer with swapped axes swapped back, and the words for that and for what padding holds."""
    time_, batch = call.inputs.shape[:2]
    causes: list[str] = []
    leaves: dict[str, Array | None] = {}
    for name, shape in _shapes(call.config, time_, batch).items():
        value = getattr(answer, name)
        if value is not None and name in swapped:
            value = value.swapaxes(0, 1)
            causes.append(f"the first two axes of {name} are swapped")
        leaves[name] = value if value is not None and value.shape == shape else None
    outputs = leaves["outputs"]
    if outputs is not None:
        behind = np.arange(time_)[:, None] >= call.lengths[None, :]
        if np.any(np.asarray(outputs[behind], np.float64) != 0):
            causes.append("the outputs behind each sequence's end are not zeroed")
    return Answer(**leaves), causes  # type: ignore[arg-type]


def _distance(answer: Answer, other: Answer, call: Call) -> float:
    """The largest over the arrays of the RMS difference relative to the RMS value, on valid steps."""
    inside = np.arange(call.inputs.shape[0])[:, None] < call.lengths[None, :]
    others, distances = dict(other.leaves()), []
    for name, value in answer.leaves():
        a, b = value, others[name]
        if a.shape != b.shape:
            return np.inf
        distances.append(_relative(a[inside], b[inside]) if name == "outputs" else _relative(a, b))
    return max(distances, default=np.inf)


def _relative(a: Array, b: Array) -> float:
    """RMS difference relative to the RMS of ``b``; infinite where it is not a number."""
    a = np.asarray(a, np.float64)
    scale = np.sqrt(np.mean(b**2)) if b.size else 0.0
    with np.errstate(all="ignore"):
        far = float(np.sqrt(np.mean((a - b) ** 2)) / (scale or 1.0)) if b.size else 0.0
    return far if np.isfinite(far) else np.inf
