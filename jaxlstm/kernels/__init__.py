"""Kernels for the CPU, and the selection of a backend.

A kernel changes speed, not results beyond rounding. The plain scan (:mod:`jaxlstm.layer.scan`) is the
reference for every kernel and the fallback where a kernel does not apply.

``backend="auto"`` of :func:`jaxlstm.lstm` selects the native CPU kernel if it was built. A
program with ``"auto"`` that is compiled for another platform contains the plain scan.
``backend="scan"`` always selects the plain scan. ``"native"`` raises an error on any platform but a CPU.
An RNN has no kernel: it is a plain scan with each of them.
"""

from functools import partial
from typing import Any

import jax

from jaxlstm.layer.config import LayerConfig, LSTMConfig, RNNConfig
from jaxlstm.layer.direction import both_over_time, over_time
from jaxlstm.layer.gru_rnn import cell_of
from jaxlstm.layer.scan import PLAIN, Recurrence
from jaxlstm.layer.stack import StackFunction, stack_by_direction

# Each call of the native kernel packs the weights. Up to SMALL_WEIGHTS elements, this takes negligible time.
# Beyond, it pays off from WORTH_PACKING time steps times sequences (measured on two cores with AVX-512).
SMALL_WEIGHTS, WORTH_PACKING = 2**18, 64


def select_stack(backend: str, config: LayerConfig, x: jax.Array) -> StackFunction:
    """Return the function that runs every layer and direction on a backend, for inputs like ``x``.

    RNNs have no kernel: each backend runs them as a plain scan.

    Raises:
      RuntimeError: the backend is not available.
    """
    weights, rows = len(config.gates) * config.hidden_size * (config.input_size + config.h_size), x.shape[:2]
    chosen = PLAIN
    if not isinstance(config, RNNConfig):
        chosen = select_recurrence(backend, weights=weights, rows=rows[0] * rows[1])
    if not isinstance(config, LSTMConfig):
        chosen = chosen._replace(gates_tangent=PLAIN.gates_tangent)
    settings: dict[str, Any] = {"recurrence": chosen, "cell": cell_of(config)}
    return partial(stack_by_direction, partial(over_time, **settings), partial(both_over_time, **settings))


def select_recurrence(backend: str, *, weights: int = 0, rows: int = WORTH_PACKING) -> Recurrence:
    """Return the recurrence of the backend "auto", "scan" or "native".

    ``weights`` is the number of elements in the matrices of one direction, and ``rows`` is time steps times
    sequences.
    """
    if backend == "scan":
        return PLAIN
    from jaxlstm.kernels.cpu.library import library

    if backend == "auto":
        worth_packing = weights <= SMALL_WEIGHTS or rows >= WORTH_PACKING
        if not worth_packing or library().handle is None:
            return PLAIN
    if library().handle is None:
        raise RuntimeError(
            f"backend='native' is unavailable: {library().reason}; use backend='auto' or 'scan'"
        )
    from jaxlstm.kernels.cpu.ffi import AUTO, NATIVE

    return AUTO if backend == "auto" else NATIVE


def info() -> dict[str, Any]:
    """Return the status of the native kernel.

    Returns:
      ``native``, ``reason`` and ``instruction_set``; ``dtypes``, the dtypes that run natively; and
      ``products``, the dtype in which an LSTM's products of each of them are computed.
    """
    from jaxlstm.kernels.cpu.library import DTYPE_NUMBERS, library

    loaded = library()
    available = loaded.handle is not None
    return {
        "native": available,
        "reason": loaded.reason,
        "instruction_set": loaded.instruction_set if available else None,
        "dtypes": tuple(DTYPE_NUMBERS),
        "products": {name: loaded.product_dtype(name).name for name in DTYPE_NUMBERS} if available else {},
    }
