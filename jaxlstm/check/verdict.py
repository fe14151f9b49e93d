"""``verify``: the whole verdict on a port.

For each case of :mod:`jaxlstm.check.inputs` the port runs in float64 and in the working dtype, torch and
the oracle do the same, and the criteria of :mod:`jaxlstm.check.criteria` judge. A port is right when all
of them hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jaxlstm.check.arguments import (
    REFERENCES,
    require_config,
    require_dtype,
    require_params,
    require_precision,
    require_references,
    require_seed,
)
from jaxlstm.check.comparison import require_tolerances
from jaxlstm.check.diagnose import diagnose
from jaxlstm.check.environment import environment
from jaxlstm.check.inputs import cases
from jaxlstm.check.port import Port, own_port
from jaxlstm.check.report import Item, Report
from jaxlstm.check.run import Run
from jaxlstm.config import LSTMConfig

Progress = Callable[[int, int, str], None]


def verify(
    port: Callable[..., Any] | None = None,
    params: Mapping[str, Any] | None = None,
    config: LSTMConfig | None = None,
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
    """Whether a port is the LSTM of ``torch.nn.LSTM``, to the last digit that rounding leaves.

    Args:
      port: ``port(inputs, initial_state, seq_lengths) -> (outputs, (h_n, c_n))`` on time-major JAX
        arrays; see :mod:`jaxlstm.check.port` for one that takes less, or also ``params``. None: our own
        jitted ``lstm``.
      params: arrays under torch's names, of the shapes of :func:`jaxlstm.param_shapes`: the weights that
        the port has. None: random ones, for a port that takes ``params``.
      config: the LSTM; its ``batch_first`` and ``dropout`` play no part.
      dtype: the working dtype: float16, bfloat16, float32 or float64. Semantics are judged in float64
        whatever it is.
      seed: of the inputs, and of the params if they are None.
      gradients: also those of every parameter, the inputs and both states.
      against: "torch", "oracle" or both; torch only counts if it is installed.
      rtol, atol: judge by this tolerance in the working dtype, instead of by the criteria for rounding.
        Both, or neither; the report says so.
      precision: of the matrix products of a port that sets none; None leaves JAX's default.
      seconds: time for a diagnosis to try pairs of faults, if the verdict fails.
      progress: called as ``progress(done, total, what)``.

    Returns:
      A report: an item for each criterion and case, and what went untested.

    Raises:
      TypeError, ValueError: an argument does not fit; the message names it.
    """
    config, seed = require_config(config), require_seed(seed)
    run = Run(
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
    items = tuple(_items(run, progress))
    failed = {item.name for item in items if item.ok is False}
    settings = {
        "port": name_of(port),
        "config": repr(config),
        "dtype": str(run.dtype),
        "seed": seed,
        "gradients": gradients,
        "against": ", ".join(run.references),
        "rtol": rtol,
        "atol": atol,
        "precision": str(precision),
    }
    return Report(
        f"{name_of(port)} in {run.dtype}",
        items,
        tuple(diagnose(run, failed, seconds)),
        tuple(run.notes(against)),
        settings,
        environment(precision, with_torch="torch" in run.references),
        tuple(run.pictures()),
        _call_again(settings, run.references),
        run.difference if failed else None,
    )


def _items(run: Run, progress: Progress | None) -> Iterator[Item]:
    """Every item, once every case has been tried."""
    chosen = cases(run.config, run.seed)
    steps = [case.name for case in chosen] + ["step residual", "done"]

    def tell(done: int) -> None:
        if progress is not None:
            progress(done, len(steps) - 1, steps[done])

    for done, case in enumerate(chosen):
        tell(done)
        run.try_case(case)
    tell(len(chosen))
    yield from run.findings.items()
    yield from run.residual(chosen[:3])
    yield from run.untested()
    tell(len(chosen) + 1)


def name_of(port: Callable[..., Any] | None) -> str:
    """What a report calls a port."""
    return "jaxlstm.lstm" if port is None else getattr(port, "__name__", type(port).__name__)


def _call_again(settings: Mapping[str, Any], references: Sequence[str]) -> str:
    """The call that gives this report once more."""
    own = settings["port"] == "jaxlstm.lstm"
    arguments = [
        "None" if own else settings["port"],
        "params",
        settings["config"],
        f"dtype={settings['dtype']!r}",
        f"seed={settings['seed']}",
        f"gradients={settings['gradients']}",
        f"against={tuple(references)!r}",
    ]
    if settings["precision"] != "highest":
        told = settings["precision"]
        arguments.append("precision=None" if told == "None" else f"precision={told!r}")
    if settings["rtol"] is not None:
        arguments += [f"rtol={settings['rtol']!r}", f"atol={settings['atol']!r}"]
    return f"jaxlstm.check.verify({', '.join(arguments)})"


def _tolerance(rtol: float | None, atol: float | None) -> tuple[float, float] | None:
    require_tolerances(rtol, atol)
    return None if rtol is None or atol is None else (rtol, atol)
