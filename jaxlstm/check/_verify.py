"""``verify`` and ``verify_cell``: the verdict on a port of ``torch.nn.LSTM`` or of ``torch.nn.LSTMCell``.

The port, torch and the oracle run each case of :mod:`jaxlstm.check.cases.inputs` in float64 and in the
working dtype. A port is right if its results meet all criteria of :mod:`jaxlstm.check.criteria.catalogue`.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxlstm._shared.progress import Progress, no_progress
from jaxlstm.check.cases.inputs import standard_cases
from jaxlstm.check.criteria.catalogue import CRITERIA
from jaxlstm.check.diagnosis.lstm import diagnose_port
from jaxlstm.check.exceptions import PortError
from jaxlstm.check.notes import port_notes, report_on
from jaxlstm.check.report.report import Report
from jaxlstm.check.requirements import (
    REFERENCES,
    require_dtype,
    require_port,
    require_references,
    require_tolerance,
)
from jaxlstm.check.subjects.port import name_of
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
    against: Sequence[str] = tuple(REFERENCES),
    rtol: float | None = None,
    atol: float | None = None,
    precision: str | None = "highest",
    seconds: float = 10.0,
    progress: Progress | None = None,
) -> Report:
    """Check that a port equals ``torch.nn.LSTM`` to rounding.

    Args:
      port: ``port(inputs, initial_state, seq_lengths) -> (outputs, (h_n, c_n))`` on time-major JAX arrays.
        See :mod:`jaxlstm.check.subjects.port` for ports that take fewer arguments, or also ``params``. None
        checks jaxlstm's own jitted ``lstm``.
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
    subject = require_port(port, params, config, seed, precision)
    verification = Verification(
        subject,
        require_references(against, subject.params, config),
        CRITERIA,
        require_dtype(dtype),
        seed,
        gradients,
        tolerance=require_tolerance(rtol, atol),
    )
    cases, progress = standard_cases(config, seed), progress or no_progress
    if verification.truth.name == "torch":  # It cannot pack a sequence of length 0.
        cases = cases[:-1]
    for done, case in enumerate(cases):
        progress(done, len(cases) + 1, case.name)
        verification.try_case(case)
    progress(len(cases), len(cases) + 1, "step residual")
    verification.judge_as_a_whole()
    progress(len(cases) + 1, len(cases) + 1, "done")
    return report_on(
        verification,
        partial(diagnose_port, verification, subject, seconds=seconds),
        {"port": name_of(port), "config": repr(config)},
        name=name_of(port),
        notes=port_notes(verification, subject, against),
    )


def verify_cell(
    step: Callable[..., Any], params: Mapping[str, Any] | None, config: LSTMConfig, **settings: Any
) -> Report:
    """Check that ``step`` equals ``torch.nn.LSTMCell``, by calling it over whole sequences.

    Args:
      step: ``step(x, (h, c)) -> (h, c)`` on JAX arrays x (batch, input_size), h (batch, h_size) and c
        (batch, hidden_size). If it has an argument named ``params``, it receives the parameters.
      params: as for :func:`jaxlstm.check.verify`.
      config: an ``LSTMCellConfig``, or an ``LSTMConfig`` of one layer and one direction.
      settings: the keyword arguments of :func:`jaxlstm.check.verify`.

    Raises:
      ValueError: if the config has several layers or directions.
      PortError: if ``step`` cannot be called in this way or does not return a pair.
    """
    config = require_config(config)
    if config.num_layers > 1 or config.bidirectional:
        raise ValueError(f"config must have one layer and one direction, got {config}")
    if not callable(step):
        raise PortError(f"step must be callable, got {type(step).__name__}")

    def over_time(inputs: Any, initial_state: Any, **params: Any) -> Any:
        if initial_state is None:
            initial_state = [np.zeros(shape, inputs.dtype) for shape in config.state_shapes(inputs.shape[1])]
        (h,), (c,) = map(_steps, initial_state)
        outputs = []
        for x in _steps(inputs):
            state = step(x, (h, c), **params)
            try:
                h, c = state
            except (TypeError, ValueError):
                raise PortError(f"step must return a pair (h, c), got {type(state).__name__}") from None
            outputs.append(h)
        return _stack(outputs), (_stack([h]), _stack([c]))

    def without_params(inputs: Any, initial_state: Any) -> Any:
        return over_time(inputs, initial_state)

    port = over_time if "params" in inspect.signature(step).parameters else without_params
    port.__name__ = name_of(step)
    return verify(port, params, config, **settings)


def _steps(inputs: Any) -> Any:
    # Indexing or stacking JAX arrays compiles a program for each shape. NumPy serves where nothing is traced.
    if isinstance(inputs, Tracer):
        return inputs
    return map(jax.device_put, np.asarray(inputs))


def _stack(arrays: list[Any]) -> Any:
    if any(isinstance(a, Tracer) for a in arrays):
        return jnp.stack(arrays)
    return jax.device_put(np.stack([np.asarray(a) for a in arrays]))
