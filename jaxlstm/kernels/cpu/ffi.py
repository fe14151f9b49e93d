"""The recurrence of one direction by the native CPU kernel: the functions of :mod:`jaxlstm.scan`, faster.

For float32 and float64. ``precision`` does not matter on a CPU, where products are exact to the dtype.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.kernels.contract import TANGENTS, Found, PlatformKernels, Shape, gradients_shapes
from jaxlstm.kernels.platforms import build_recurrence

LEFT_OUT = (0,)  # the shape of an array that is not there
THREADS = 0  # as many as XLA's own pool has


def _weights(params: dict[str, Any], dtype: Any) -> tuple:
    """weight_ih, weight_hh, the one bias and weight_hr, as the library takes them."""
    none = jnp.zeros(LEFT_OUT, dtype)
    bias = params["bias_ih"] + params["bias_hh"] if "bias_ih" in params else none
    return params["weight_ih"], params["weight_hh"], bias, params.get("weight_hr", none)


def _valid(valid: jax.Array | None) -> jax.Array:
    return jnp.zeros(LEFT_OUT, bool) if valid is None else valid


def run_forward(
    params: Any,
    inputs: Any,
    state: Any,
    valid: Any,
    out: dict[str, Any],
    *,
    reverse: bool,
    precision: Any,
) -> Found:
    """As :class:`jaxlstm.kernels.contract.PlatformKernels` says."""
    del precision
    target, shapes = "jaxlstm_forward", list(out.values())
    if "f" in out:
        target += "_and_differentiate"
        shapes += [] if "m" in out else [Shape(LEFT_OUT, inputs.dtype)]
    operands = (inputs, *_weights(params, inputs.dtype), *state, _valid(valid))
    call: Any = jax.ffi.ffi_call(target, shapes)
    found = call(*operands, reverse=reverse, threads=np.int64(THREADS))
    return dict(zip(out, found, strict=False))  # without the m that was left out


def run_backward(
    weights: Any,
    derivative: Any,
    valid: Any,
    cotangents: tuple,
    out: dict[str, Any],
    *,
    reverse: bool,
    precision: Any,
) -> Found:
    """As :class:`jaxlstm.kernels.contract.PlatformKernels` says."""
    del precision
    outputs_bar, state_bar = cotangents
    dtype = outputs_bar.dtype
    none = jnp.zeros(LEFT_OUT, dtype)
    projection_bar = Shape(outputs_bar.shape if "weight_hr" in weights else LEFT_OUT, dtype)
    shapes = [out["z_bar"], projection_bar, out["h_bar"], out["c_bar"]]
    matrices = (weights["weight_hh"], weights.get("weight_hr", none))
    operands = (*matrices, *derivative, _valid(valid), outputs_bar, *state_bar)
    # by_gates is read for the last time where z_bar is written: fresh memory costs more than the step
    call: Any = jax.ffi.ffi_call("jaxlstm_backward", shapes, input_output_aliases={2: 0})
    found = call(*operands, reverse=reverse, threads=np.int64(THREADS))
    return dict(zip(("z_bar", "projection_bar", "h_bar", "c_bar"), found, strict=True))


def gradients(
    weight_ih: Any,
    inputs: Any,
    outputs: Any,
    h_0: Any,
    valid: Any,
    grad_gates: Any,
    *,
    wanted: tuple[str, ...],
    reverse: bool,
    precision: Any,
) -> Any:
    """The transpose of :func:`jaxlstm.scan.gates_tangent`, in one call: XLA would run several at once."""
    operands = weight_ih, inputs, outputs, h_0
    found = gradients_shapes(*operands, wanted=wanted, reverse=reverse, precision=precision)
    none = Shape(LEFT_OUT, inputs.dtype)
    call: Any = jax.ffi.ffi_call("jaxlstm_gradients", [found.get(name, none) for name in TANGENTS])
    operands = (grad_gates, inputs, outputs, h_0, _valid(valid), weight_ih)
    results = call(*operands, reverse=reverse, threads=np.int64(THREADS))
    return {name: r for name, r in zip(TANGENTS, results, strict=True) if name in wanted}


KERNELS = PlatformKernels(run_forward, run_backward, gradients)
AUTO = build_recurrence("lstm", {"cpu": KERNELS})
NATIVE = build_recurrence("lstm_native", {"cpu": KERNELS}, insists="native")
