"""``verify_model``: the verdict on a whole model that should equal a torch module.

Both models run on each case of :mod:`jaxlstm.check.model.cases`, in float64 and in the dtype of the module.
The oracle is the module in float64. The criteria are the same as in ``verify``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxlstm._shared.progress import Progress
from jaxlstm.check.arguments import require_precision, require_seed
from jaxlstm.check.criteria.tolerance import require_tolerances
from jaxlstm.check.environment import environment
from jaxlstm.check.exceptions import describe
from jaxlstm.check.model.cases import model_cases
from jaxlstm.check.model.diagnose import ModelDiagnosis, diagnose_model
from jaxlstm.check.model.names import ModuleNames
from jaxlstm.check.model.ours import FunctionModel, OurModel
from jaxlstm.check.model.program_model import ProgramModel
from jaxlstm.check.model.results import ModelCase
from jaxlstm.check.model.verification import ModelVerification
from jaxlstm.check.reference.torch_model import TorchModel
from jaxlstm.check.report.data import Item
from jaxlstm.check.report.report import Report
from jaxlstm.programs.program import Program


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
    """Check that a model equals a torch module to rounding.

    Args:
      ours: a Flax NNX module in the mode in which it should run, a :class:`jaxlstm.programs.program.Program`,
        or a function of arrays.
      theirs: a ``torch.nn.Module``, of which a copy runs in evaluation mode on the CPU, or a
        ``torch.export.ExportedProgram``.
      args, kwargs: an example of the arguments, as NumPy arrays, JAX arrays or torch tensors. Other inputs
        are made from it.
      call: ``call(ours, *args, **kwargs)``, for an NNX module whose arguments or results have another layout
        than torch's, such as ``lambda model, x: model(x.transpose(0, 2, 3, 1))``.
      params: for a function, a tree of parameters that it takes before the arguments.
      names: maps torch's prefixes to prefixes of the model, as in ``jaxlstm.load_state_dict``.
      seed: the seed of the inputs and of the cotangents.
      gradients: if true, check the gradients of floating-point inputs and of parameters.
      rtol, atol: the tolerance that replaces the numeric criteria in the dtype of the module. Give both or
        neither.
      precision: the precision of matrix products and convolutions that set none. None keeps JAX's default.
      seconds: time for the search of the cause of a failure.
      progress: called as ``progress(done, total, description)``.

    Returns:
      A report with one item for each criterion.

    Raises:
      TypeError, ValueError: if an argument is invalid. The message names it.

    >>> report = jaxlstm.check.verify_model(model, torch_model, (x,))  # doctest: +SKIP
    >>> report.raise_if_failed()  # doctest: +SKIP
    """
    require_tolerances(rtol, atol)
    example = ModelCase.of("example", _require_args(args), kwargs or {})
    verification = ModelVerification(
        ours=_our_model(ours, call, params),
        theirs=TorchModel(theirs),
        example=example,
        names=ModuleNames(names),
        gradients=gradients,
        tolerance=None if rtol is None or atol is None else (rtol, atol),
        precision=require_precision(precision),
        seed=require_seed(seed),
    )
    notes = _try_cases(verification, progress)
    items = tuple(_items(verification))
    failed = {item.name for item in items if item.ok is False}
    diagnosis = diagnose_model(verification, failed, seconds) if failed else ModelDiagnosis()
    settings = {
        "ours": verification.ours.name,
        "theirs": verification.theirs.name,
        "dtype": str(verification.theirs.dtype),
        "names": dict(names or {}),
        "seed": seed,
        "gradients": gradients,
        "rtol": rtol,
        "atol": atol,
        "precision": str(precision),
    }
    return Report(
        title=f"{verification.ours.name} in {verification.theirs.dtype}",
        items=items,
        diagnosis=diagnosis.lines,
        notes=(*notes, *_notes(verification)),
        settings=settings,
        environment=environment(precision, with_torch=True),
        again=_call(settings, kwargs),
        layers=diagnosis.layers,
    )


def _try_cases(verification: ModelVerification, progress: Progress | None) -> list[str]:
    """Try the example and the cases made from it. Return notes about skipped cases."""
    theirs = verification.theirs
    example = verification.example.astype(theirs.dtype)
    theirs.run(example, theirs.dtype)  # The module must take the example: let its exception pass.
    rng = np.random.default_rng(verification.seed)
    cases, notes = model_cases(example, lambda case: _refusal(theirs, case), rng)
    for done, case in enumerate(cases):
        failed = verification.findings.failed()
        if "runs" in failed or (failed and case.shapes() != example.shapes()):
            notes.append(f"{case.name}: not tried after the failure")
            continue
        if progress is not None:
            progress(done, len(cases), case.name)
        verification.try_case(case)
        if verification.first_failure is None and verification.findings.failed():
            verification.first_failure = case
    if progress is not None:
        progress(len(cases), len(cases), "done")
    return notes


def _refusal(theirs: TorchModel, case: ModelCase) -> str:
    """Return the exception that torch raises for a case, or an empty string."""
    try:
        # torch's float32 LSTM does not always check the sizes of its input; its float64 LSTM does.
        for dtype in {theirs.dtype, np.dtype(np.float64)}:
            theirs.run(case, dtype)
    except Exception as error:
        return describe(error)
    return ""


def _items(verification: ModelVerification) -> Iterator[Item]:
    yield from verification.findings.items()
    for case, problem in verification.refused.items():
        yield Item(case, None, detail=f"torch takes this case, the model raised {problem}")
    if verification.float64_refusal:
        yield Item("float64 semantics", None, detail=verification.float64_refusal)
    if not verification.gradients:
        return
    if not verification.pairing.choices:
        yield Item("gradients of parameters", None, detail="the function has no argument params")
    elif unpaired := verification.pairing.unpaired:
        detail = f"the values of {', '.join(unpaired)} are not a re-layout of any parameter of torch"
        yield Item("gradients of parameters", None, detail=detail)


def _notes(verification: ModelVerification) -> Iterator[str]:
    if verification.theirs.was_training:
        yield "theirs is in training mode; a copy of it was checked in evaluation mode"
    for name, sources in verification.pairing.summed().items():
        yield f"{name} is the sum of torch's {' and '.join(sources)}; in float64 the sum is exact"
    if verification.tolerance is not None:
        rtol, atol = verification.tolerance
        yield f"tolerances set by the caller: rtol={rtol:g}, atol={atol:g}"


def _our_model(ours: Any, call: Callable[..., Any] | None, params: Any) -> OurModel:
    if isinstance(ours, Program):
        if call is not None or params is not None:
            raise TypeError("call and params must be None for a Program, which holds its parameters")
        return ProgramModel(ours)
    flax = sys.modules.get("flax.nnx")  # Loaded if the caller holds one of its modules.
    if flax is not None and isinstance(ours, flax.Module):
        from jaxlstm.check.flax_model import FlaxModel

        if params is not None:
            raise TypeError("params must be None for an NNX module, which holds its parameters")
        return FlaxModel(ours, call)
    if not callable(ours):
        raise TypeError(f"ours must be a flax.nnx Module or a function of arrays, got {type(ours).__name__}")
    if call is not None:
        raise TypeError("call must be None for a function, which can rearrange its arguments itself")
    if "flax.linen" in sys.modules:
        from jaxlstm.check.flax_model import LinenFunction

        return LinenFunction(ours, params)
    return FunctionModel(ours, params)


def _require_args(args: Sequence[Any]) -> tuple[Any, ...]:
    if not isinstance(args, (tuple, list)):
        raise TypeError(f"args must be a tuple of arguments, got {type(args).__name__}; write (x,) for one")
    return tuple(args)


def _call(settings: Mapping[str, Any], kwargs: Mapping[str, Any] | None) -> str:
    """Return the call that repeats the check."""
    arguments = ["ours", "theirs", "args"] + (["kwargs"] if kwargs else [])
    defaults = {"names": {}, "seed": 0, "gradients": True, "rtol": None, "atol": None, "precision": "highest"}
    arguments += [
        f"{name}={None if name == 'precision' and settings[name] == 'None' else settings[name]!r}"
        for name, default in defaults.items()
        if settings[name] != default
    ]
    return f"jaxlstm.check.verify_model({', '.join(arguments)})"
