"""Pallas kernels on a CPU, by interpretation."""

from __future__ import annotations

from functools import partial

from jaxlstm.kernels.primitive import PlatformKernels, build_recurrence
from jaxlstm.layer.scan import Recurrence


def interpreted(name: str, kernels: PlatformKernels) -> Recurrence:
    """Return a recurrence that runs Pallas kernels on the CPU with ``interpret=True``."""
    forward, backward = (partial(f, interpret=True) for f in (kernels.forward, kernels.backward))
    assert kernels.gradients is None
    return build_recurrence(name, PlatformKernels("cpu", forward, backward))
