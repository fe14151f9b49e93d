"""``verify_model``: the verdict on a whole model that should equal a torch module or a program.

Both models run on each case of :mod:`jaxlstm.check.cases.variations` and :mod:`jaxlstm.check.cases.sizes`, in
float64 and in the dtype of the module. The oracle is the module or program in float64. The criteria are the
same as in ``verify``.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from jaxlstm._shared.progress import Progress, no_progress
from jaxlstm.check.cases.case import Case, Results, is_floating
from jaxlstm.check.cases.sizes import free_axes, other_sizes
from jaxlstm.check.cases.variations import variations
from jaxlstm.check.criteria.catalogue import CRITERIA
from jaxlstm.check.diagnosis.model import diagnose_model
from jaxlstm.check.diagnosis.search import Diagnosis
from jaxlstm.check.notes import report_on
from jaxlstm.check.reference.jax_model import FunctionModel, JaxModel
from jaxlstm.check.reference.program import ProgramModel, ProgramReference
from jaxlstm.check.reference.torch_model import TorchModel
from jaxlstm.check.report.report import Report
from jaxlstm.check.requirements import require_precision, require_seed, require_tolerance
from jaxlstm.check.subjects.model import ModelSubject
from jaxlstm.check.subjects.pairing import ModuleNames
from jaxlstm.check.verification import Verification
from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.example_values import ALLOWED, without
from jaxlstm.programs.graph import unused_inputs
from jaxlstm.programs.program import Program


@without(ALLOWED)
def verify_model(
    ours: Any,
    theirs: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    *,
    call: Callable[..., Any] | None = None,
    params: Any = None,
    names: Mapping[str, str] | None = None,
    seed: int = 0,
    gradients: bool = True,
    rtol: float | None = None,
    atol: float | None = None,
    precision: str | None = "highest",
    seconds: float = 10.0,
    progress: Progress | None = None,
) -> Report:
    """Check that a model equals a torch module, or a program, to rounding.

    Args:
      ours: a Flax NNX module in the mode in which it should run, a :class:`jaxlstm.programs.program.Program`,
        or a function of arrays.
      theirs: a ``torch.nn.Module`` or a bound method of one, of which a copy runs in evaluation mode on the
        CPU, a ``torch.export.ExportedProgram``, a ScriptModule or the path of a TorchScript file, whose code
        torch executes, or a Program, which needs no torch.
      args, kwargs: an example of the arguments, as NumPy arrays, JAX arrays or torch tensors. Other inputs
        are made from it.
      call: ``call(ours, *args, **kwargs)``, for an NNX module or a Program (which gets its parameters) whose
        arguments or results have another layout than torch's, such as
        ``lambda model, x: model(x.transpose(0, 2, 3, 1))``.
      params: for a function, a tree of parameters that it takes before the arguments.
      names: maps torch's prefixes to prefixes of the model, as in ``jaxlstm.load_state_dict``.
      gradients: if true, check the gradients of floating-point inputs and of parameters.
      seconds: time for the search of the cause of a failure.
      seed, rtol, atol, precision, progress: as for :func:`jaxlstm.check.verify`.

    Returns:
      A report with one item for each criterion.

    Raises:
      TypeError, ValueError: if an argument is invalid. The message names it.

    >>> report = jaxlstm.check.verify_model(model, torch_model, (x,))  # doctest: +SKIP
    >>> report.raise_if_failed()  # doctest: +SKIP
    """
    tolerance = require_tolerance(rtol, atol)
    if not isinstance(args, (tuple, list)):
        raise TypeError(f"args must be a tuple of arguments, got {type(args).__name__}; write (x,) for one")
    example = Case.of_model("example", tuple(args), kwargs or {})
    model = _model(ours, call, params)
    module = ProgramReference(theirs, example) if isinstance(theirs, Program) else TorchModel(theirs)
    subject = ModelSubject(model, example, module, ModuleNames(names), require_precision(precision))
    verification = Verification(
        subject, [module], CRITERIA, module.dtype, require_seed(seed), gradients, tolerance=tolerance
    )
    programs = [] if call else [ours]  # ``call`` may rearrange the arguments.
    program = next((model for model in (*programs, theirs) if isinstance(model, Program)), None)
    notes = _try_cases(verification, subject, program, progress or no_progress)
    moved_notes, lines = _try_moved(verification, subject)
    notes += [*moved_notes, *(unused_inputs(program.graph) if program else [])]
    return report_on(
        verification,
        lambda failures: lines or diagnose_model(verification, subject, failures, seconds),
        {
            "ours": model.name,
            "theirs": module.module_name,
            "names": dict(names) if names else None,
            "varied": ", ".join(c.name for c in verification.tried[1:] if c.name not in verification.refused),
            "sizes": len({repr(c.shapes) for c in verification.tried if c.name not in verification.refused}),
        },
        name=model.name,
        notes=(*notes, *_notes(subject)),
    )


def _try_cases(
    verification: Verification, subject: ModelSubject, program: Program | None, progress: Progress
) -> list[str]:
    """Try the example and the cases made from it. Return notes about skipped cases."""
    theirs = subject.theirs
    example = replace(subject.example.astype(theirs.dtype), differentiate=True)
    finite = theirs.run(example, theirs.dtype).is_finite  # Let an exception of the module pass.
    if not finite and (reason := theirs.refusal(example)):  # Under jit, a program gives NaN instead.
        raise ProgramError("guard", f"theirs refuses the example: {reason}")
    rng = np.random.default_rng(verification.seed)
    free = free_axes(program, example) if program else None

    def refusal(case: Case) -> str:
        reason = theirs.refusal(case)
        if reason or not finite or case.compared == "NaN" or case.shapes != example.shapes:
            return reason
        runs = (theirs.run(case, dtype) for dtype in (theirs.dtype, np.float64))
        return "" if all(run.is_finite for run in runs) else "its results are not finite"

    plain = replace(example, differentiate=False)
    cases, notes = variations(plain, refusal, rng, widen=isinstance(theirs, TorchModel))
    resized, refused = other_sizes(
        plain,
        refusal,
        free,
        sum(a.size for a in theirs.params().values()),
        lambda case: subject.takes(case, example),
    )
    cases, notes = [example, *cases, *resized], [*notes, *refused]
    if verification.tolerance is not None:  # The caller's tolerance may not fit other magnitudes.
        cases = [case for case in cases if case.compared != "values"]
    for done, case in enumerate(cases):
        failed, same_shapes = verification.first_failure is not None, case.shapes == example.shapes
        if failed and (not verification.evidence["working"] or not same_shapes):
            notes.append(f"{case.name}: not tried after the failure")
            continue
        progress(done, len(cases), case.name)
        if verification.gradients and case.differentiate:
            case = _with_cotangents(case, theirs.run(case), verification)
        verification.try_case(case)
    progress(len(cases), len(cases), "done")
    other_shapes = [case for case in verification.tried if case.shapes != example.shapes]
    if any(example.shapes) and all(case.name in verification.refused for case in other_shapes):
        verification.sizes = "every axis is fixed" if free == [] else "none was accepted"
    return notes


def _try_moved(verification: Verification, subject: ModelSubject) -> tuple[list[str], Diagnosis | None]:
    """Try the example with other parameters in both models. Return notes, and the diagnosis of a failure."""
    if verification.first_failure is not None:
        return [], None
    evidence = [*verification.evidence["float64"], *verification.evidence["working"]][0]
    gradients = (evidence.results, evidence.truth) if evidence.results.gradients else None
    moves = subject.moves(gradients, np.random.default_rng([verification.seed, 2]))
    if moves is None or not moves.theirs:
        return ["other parameters were not tried: it is not known which arrays correspond"], None
    notes = []
    if moves.fixed:
        suffix = f" and {len(moves.fixed) - 3} more" * (len(moves.fixed) > 3)
        names = ", ".join(moves.fixed[:3]) + suffix
        notes.append(f"{names} kept the given values: it is not known what corresponds to them in the model")
    theirs, example = subject.theirs, subject.example
    moved = theirs.moved(moves.theirs)
    case = replace(example.astype(theirs.dtype), name="other parameters", optional=True, compared="results")
    if reason := moved.refusal(case):
        return [*notes, f"{case.name}: skipped, torch refuses them: {reason}"], None
    truth = moved.run(case)
    if theirs.run(case).is_finite and not (truth.is_finite and moved.run(case, theirs.dtype).is_finite):
        return [*notes, f"{case.name}: skipped, the results are not finite"], None
    if verification.gradients:
        case = _with_cotangents(case, truth, verification)
    check = replace(
        verification,
        subject=subject.moved(moves),
        references=[moved],
        evidence={precision: [] for precision in verification.evidence},
    )
    check.try_case(case)
    if check.first_failure is None:
        return notes, None
    fault = f"has nothing that corresponds to {', '.join(moves.missing[:3])}" if moves.missing else "differs"
    line = f"the model equals {theirs.module_name} with the given parameters; with other ones it {fault}"
    return notes, Diagnosis((line,))


def _with_cotangents(case: Case, truth: Results, verification: Verification) -> Case:
    """Return the case with a random cotangent for each floating-point output, if there is one."""
    rng = np.random.default_rng([verification.seed, 1])
    cotangents = {
        name: rng.standard_normal(a.shape).astype(verification.dtype)
        for name, a in truth.outputs.items()
        if is_floating(a)
    }
    return replace(case, cotangents=cotangents, differentiate=bool(cotangents))


def _notes(subject: ModelSubject) -> Iterator[str]:
    if subject.theirs.was_training:
        yield "theirs is in training mode; a copy of it was checked in evaluation mode"
    if subject.padded:
        yield (
            f"{', '.join(sorted(subject.padded))}: torch's pad_packed_sequence ends at the longest sequence, "
            "the model at the padded length (total_length in torch); the steps that both have were compared"
        )
    for name, sources in subject.pairing.summed().items():
        yield f"{name} is the sum of torch's {' and '.join(sources)}; in float64 the sum is exact"


def _model(ours: Any, call: Callable[..., Any] | None, params: Any) -> JaxModel:
    if isinstance(ours, Program):
        if params is not None:
            raise TypeError("params must be None for a Program, which holds its parameters")
        return ProgramModel(ours, call)
    flax = sys.modules.get("flax.nnx")  # Loaded if the caller holds one of its modules.
    if flax is not None and isinstance(ours, flax.Module):
        from jaxlstm.check.subjects.flax_model import FlaxModel

        if params is not None:
            raise TypeError("params must be None for an NNX module, which holds its parameters")
        return FlaxModel(ours, call)
    if not callable(ours):
        raise TypeError(f"ours must be a flax.nnx Module or a function of arrays, got {type(ours).__name__}")
    if call is not None:
        raise TypeError("call must be None for a function, which can rearrange its arguments itself")
    if "flax.linen" in sys.modules:
        from jaxlstm.check.subjects.flax_model import LinenFunction

        return LinenFunction(ours, params)
    return FunctionModel(ours, params)
