"""``verify``: the verdict on a port of ``torch.nn.LSTM``.

The port, torch and the oracle run each case of :mod:`jaxlstm.check.reference.cases` in float64 and in the
working dtype. A port is right if its results meet all criteria of :mod:`jaxlstm.check.criteria`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jaxlstm._shared.progress import Progress
from jaxlstm.check.arguments import (
    REFERENCES,
    require_dtype,
    require_params,
    require_precision,
    require_references,
    require_seed,
)
from jaxlstm.check.criteria.tolerance import require_tolerances
from jaxlstm.check.diagnosis.diagnose import diagnose
from jaxlstm.check.diagnosis.locate import locate_difference
from jaxlstm.check.environment import environment
from jaxlstm.check.exceptions import PORT_EXCEPTIONS
from jaxlstm.check.port import Port, name_of, own_port
from jaxlstm.check.reference.cases import ordinary_case, standard_cases
from jaxlstm.check.report.data import Item
from jaxlstm.check.report.difference import StepDifference
from jaxlstm.check.report.report import Report
from jaxlstm.check.summary import heatmaps, notes, untested
from jaxlstm.check.verification import Verification
from jaxlstm.layer.config import LSTMConfig, require_config


def verify(
    port: Callable[..., Any] | None,
    params: Mapping[str, Any] | None,
    config: LSTMConfig,
    *,
    dtype: Any = "float32",
    seed: int = 0,
    gradients: bool = True,
    against: Sequence[str] = REFERENCES,
    rtol: float | None = None,
    atol: float | None = None,
    precision: str | None = "highest",
    seconds: float = 10.0,
    progress: Progress | None = None,
) -> Report:
    """Check that a port equals ``torch.nn.LSTM`` to rounding.

    Args:
      port: ``port(inputs, initial_state, seq_lengths) -> (outputs, (h_n, c_n))`` on time-major JAX arrays.
        See :mod:`jaxlstm.check.port` for ports that take fewer arguments, or also ``params``. None checks
        jaxlstm's own jitted ``lstm``.
      params: the weights that the port holds: arrays under torch's names, of the shapes of
        :func:`jaxlstm.param_shapes`. None draws random weights, for a port that takes ``params``.
      config: the LSTM. Its ``batch_first`` and ``dropout`` are ignored.
      dtype: the working dtype: float16, bfloat16, float32 or float64. The equations are always checked in
        float64.
      seed: the seed of the inputs, and of the params if they are None.
      gradients: if true, check the gradients of every parameter, of the inputs and of both states.
      against: the references: "torch", "oracle" or both. torch is skipped if it is not installed.
      rtol, atol: the tolerance that replaces the numeric criteria in the working dtype. Give both or
        neither.
      precision: the precision of matrix products in a port that sets none. None keeps JAX's default.
      seconds: time for the diagnosis to try pairs of faults.
      progress: called as ``progress(done, total, description)``.

    Returns:
      A report with one item for each criterion.

    Raises:
      TypeError, ValueError: if an argument is invalid. The message names it.

    >>> report = jaxlstm.check.verify(port, params, config)  # doctest: +SKIP
    >>> report.raise_if_failed()  # doctest: +SKIP
    """
    config, seed = require_config(config), require_seed(seed)
    verification = Verification(
        port=own_port(config) if port is None else Port.of(port),
        params=require_params(port, params, config, seed),
        config=config,
        dtype=require_dtype(dtype),
        seed=seed,
        gradients=gradients,
        references=require_references(against),
        tolerance=_tolerance(rtol, atol),
        precision=require_precision(precision),
    )
    items = tuple(_items(verification, progress))
    failed = {item.name for item in items if item.ok is False}
    difference = _difference(verification) if failed else None
    settings = {
        "port": name_of(port),
        "config": repr(config),
        "dtype": str(verification.dtype),
        "seed": seed,
        "gradients": gradients,
        "against": ", ".join(verification.references),
        "rtol": rtol,
        "atol": atol,
        "precision": str(precision),
    }
    return Report(
        title=f"{name_of(port)} in {verification.dtype}",
        items=items,
        diagnosis=tuple(diagnose(verification, failed, difference, seconds)),
        notes=tuple(notes(verification, against)),
        settings=settings,
        environment=environment(precision, with_torch="torch" in verification.references),
        heatmaps=tuple(heatmaps(verification)),
        again=_call(settings, verification.references),
        difference=difference,
    )


def _items(verification: Verification, progress: Progress | None) -> Iterator[Item]:
    """Try every case, then yield every item."""
    cases = standard_cases(verification.config, verification.seed)
    steps = [case.name for case in cases] + ["step residual", "done"]

    def advance(done: int) -> None:
        if progress is not None:
            progress(done, len(steps) - 1, steps[done])

    for done, case in enumerate(cases):
        advance(done)
        verification.try_case(case)
    advance(len(cases))
    yield from verification.findings.items()
    yield from verification.check_steps(cases[:3])
    yield from untested(verification)
    advance(len(cases) + 1)


def _difference(verification: Verification) -> StepDifference | None:
    """Locate the first difference from the oracle, in float64 if the port can run in float64."""
    case = ordinary_case(verification.config, verification.seed)
    dtype = "float64" if verification.evidence["float64"] else verification.dtype
    try:
        return locate_difference(
            verification.port,
            verification.params,
            verification.config,
            case,
            dtype,
            precision=verification.precision,
        )
    except PORT_EXCEPTIONS:  # The item "runs" reports them.
        return None


def _call(settings: Mapping[str, Any], references: Sequence[str]) -> str:
    """Return the call that repeats the check."""
    port, precision = settings["port"], settings["precision"]
    arguments = [
        "None" if port == name_of(None) else port,
        "params",
        settings["config"],
        f"dtype={settings['dtype']!r}",
        f"seed={settings['seed']}",
        f"gradients={settings['gradients']}",
        f"against={tuple(references)!r}",
    ]
    if precision != "highest":
        arguments.append("precision=None" if precision == "None" else f"precision={precision!r}")
    if settings["rtol"] is not None:
        arguments += [f"rtol={settings['rtol']!r}", f"atol={settings['atol']!r}"]
    return f"jaxlstm.check.verify({', '.join(arguments)})"


def _tolerance(rtol: float | None, atol: float | None) -> tuple[float, float] | None:
    require_tolerances(rtol, atol)
    return None if rtol is None or atol is None else (rtol, atol)
