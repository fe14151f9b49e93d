"""``verify_matrix``: dtype x batch x length x jit, one line each."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from jaxlstm.check.arguments import (
    require_config,
    require_dtype,
    require_params,
    require_precision,
    require_references,
    require_seed,
)
from jaxlstm.check.environment import environment
from jaxlstm.check.inputs import make_case
from jaxlstm.check.port import Port, own_port
from jaxlstm.check.report import Item, Report
from jaxlstm.check.run import Run
from jaxlstm.check.verdict import Progress, name_of
from jaxlstm.config import LSTMConfig

DTYPES = ("float16", "bfloat16", "float32", "float64")
MODES = ("jit", "no jit")
WIDTH = 17
"""Of a column of :func:`table`; "FAILED 1.1e+100" fits."""


def verify_matrix(
    port: Callable[..., Any] | None = None,
    params: Mapping[str, Any] | None = None,
    config: LSTMConfig | None = None,
    *,
    dtypes: Sequence[Any] = DTYPES,
    batches: Sequence[int] = (1, 5),
    lengths: Sequence[int] = (1, 12, 100),
    modes: Sequence[str] = MODES,
    seed: int = 0,
    against: Sequence[str] = ("torch", "oracle"),
    precision: str | None = "highest",
    progress: Progress | None = None,
) -> Report:
    """A port over every combination of dtype, batch, length, and with and without ``jax.jit``.

    Args:
      port, params, config, seed, against, precision, progress: as for :func:`jaxlstm.check.verify`.
      dtypes: working dtypes.
      batches: numbers of sequences; above one they are ragged, if the port takes lengths.
      lengths: numbers of time steps.
      modes: "jit" for the port inside ``jax.jit``, "no jit" for ``jax.disable_jit()``.

    Returns:
      A report with one item for each combination: the RMS error to float64 in units of that of right
      implementations, and for float64 the difference from torch or the oracle. Gradients are not taken.
    """
    config, precision = require_config(config), require_precision(precision)
    seed = require_seed(seed)
    unknown = [mode for mode in modes if mode not in MODES]
    if unknown:
        raise ValueError(f"modes must be some of {MODES}, got {tuple(modes)}")
    if min(lengths, default=1) < 1:
        raise ValueError(f"lengths must be 1 or more, got {tuple(lengths)}")
    references = require_references(against)
    whole = own_port(config) if port is None else Port.of(port)
    arrays = require_params(port, params, config, seed)
    cells = list(itertools.product(map(require_dtype, dtypes), batches, lengths, modes))
    items = []
    for done, (dtype, batch, time, mode) in enumerate(cells):
        name = f"{dtype}, batch {batch}, {time} step{'s' * (time != 1)}, {mode}"
        if progress is not None:
            progress(done, len(cells), name)
        run = Run(
            replace(whole, call=_in_mode(whole.call, mode)),
            arrays,
            config,
            dtype,
            seed,
            gradients=False,
            references=references,
            tolerance=None,
            precision=precision,
            only_working=dtype != np.float64,
        )
        rng = np.random.default_rng([seed, batch, time])
        run.try_case(make_case(name, config, rng, time=time, batch=batch, ragged=batch > 1))
        items.append(_item(name, run))
    if progress is not None:
        progress(len(cells), len(cells), "done")
    return Report(
        f"{name_of(port)}, dtype x batch x length x jit",
        tuple(items),
        settings={"config": repr(config), "seed": seed, "against": ", ".join(references)},
        environment=environment(precision, with_torch="torch" in references),
    )


def _in_mode(call: Callable[..., Any], mode: str) -> Callable[..., Any]:
    if mode == "jit":
        return jax.jit(call)

    def without(*arguments: Any, **named: Any) -> Any:
        with jax.disable_jit():
            return call(*arguments, **named)

    return without


def _item(name: str, run: Run) -> Item:
    """One item that stands for all of a case: the first that fails, or the number that matters."""
    found = list(run.findings.items())
    failed = [item for item in found if item.ok is False]
    if failed:
        first = failed[0]
        cannot = first.name == "runs" and "TracerArrayConversionError" in first.detail
        told = first.detail.replace(f"{name}, ", "").replace(f"{name}: ", "")  # of the only case
        told = told.removesuffix(f"; fails in {name}")
        detail = "jax.jit cannot trace the port" if cannot else f"{first.name}: {told}"
        return Item(name, None if cannot else False, first.measured, first.limit, detail)
    measured = [item for item in found if item.measured is not None]
    if not measured:
        return Item(name, None, detail=" ".join(run.notes(())))
    worst = max(measured, key=_share)
    return Item(name, True, worst.measured, worst.limit, worst.name)


def _share(item: Item) -> float:
    return (item.measured or 0.0) / (item.limit or 1.0)


def table(report: Report) -> Iterator[str]:
    """The items of a matrix as a grid: a line for each dtype, batch and mode, a column for each length."""
    cells: dict[str, dict[str, Item]] = {}
    for item in report.items:
        dtype, batch, steps, mode = item.name.split(", ")
        cells.setdefault(f"{dtype}, {batch}, {mode}", {})[steps] = item
    columns = list(next(iter(cells.values()), ()))
    left = max(map(len, cells), default=0)
    yield " " * left + "".join(column.rjust(WIDTH) for column in columns)
    for label, row in cells.items():
        yield label.ljust(left) + "".join(_told(row[column]).rjust(WIDTH) for column in columns)


def _told(item: Item) -> str:
    return item.status if item.measured is None else f"{item.status} {item.measured:.2g}"
