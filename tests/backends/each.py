"""Which tests run on which backend: all on a GPU and a TPU, on the CPU enough to see that they can fail."""

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
    """Why a backend cannot be had here, in JAX's words; empty if it can."""
    try:
        jax.devices(backend)
    except RuntimeError as error:  # what JAX raises for a platform that it does not have
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
    """Parametrise by ``backend``, and by another argument if it is named.

    All the values of a backend that is not here are one test, which is skipped and says how many they are.

    Args:
      name: of that argument.
      values: its values.
      on_cpu: those that the CPU gets; all if None.
      backends: those that the test is for.
      ids: what a value is called.
    """
    rows = []
    for backend in backends:
        chosen = [*(values if on_cpu is None or backend != "cpu" else on_cpu)]
        labels = [ids(value) for value in chosen]
        if absence(backend) and chosen:
            chosen, labels = chosen[:1], [f"{len(chosen)} tests"]
        for value, label in zip(chosen, labels, strict=True):
            row = (backend, value) if name else (backend,)
            rows.append(
                pytest.param(*row, marks=MARKS[backend], id=f"{backend}-{label}".strip("-"))
            )
    arguments = ("backend", name) if name else ("backend",)
    return pytest.mark.parametrize(arguments, rows, indirect=["backend"])
