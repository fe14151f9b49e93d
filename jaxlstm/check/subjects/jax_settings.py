"""The device, the dtype mode and the precision in which JAX runs a subject."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np


def default_device() -> Any:
    """Return the device that JAX uses by default."""
    config: Any = jax.config
    chosen = config.jax_default_device
    if isinstance(chosen, str):  # The name of a platform.
        return jax.devices(chosen)[0]
    return chosen or jax.devices()[0]


def lacks_float64(device: Any) -> bool:
    """Return True if the device emulates float64 with less precision. A TPU combines two float32."""
    return device.platform == "tpu"


@contextlib.contextmanager
def jax_settings(dtype: Any, precision: str | None) -> Iterator[None]:
    """Set the precision of products, and for float64 the 64-bit mode and a device that has it."""
    with contextlib.ExitStack() as stack:
        if np.dtype(dtype) == np.float64:
            stack.enter_context(jax.enable_x64(True))
            if lacks_float64(default_device()):
                stack.enter_context(jax.default_device(jax.devices("cpu")[0]))
        if precision is not None:  # It applies to the products of a port that sets no precision.
            stack.enter_context(jax.default_matmul_precision(precision))
        yield
