"""Where and how exactly every side of a measurement computes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax

from jaxlstm.check.reference import torch_precision
from jaxlstm.precision import resolve

TORCH = ("torch", "torch-compile")


class Setting(NamedTuple):
    """What all sides have in common.

    Attributes:
      device: "cpu", "gpu" or "tpu"; the first one that JAX has.
      precision: of products of float32 matrices, see :mod:`jaxlstm.precision`.
      threads: for each side, on a CPU.
    """

    device: str
    precision: str
    threads: int

    @property
    def arithmetic(self) -> str:
        """What the precision allows on the device: "float32", "tf32" (or about as exact) or "bfloat16"."""
        level = resolve(self.precision)
        if self.device == "cpu" or level == jax.lax.Precision.HIGHEST:
            return "float32"
        if self.device == "gpu" or level == jax.lax.Precision.HIGH:
            return "tf32"
        return "bfloat16"


@contextlib.contextmanager
def applied(setting: Setting, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """JAX, and torch if a side needs it, set to it for a while; gives what both say is in force."""
    device = jax.devices(setting.device)[0]
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.default_device(device))
        stack.enter_context(jax.default_matmul_precision(setting.precision))
        config: Any = jax.config
        found = {"jax_default_matmul_precision": config.jax_default_matmul_precision}
        if set(names) & set(TORCH):
            stack.enter_context(torch_precision.pinned(tf32=setting.arithmetic != "float32"))
            found |= torch_precision.in_force()
        yield found
