"""Parametrization of tests by backend: all values on a GPU or TPU, and a selection on the CPU."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable
from typing import Any

import jax
import pytest

BACKENDS = ("cpu", "gpu", "tpu")
MARKS = {"cpu": [], "gpu": [pytest.mark.gpu], "tpu": [pytest.mark.tpu]}


@functools.cache
def absence(backend: str) -> str:
    """Return JAX's error message for an unavailable backend, or an empty string."""
    try:
        jax.devices(backend)
    except RuntimeError as error:
        return f"no {backend} here: {str(error).splitlines()[0]}"
    return ""


def on_each_backend(
    name: str = "",
    values: Collection[Any] = ("",),
    *,
    on_cpu: Iterable[Any] | None = None,
    backends: Iterable[str] = BACKENDS,
    ids: Callable[[Any], str] = str,
) -> pytest.MarkDecorator:
    """Parametrize by ``backend``, and by another argument if ``name`` is given.

    For an unavailable backend there is one skipped test, whose id says how many tests it stands for.

    Args:
      name: name of the other argument.
      values: values of the other argument.
      on_cpu: values on the CPU; all values if None.
      backends: backends that the test supports.
      ids: returns the test id of a value.
    """
    rows = []
    for backend in backends:
        chosen = [*(values if on_cpu is None or backend != "cpu" else on_cpu)]
        labels = [ids(value) for value in chosen]
        if absence(backend) and chosen:
            chosen, labels = chosen[:1], [f"{len(chosen)} tests"]
        for value, label in zip(chosen, labels, strict=True):
            row = (backend, value) if name else (backend,)
            rows.append(pytest.param(*row, marks=MARKS[backend], id=f"{backend}-{label}".strip("-")))
    arguments = ("backend", name) if name else ("backend",)
    return pytest.mark.parametrize(arguments, rows, indirect=["backend"])


def name_of(row: Any) -> str:
    """Return the test id of a tuple, from the names of its parts."""
    return "-".join(getattr(part, "__name__", str(part)) for part in row)
