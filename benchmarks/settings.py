"""Settings that all implementations share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import jax

from jaxlstm.check.reference import torch_precision
from jaxlstm.layer.precision import resolve


class Settings(NamedTuple):
    """Settings shared by all implementations.

    Attributes:
      device: "cpu", "gpu" or "tpu"; JAX's first device of that platform.
      precision: of float32 matrix products, see :mod:`jaxlstm.layer.precision`.
      threads: the number of threads per implementation on a CPU.
      dtype: of weights, inputs and outputs.
      backend: jaxlstm's backend.
      rounds: how often the implementations take turns.
      tiny: tiny sizes, to test that the benchmark runs.
      against: the other libraries that take part.
    """

    device: str
    precision: str
    threads: int
    dtype: str = "float32"
    backend: str = "auto"
    rounds: int = 9
    tiny: bool = False
    against: tuple[str, ...] = ()

    @property
    def arithmetic(self) -> str:
        """The coarsest arithmetic that dtype, precision and device allow: float32, tf32 or bfloat16.

        float16 and three passes of bfloat16 on a TPU count as tf32, which is about as accurate.
        """
        if self.dtype != "float32":
            return "tf32" if self.dtype == "float16" else "bfloat16"
        level = resolve(self.precision)
        if self.device == "cpu" or level == jax.lax.Precision.HIGHEST:
            return "float32"
        if self.device == "gpu" or level == jax.lax.Precision.HIGH:
            return "tf32"
        return "bfloat16"


@contextlib.contextmanager
def applied(settings: Settings) -> Iterator[None]:
    """Apply the settings to JAX, and to torch if it takes part."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.default_device(jax.devices(settings.device)[0]))
        stack.enter_context(jax.default_matmul_precision(settings.precision))
        if "torch" in settings.against:
            stack.enter_context(torch_precision.pinned(tf32=settings.arithmetic != "float32"))
        yield
