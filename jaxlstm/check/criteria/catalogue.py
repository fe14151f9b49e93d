"""The list of all criteria, and how each judges the trial of one case.

A port of an LSTM and a model are judged by the same list. Modules beside this one hold the measures: pure
functions of arrays.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial

import ml_dtypes
import numpy as np

from jaxlstm._shared.table import format_number
from jaxlstm.check.cases.case import Results, is_floating, largest, worst_errors
from jaxlstm.check.cases.rounding import Rounding
from jaxlstm.check.criteria import accuracy
from jaxlstm.check.criteria.criterion import Criterion, Kind, Measurement, Outcome, RmsRatio, Untested, place
from jaxlstm.check.criteria.difference import array_difference
from jaxlstm.check.criteria.step_residual import step_residual
from jaxlstm.check.exceptions import PORT_EXCEPTIONS, describe
from jaxlstm.check.reference.oracle_lstm import OracleLSTM
from jaxlstm.check.subjects.port import Port
from jaxlstm.check.verification import Trial, Verification

SINGLE = 16 * float(np.finfo(np.float32).eps)
"""Relative error that float32 arithmetic leaves in float64 results; XLA's functions are off by some ulps."""

TABLE_FACTOR = 2.0
"""Largest error in float64 in units of the effect of one ulp in every number of torch's tables."""


def _runs(trial: Trial) -> Iterator[Outcome]:
    yield Outcome(describe(trial.error) if trial.error else "")


def _form(trial: Trial) -> Iterator[Outcome]:
    yield Outcome(trial.form)
    if trial.form64:
        yield Outcome(f"in float64, {trial.form64}")


def _nan_mask(trial: Trial) -> Iterator[Outcome]:
    if trial.has_shapes:
        yield Outcome(trial.mask)
    if trial.mask64:
        yield Outcome(f"in float64, {trial.mask64}")


def _repeatable(trial: Trial) -> Iterator[Outcome]:
    if trial.case.repeated and trial.is_usable:
        yield Outcome(accuracy.repeatability(trial.ours, trial.again()))


def _tolerance(trial: Trial) -> Iterator[Outcome]:
    if trial.check.tolerance is None or not trial.is_usable:
        return
    rtol, atol = trial.check.tolerance
    truth = trial.truth.arrays()
    for name, value in trial.aligned.arrays().items():
        difference = array_difference(value, truth[name], rtol=rtol, atol=atol, equal_nan=True)
        yield Outcome(f"{name}: {difference}" if difference.mismatched else "")


def _condition(trial: Trial) -> accuracy.Condition:
    check = trial.check
    if trial.aligned64 is None:
        return accuracy.condition_of(check.rounded, trial.rounded, trial.truth, check.seed)
    return accuracy.condition_of(check.truth, trial.case, trial.truth64, check.seed)


def _with_condition(
    trial: Trial, measured: Callable[[Mapping[str, float]], dict[str, Measurement]]
) -> dict[str, Measurement]:
    """Measure; skip the condition, which takes several runs, if the errors are within the base limit."""
    errors = measured(defaultdict(float))
    return errors if all(n.ok for n in errors.values()) else measured(trial.once(_condition).changes)


def _theirs64(trial: Trial) -> dict[str, Results]:
    """Return the float64 results of each reference."""
    check = trial.check
    return {
        reference.name: trial.truth64 if reference is check.truth else trial.theirs(reference, np.float64)
        for reference in trial.references
    }


def _semantics(trial: Trial) -> Iterator[Outcome]:
    ours = trial.aligned64
    if ours is None:
        return

    def measured(condition: Mapping[str, float]) -> dict[str, Measurement]:
        return {
            against: accuracy.result_semantics(ours, theirs, condition, trial.case.scale)
            for against, theirs in trial.once(_theirs64).items()
        }

    errors = _with_condition(trial, measured)
    if not all(number.ok for number in errors.values()) and (reason := _excuse(trial, ours)):
        trial.check.float64_refusal = reason
        return
    yield from (Outcome(number, against) for against, number in errors.items())


def _excuse(trial: Trial, ours: Results) -> str:
    """Return the reason why a float64 error is not larger than rounding to float32, or an empty string."""
    truth = trial.truth64.outputs
    errors = worst_errors(Results(ours.outputs), trial.truth64)
    error = max((error / largest(truth[name]) for name, error in errors.items()), default=0.0)
    if error <= SINGLE and (reason := _casts(trial, f"error in float64, {format_number(error)},")):
        return reason
    rng = np.random.default_rng([trial.check.seed, 101])
    derived = trial.check.subject.derived
    with_tables = trial.check.truth.with_other_tables(trial.case, rng, weights=bool(derived))
    if with_tables is None:
        return ""
    names, results = with_tables
    effect = worst_errors(results, Results(truth))
    if any(error > TABLE_FACTOR * effect[name] for name, error in errors.items()):
        return ""
    if derived:
        names = [f"what {', '.join(derived[:3])} was computed from"]
    return (
        f"torch rounded {', '.join(names[:3])} to {trial.check.dtype}; the model's error in float64, "
        f"{format_number(error)}, is no larger than the effect of that"
    )


def _gradients(trial: Trial) -> Iterator[Outcome]:
    ours = trial.aligned64
    if ours is None or not ours.gradients or trial.check.float64_refusal:
        return

    def measured(condition: Mapping[str, float]) -> dict[str, Measurement]:
        return {
            against: accuracy.gradient_semantics(ours.gradients or {}, theirs.gradients, condition)
            for against, theirs in trial.once(_theirs64).items()
            if theirs.gradients
        }

    errors = _with_condition(trial, measured)
    # Results may be exact where their gradients are rounded to float32.
    single = all(number.value <= SINGLE for number in errors.values())
    if not all(n.ok for n in errors.values()) and single and (reason := _casts(trial, "gradients' error")):
        trial.check.float64_refusal = reason
        return
    yield from (Outcome(number, against) for against, number in errors.items())


def _casts(trial: Trial, error: str) -> str:
    """Return where the model has float32 inside, as the reason of an error; empty if it has not."""
    casts = trial.check.subject.float32_inside(trial.case)
    return casts and f"the model {casts}; its {error} is no larger than float32 rounding"


def _ratios(trial: Trial) -> dict[str, RmsRatio]:
    """Return the RMS errors of the subject, of torch and of other right implementations, by array."""
    check, case = trial.check, trial.rounded
    if check.tolerance is not None or check.dtype == np.float64 or not trial.is_usable:
        return {}
    if trial.only_float64:
        return {}
    if np.isfinite(check.rounded.chaotic):
        amplification = accuracy.amplification(trial.once(_condition).changes, trial.truth)
        if not amplification <= check.rounded.chaotic:
            check.chaotic[case.name] = amplification
            return {}
    gradients = trial.ours.gradients is not None
    correct = [run.arrays() for run in check.rounded.right_runs(case, check.dtype, gradients=gradients)]
    torch = next((trial.theirs(r, check.dtype).arrays() for r in trial.references if r.name == "torch"), {})
    truth = trial.truth.arrays()
    ratios = {
        name: accuracy.rms_ratio(
            place(case.name, name), a, truth[name], [run[name] for run in correct], torch.get(name)
        )._replace(in_mean=case.scale == 1 and case.compared == "all")
        for name, a in trial.aligned.arrays().items()
        if is_floating(a)
    }
    if case.compared == "values":  # Without float64: right models differ where gates and softmax saturate.
        coarse = float(np.sqrt(ml_dtypes.finfo(check.dtype).eps))
        sizes = {name: coarse * accuracy.rms_error(0 * truth[name], truth[name]) for name in ratios}
        ratios = {name: r._replace(own=max(r.own, sizes[name])) for name, r in ratios.items()}
    is_wrong = any(item.ok is False and item.kind == "semantic" for item in check.findings.items())
    if len(correct) > 1 or is_wrong:  # The unit of rounding errors matters for right results only.
        return ratios
    rng = np.random.default_rng([check.seed, 100])

    def perturbed(size: float) -> Results:
        rounding = Rounding(size, rng, trial.once(_condition).whole)
        return check.truth.perturbed(case, rounding, gradients=gradients)

    adjusted = accuracy.with_rounding_as_unit(ratios, trial.truth, check.dtype, perturbed)
    large = any(ratio.value > accuracy.MEAN_LIMIT for ratio in adjusted.values())
    tied = trial.once(_condition).tied if large else ()
    return {name: ratio for name, ratio in adjusted.items() if name not in tied}


def _rms(noun: str, kind: Kind) -> tuple[Criterion, Criterion]:
    """Return the criteria of the mean and of the worst RMS error of results or of gradients."""

    def judge(trial: Trial) -> Iterator[Outcome]:
        for name, ratio in trial.once(_ratios).items():
            if (name in trial.ours.outputs) == (noun == "result"):
                yield Outcome(ratio)

    mean = Criterion(f"rms-{noun}s", kind, f"RMS error of {noun}s", judge, total=accuracy.mean_ratio)
    worst = replace(
        mean,
        id=f"rms-worst-{noun}",
        text=f"{mean.text}, worst array",
        total=accuracy.worst_ratio,
        lists_ratios=False,
    )
    return mean, worst


def _steps(check: Verification) -> Iterator[Outcome]:
    """Judge every step of the first three cases."""
    port, oracle = check.subject, check.truth
    if check.tolerance is not None or not isinstance(port, Port) or not isinstance(oracle, OracleLSTM):
        return
    if not port.takes_state:
        yield Outcome(Untested("the port takes no initial_state"))
        return
    run = partial(port.run, dtype=check.dtype)
    try:
        worst = step_residual(run, oracle, check.tried[:3], check.dtype)
    except PORT_EXCEPTIONS as error:
        yield Outcome(describe(error))
        return
    if worst is None:
        yield Outcome(Untested("the port does not return both h_n and c_n in their shapes"))
    else:
        # A ratio of 1 fails.
        yield Outcome(worst._replace(limit=float(np.nextafter(1.0, 0.0))))


CRITERIA = (
    Criterion("runs", "exact", "runs", _runs, "on calls"),
    Criterion("form", "exact", "shape and dtype", _form),
    Criterion("nan-mask", "exact", "NaN mask", _nan_mask),
    Criterion("repeatable", "exact", "repeatable", _repeatable),
    Criterion("tolerance", "precision", "within the tolerance", _tolerance),
    Criterion("float64-results", "semantic", "float64 semantics", _semantics),
    Criterion("float64-gradients", "gradient", "float64 gradients", _gradients),
    *_rms("result", "precision"),
    *_rms("gradient", "gradient"),
    Criterion("step-residual", "precision", "step residual", _steps, "at the end"),
)
