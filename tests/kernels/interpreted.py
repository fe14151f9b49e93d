"""PlatformKernels in Pallas on a CPU: interpreted, as a recurrence that JAX differentiates like any other."""

from __future__ import annotations

from functools import partial

from jaxlstm.kernels.contract import PlatformKernels
from jaxlstm.kernels.platforms import build_recurrence
from jaxlstm.scan import Recurrence


def interpreted(name: str, kernels: PlatformKernels) -> Recurrence:
    """The recurrence that runs a GPU's or a TPU's kernels here, each with ``interpret=True``."""
    forward, backward = (partial(f, interpret=True) for f in (kernels.forward, kernels.backward))
    assert kernels.gradients is None
    return build_recurrence(name, {"cpu": PlatformKernels(forward, backward)})
