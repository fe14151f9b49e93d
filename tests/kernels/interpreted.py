"""Kernels in Pallas on a CPU: interpreted, as a recurrence that JAX differentiates like any other."""

from __future__ import annotations

from functools import partial

from jaxlstm.kernels.contract import Kernels
from jaxlstm.kernels.platforms import recurrence_of
from jaxlstm.scan import Recurrence


def interpreted(name: str, kernels: Kernels) -> Recurrence:
    """The recurrence that runs a GPU's or a TPU's kernels here, each with ``interpret=True``."""
    forward, backward = (partial(f, interpret=True) for f in (kernels.forward, kernels.backward))
    assert kernels.gradients is None
    return recurrence_of(name, {"cpu": Kernels(forward, backward)})
