"""``verify_matrix``: a port over every combination of dtype, batch, length and jit."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax.errors import TracerArrayConversionError

from jaxlstm._shared.progress import Progress, no_progress
from jaxlstm._shared.table import count_of
from jaxlstm.check.cases.inputs import make_case
from jaxlstm.check.criteria.catalogue import CRITERIA
from jaxlstm.check.notes import environment, port_notes
from jaxlstm.check.report.item import Item
from jaxlstm.check.report.report import Report
from jaxlstm.check.requirements import REFERENCES, require_dtype, require_port, require_references
from jaxlstm.check.subjects.port import Port, name_of
from jaxlstm.check.verification import Verification
from jaxlstm.layer.config import LSTMConfig

DTYPES = ("float16", "bfloat16", "float32", "float64")
MODES = ("jit", "no jit")


def verify_matrix(
    port: Callable[..., Any] | None,
    params: Mapping[str, Any] | None,
    config: LSTMConfig,
    *,
    dtypes: Sequence[Any] = DTYPES,
    batches: Sequence[int] = (1, 5),
    lengths: Sequence[int] = (1, 12, 100),
    modes: Sequence[str] = MODES,
    seed: int = 0,
    against: Sequence[str] = tuple(REFERENCES),
    precision: str | None = "highest",
    progress: Progress | None = None,
) -> Report:
    """Check a port over every combination of dtype, batch and length, with and without ``jax.jit``.

    Args:
      port, params, config, seed, against, precision, progress: as for :func:`jaxlstm.check.verify`.
      dtypes: the working dtypes.
      batches: the numbers of sequences. Batches of several sequences are ragged if the port takes lengths.
      lengths: the numbers of time steps.
      modes: "jit" runs the port inside ``jax.jit``, "no jit" under ``jax.disable_jit()``.

    Returns:
      A report with one item for each combination. It measures the difference from torch or the oracle in
      float64, and the RMS error relative to correct implementations in other dtypes. Gradients are not
      checked.
    """
    subject = require_port(port, params, config, seed, precision)
    if unknown := [mode for mode in modes if mode not in MODES]:
        raise ValueError(f"modes must be one or both of {MODES}, got {unknown}")
    if min(lengths, default=1) < 1:
        raise ValueError(f"lengths must be 1 or more, got {tuple(lengths)}")
    subjects = {mode: replace(subject, call=_in_mode(subject.call, mode)) for mode in modes}
    references = require_references(against, subject.params, config)
    progress = progress or no_progress
    cells = list(itertools.product(map(require_dtype, dtypes), batches, lengths, modes))
    items = []
    for done, (dtype, batch, time, mode) in enumerate(cells):
        row, column = f"{dtype}, batch {batch}, {mode}", count_of(time, "step")
        name = f"{dtype}, batch {batch}, {column}, {mode}"
        progress(done, len(cells), name)
        is_float64 = dtype == np.float64
        verification = Verification(
            subjects[mode], references, CRITERIA, dtype, seed, gradients=False, run_float64=is_float64
        )
        rng = np.random.default_rng([seed, batch, time])
        # The name of the only case would repeat the name of the item.
        trial = verification.try_case(make_case("", config, rng, time=time, batch=batch, ragged=batch > 1))
        if isinstance(trial.error, TracerArrayConversionError):
            item = Item(name, None, detail="jax.jit cannot trace the port")
        else:
            item = _item(name, verification, subjects[mode])
        items.append(replace(item, data={"row": row, "column": column}))
    progress(len(cells), len(cells), "done")
    names = [reference.name for reference in references]
    return Report(
        f"{name_of(port)}, dtype x batch x length x jit",
        tuple(items),
        settings={"config": repr(config), "seed": seed, "against": ", ".join(names)},
        environment=environment(precision, with_torch="torch" in names),
    )


def _in_mode(call: Callable[..., Any], mode: str) -> Callable[..., Any]:
    if mode == "jit":
        return jax.jit(call)

    def without_jit(*args: Any, **kwargs: Any) -> Any:
        with jax.disable_jit():
            return call(*args, **kwargs)

    return without_jit


def _item(name: str, verification: Verification, subject: Port) -> Item:
    """Summarize a case: the first criterion that fails, or else the one nearest its limit."""
    items = list(verification.findings.items())
    failed = next((item for item in items if item.ok is False), None)
    if failed is not None:
        return replace(failed, name=name, detail=f"{failed.name}: {failed.detail}")
    measured = [item for item in items if item.measured is not None]
    if not measured:
        return Item(name, None, detail=" ".join(port_notes(verification, subject, ())))
    worst = max(measured, key=lambda item: (item.measured or 0.0) / (item.limit or 1.0))
    return replace(worst, name=name, detail=worst.name)
