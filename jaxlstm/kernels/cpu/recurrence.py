"""The recurrence of one direction by the native CPU kernel: the functions of :mod:`jaxlstm.scan`, faster.

For float32 and float64. ``precision`` does not matter on a CPU, where products are exact to the dtype.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.cell import LSTMState, StepDerivative
from jaxlstm.kernels.platforms import (
    TANGENTS,
    Kernels,
    Shape,
    differentiate_shapes,
    gradients_shapes,
    recurrence_of,
    run_shapes,
)

LEFT_OUT = (0,)  # the shape of an array that is not there
THREADS = 0  # as many as XLA's own pool has


def _weights(params: dict[str, Any], dtype: Any) -> tuple:
    """weight_ih, weight_hh, the one bias and weight_hr, as the library takes them."""
    none = jnp.zeros(LEFT_OUT, dtype)
    bias = params["bias_ih"] + params["bias_hh"] if "bias_ih" in params else none
    return params["weight_ih"], params["weight_hh"], bias, params.get("weight_hr", none)


def _valid(valid: jax.Array | None) -> jax.Array:
    return jnp.zeros(LEFT_OUT, bool) if valid is None else valid


def run(params: Any, inputs: Any, state: Any, valid: Any, *, reverse: bool, precision: Any) -> Any:
    """As :func:`jaxlstm.scan.run`."""
    shapes = run_shapes(params, inputs, state, valid, reverse=reverse, precision=precision)
    operands = (inputs, *_weights(params, inputs.dtype), *state, _valid(valid))
    call: Any = jax.ffi.ffi_call("jaxlstm_forward", jax.tree.leaves(shapes))
    outputs, h, c = call(*operands, reverse=reverse, threads=np.int64(THREADS))
    return outputs, LSTMState(h, c)


def run_and_differentiate(
    params: Any, inputs: Any, state: Any, valid: Any, *, reverse: bool, precision: Any
) -> Any:
    """As :func:`jaxlstm.scan.run_and_differentiate`."""
    static = {"reverse": reverse, "precision": precision}
    shapes = jax.tree.leaves(differentiate_shapes(params, inputs, state, valid, **static))
    if "weight_hr" not in params:
        shapes.append(Shape(LEFT_OUT, inputs.dtype))
    operands = (inputs, *_weights(params, inputs.dtype), *state, _valid(valid))
    call: Any = jax.ffi.ffi_call("jaxlstm_forward_and_differentiate", shapes)
    outputs, h, c, *derivative, m = call(*operands, reverse=reverse, threads=np.int64(THREADS))
    out = outputs, LSTMState(h, c)
    return out, StepDerivative(*derivative), m if "weight_hr" in params else None


def cotangent(
    params: Any,
    derivative: Any,
    valid: Any,
    cotangents: tuple,
    *,
    projected: bool,
    reverse: bool,
    precision: Any,
) -> Any:
    """The transpose of :func:`jaxlstm.scan.run_tangent`: the backward pass."""
    del precision
    outputs, state = cotangents
    none = Shape(LEFT_OUT, outputs.dtype)
    has_projection = "weight_hr" in params
    shapes = [
        Shape(derivative.by_gates.shape, outputs.dtype),
        Shape(outputs.shape, outputs.dtype) if has_projection else none,
        *(Shape(leaf.shape, leaf.dtype) for leaf in state),
    ]
    weight_hr = params["weight_hr"] if has_projection else jnp.zeros(LEFT_OUT, outputs.dtype)
    operands = (params["weight_hh"], weight_hr, *derivative, _valid(valid), outputs, *state)
    # by_gates is read for the last time where grad_gates is written: fresh memory costs more than the step
    call: Any = jax.ffi.ffi_call("jaxlstm_backward", shapes, input_output_aliases={2: 0})
    dz, dh_projection, h, c = call(*operands, reverse=reverse, threads=np.int64(THREADS))
    return dz, dh_projection if projected else None, LSTMState(h, c)


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


NATIVE = recurrence_of("lstm", {"cpu": Kernels(run, run_and_differentiate, cotangent, gradients)})
