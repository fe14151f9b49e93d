"""Fast ways to run the recurrence, each with the signature and the meaning of the plain scan.

``backend="auto"`` of :func:`jaxlstm.lstm` takes the native kernel where it was built and knows the dtype; in
a program compiled for another platform than the CPU it is the plain scan. ``backend="native"`` insists,
and is an error there; ``backend="scan"`` declines. ``"pallas"`` is a kernel on a TPU, and an error on any other
platform. ``"cudnn"`` runs whole layers and not one recurrence, see :mod:`jaxlstm.kernels.gpu.cudnn`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxlstm.scan import PLAIN, Recurrence
from jaxlstm.validate import require_backend

NATIVE_DTYPES = ("float32", "float64")
PALLAS_DTYPES = ("bfloat16", "float32")
PLATFORMS = {"native": ("cpu",), "pallas": ("tpu",), "cudnn": ("gpu",)}

# The native kernel packs the weights in each call. Up to this many that costs nothing to speak of; beyond, it
# pays from this many steps times sequences on (measured on two cores with AVX-512).
SMALL_WEIGHTS, WORTH_PACKING = 2**18, 64


def select_recurrence(
    backend: str, dtype: Any, *, weights: int = 0, rows: int = WORTH_PACKING
) -> Recurrence:
    """The recurrence that a backend means for one dtype.

    Args:
      backend: as for :func:`jaxlstm.lstm`, and not ``"cudnn"``.
      dtype: of inputs and weights.
      weights: how many elements the matrices of one direction have.
      rows: time steps times sequences.

    Raises:
      ValueError: there is no such backend.
      RuntimeError: ``"native"`` or ``"pallas"`` is asked for and cannot be had; the message says why and what
        to do. That a platform has no such kernel is told when the program is lowered.
    """
    require_backend(backend)
    if backend == "scan":
        return PLAIN
    name = jnp.dtype(dtype).name
    if backend == "cudnn":
        raise ValueError("backend='cudnn' runs whole layers, see jaxlstm.kernels.gpu.cudnn")
    if backend == "pallas":
        return _pallas(name)
    from jaxlstm.kernels.cpu.library import library

    if backend == "auto" and weights > SMALL_WEIGHTS and rows < WORTH_PACKING:
        return PLAIN
    if library().handle is not None and name in NATIVE_DTYPES:
        from jaxlstm.kernels.cpu.ffi import AUTO, NATIVE

        return AUTO if backend == "auto" else NATIVE
    if backend == "auto":
        return PLAIN
    if library().handle is None:
        raise RuntimeError(
            f"backend='native' cannot be had: {library().reason}; use backend='auto' or 'scan'"
        )
    raise RuntimeError(
        f"backend='native' knows {' and '.join(NATIVE_DTYPES)}, got {name}; use backend='auto' or 'scan'"
    )


def _pallas(dtype: str) -> Recurrence:
    if dtype not in PALLAS_DTYPES:
        raise RuntimeError(
            f"backend='pallas' knows {' and '.join(PALLAS_DTYPES)}, got {dtype}; use backend='auto' or 'scan'"
        )
    from jaxlstm.kernels.tpu import PALLAS

    return PALLAS


def require_here(backend: str, dtype: Any, platform: str | None = None) -> None:
    """Raise a RuntimeError if a program for a platform cannot have this backend; it says why.

    Args:
      platform: "cpu", "gpu" or "tpu"; that of JAX's default device if None.
    """
    if backend == "cudnn":
        from jaxlstm.kernels.gpu import cudnn

        cudnn.require_device()
    else:
        select_recurrence(backend, dtype)
    platform = platform or jax.default_backend()
    known = PLATFORMS.get(backend, (platform,))
    if platform not in known:
        names = " and ".join(map(str.upper, known))
        raise RuntimeError(
            f"backend={backend!r} has kernels for {names}, and the device here is a "
            f"{platform.upper()}; use backend='auto' or 'scan'"
        )


def info() -> dict[str, Any]:
    """What is in force, and why: ``native`` (bool), ``reason``, ``instruction_set``, ``dtypes``."""
    from jaxlstm.kernels.cpu.library import library

    found = library()
    return {
        "native": found.handle is not None,
        "reason": found.reason,
        "instruction_set": None if found.handle is None else found.instruction_set,
        "dtypes": NATIVE_DTYPES,
    }
