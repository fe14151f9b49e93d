"""Calls of the native CPU kernel for one direction, through XLA's FFI.

The kernel ignores ``precision``, because products on a CPU always have the full precision of the dtype.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.kernels import shapes
from jaxlstm.kernels.platforms import TANGENTS, PlatformKernels, Results, build_recurrence
from jaxlstm.kernels.shapes import Shape
from jaxlstm.layer.precision import Precision

OMITTED = (0,)
"""The shape of an optional array that is not passed."""

WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
"""The parameters that the library takes, in its order."""

THREADS = 0
"""Number of threads per call; 0 means the size of XLA's thread pool."""


def run_forward(
    params: Any,
    inputs: Any,
    state: Any,
    valid: Any,
    out: dict[str, Any],
    *,
    reverse: bool,
    precision: Precision,
) -> Results:
    """Run the forward pass, see :class:`jaxlstm.kernels.platforms.PlatformKernels`."""
    target = "jaxlstm_forward"
    result_shapes = list(out.values())
    if "f" in out:
        target += "_and_differentiate"
        result_shapes += [] if "m" in out else [Shape(OMITTED, inputs.dtype)]
    omitted = jnp.zeros(OMITTED, inputs.dtype)
    weights = (params.get(name, omitted) for name in WEIGHTS)
    operands = (inputs, *weights, *state, _valid(valid))
    call: Any = jax.ffi.ffi_call(target, result_shapes)
    arrays = call(*operands, reverse=reverse, threads=np.int64(THREADS))
    # A zip without strict drops an omitted m, the last result.
    return dict(zip(out, arrays, strict=False))


def run_backward(
    weights: Any,
    derivative: Any,
    valid: Any,
    cotangents: tuple,
    out: dict[str, Any],
    *,
    reverse: bool,
    precision: Precision,
) -> Results:
    """Run the backward pass, see :class:`jaxlstm.kernels.platforms.PlatformKernels`."""
    outputs_bar, state_bar = cotangents
    dtype = outputs_bar.dtype
    omitted = jnp.zeros(OMITTED, dtype)
    projection_bar = Shape(outputs_bar.shape if "weight_hr" in weights else OMITTED, dtype)
    result_shapes = [out["z_bar"], projection_bar, out["h_bar"], out["c_bar"]]
    matrices = (weights["weight_hh"], weights.get("weight_hr", omitted))
    operands = (*matrices, *derivative, _valid(valid), outputs_bar, *state_bar)
    # z_bar overwrites by_gates, which is not needed afterwards: fresh memory would cost more than the step.
    call: Any = jax.ffi.ffi_call("jaxlstm_backward", result_shapes, input_output_aliases={2: 0})
    arrays = call(*operands, reverse=reverse, threads=np.int64(THREADS))
    return dict(zip(("z_bar", "projection_bar", "h_bar", "c_bar"), arrays, strict=True))


def gradients(
    weight_ih: Any,
    inputs: Any,
    outputs: Any,
    h_0: Any,
    valid: Any,
    z_bar: Any,
    *,
    names: tuple[str, ...],
    reverse: bool,
    precision: Precision,
) -> dict[str, Any]:
    """Return all gradients in one call, because XLA would share the threads among several."""
    by_name = shapes.gradients(weight_ih, inputs, outputs, names=names)
    result_shapes = [by_name.get(name, Shape(OMITTED, inputs.dtype)) for name in TANGENTS]
    call: Any = jax.ffi.ffi_call("jaxlstm_gradients", result_shapes)
    operands = (z_bar, inputs, outputs, h_0, _valid(valid), weight_ih)
    arrays = call(*operands, reverse=reverse, threads=np.int64(THREADS))
    results = dict(zip(TANGENTS, arrays, strict=True))
    return {name: results[name] for name in names}


def _valid(valid: jax.Array | None) -> jax.Array:
    return jnp.zeros(OMITTED, bool) if valid is None else valid


KERNELS = PlatformKernels(run_forward, run_backward, gradients)
AUTO = build_recurrence("lstm", {"cpu": KERNELS})
NATIVE = build_recurrence("lstm_native", {"cpu": KERNELS}, required_by="native")
