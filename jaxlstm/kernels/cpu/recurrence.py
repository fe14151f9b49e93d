"""The recurrence of one direction by the native CPU kernel: the functions of :mod:`jaxlstm.scan`, faster.

For float32 and float64. ``precision`` does not matter on a CPU, where products are exact to the dtype.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm import scan
from jaxlstm.cell import LSTMState, StepDerivative
from jaxlstm.kernels.primitive import Kernel
from jaxlstm.precision import resolve

Shape: Any = jax.ShapeDtypeStruct  # in trees whose classes say jax.Array
LEFT_OUT = (0,)  # the shape of an array that is not there
THREADS = 0  # as many as XLA's own pool has


def _weights(params: dict[str, Any], dtype: Any) -> tuple:
    """weight_ih, weight_hh, the one bias and weight_hr, as the library takes them."""
    none = jnp.zeros(LEFT_OUT, dtype)
    bias = params["bias_ih"] + params["bias_hh"] if "bias_ih" in params else none
    return params["weight_ih"], params["weight_hh"], bias, params.get("weight_hr", none)


def _valid(valid: jax.Array | None) -> jax.Array:
    return jnp.zeros(LEFT_OUT, bool) if valid is None else valid


def _run_shapes(
    params: Any, inputs: Any, state: Any, valid: Any, *, reverse: bool, precision: Any
) -> Any:
    del params, valid, reverse, precision
    outputs = Shape((*inputs.shape[:2], state.h.shape[1]), inputs.dtype)
    return outputs, LSTMState(*(Shape(s.shape, s.dtype) for s in state))


def _differentiate_shapes(params: Any, inputs: Any, state: Any, valid: Any, **static: Any) -> Any:
    H = state.c.shape[1]
    units = Shape((*inputs.shape[:2], H), inputs.dtype)
    derivative = StepDerivative(Shape((*inputs.shape[:2], 4 * H), inputs.dtype), units, units)
    m = units if "weight_hr" in params else None
    return _run_shapes(params, inputs, state, valid, **static), derivative, m


def _native_run(
    params: Any, inputs: Any, state: Any, valid: Any, *, reverse: bool, precision: Any
) -> Any:
    shapes = _run_shapes(params, inputs, state, valid, reverse=reverse, precision=precision)
    operands = (inputs, *_weights(params, inputs.dtype), *state, _valid(valid))
    call: Any = jax.ffi.ffi_call("jaxlstm_forward", jax.tree.leaves(shapes))
    outputs, h, c = call(*operands, reverse=reverse, threads=np.int64(THREADS))
    return outputs, LSTMState(h, c)


def _native_differentiate(
    params: Any, inputs: Any, state: Any, valid: Any, *, reverse: bool, precision: Any
) -> Any:
    static = {"reverse": reverse, "precision": precision}
    shapes = jax.tree.leaves(_differentiate_shapes(params, inputs, state, valid, **static))
    if "weight_hr" not in params:
        shapes.append(Shape(LEFT_OUT, inputs.dtype))
    operands = (inputs, *_weights(params, inputs.dtype), *state, _valid(valid))
    call: Any = jax.ffi.ffi_call("jaxlstm_forward_and_differentiate", shapes)
    outputs, h, c, *derivative, m = call(*operands, reverse=reverse, threads=np.int64(THREADS))
    out = outputs, LSTMState(h, c)
    return out, StepDerivative(*derivative), m if "weight_hr" in params else None


def _tangent(
    params: Any, derivative: Any, valid: Any, linear: tuple, *, reverse: bool, precision: Any
) -> Any:
    dz, dh_projection, dstate = linear
    return scan.run_tangent(
        params, derivative, dz, dh_projection, dstate, valid, reverse, precision
    )


def _tangent_shapes(params: Any, derivative: Any, valid: Any, linear: tuple, **static: Any) -> Any:
    dz, _, dstate = linear
    return _run_shapes(params, dz, dstate, valid, **static)


def _cotangent(
    params: Any, derivative: Any, valid: Any, cotangents: tuple, *, projected: bool, **static: Any
) -> Any:
    """The transpose of :func:`_tangent`, as JAX makes it: cotangents of dz, dW_hr m and the state's."""
    shapes = _cotangent_shapes(params, derivative, valid, cotangents, projected=projected, **static)
    tangent = lambda linear: _tangent(params, derivative, valid, linear, **static)  # noqa: E731
    (linear,) = jax.linear_transpose(tangent, shapes)(cotangents)
    return linear


def _cotangent_shapes(
    params: Any, derivative: Any, valid: Any, cotangents: tuple, *, projected: bool, **static: Any
) -> Any:
    del params, valid, static
    outputs, state = jax.tree.map(lambda x: Shape(x.shape, x.dtype), cotangents)
    gates = derivative.by_gates
    return Shape(gates.shape, gates.dtype), outputs if projected else None, state


def _native_cotangent(
    params: Any,
    derivative: Any,
    valid: Any,
    cotangents: tuple,
    *,
    projected: bool,
    reverse: bool,
    precision: Any,
) -> Any:
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


def _outputs_and_state(*arguments: Any, **static: Any) -> list[int]:
    return [1, 0, 0]


_run = Kernel("lstm_run", scan.run, _native_run, _run_shapes, (None, 1, 0, 1), _outputs_and_state)
_differentiate = Kernel(
    "lstm_run_and_differentiate",
    scan.run_and_differentiate,
    _native_differentiate,
    _differentiate_shapes,
    (None, 1, 0, 1),
    lambda params, *_, **static: [1, 0, 0, 1, 1, 1, *([1] if "weight_hr" in params else [])],
)
_tangent_kernel = Kernel(
    "lstm_tangent", _tangent, None, _tangent_shapes, (None, 1, 1, (1, 1, 0)), _outputs_and_state
)
_cotangent_kernel = Kernel(
    "lstm_cotangent",
    _cotangent,
    _native_cotangent,
    _cotangent_shapes,
    (None, 1, 1, (1, 0)),
    lambda *_, projected, **static: [1, *([1] if projected else []), 0, 0],
)
_tangent_kernel.transposed_by(
    lambda params, derivative, valid, linear, cotangents, **static: _cotangent_kernel(
        params, derivative, valid, cotangents, projected=linear[1] is not None, **static
    )
)


def _weight_gradient(grad_gates: Any, operand: Any, *, precision: Any) -> Any:
    over_steps = (((0, 1), (0, 1)), ((), ()))
    return jax.lax.dot_general(grad_gates, operand, over_steps, precision=resolve(precision))


def _native_weight_gradient(grad_gates: Any, operand: Any, *, precision: Any) -> Any:
    shape = _weight_gradient_shape(grad_gates, operand, precision=precision)
    call: Any = jax.ffi.ffi_call("jaxlstm_weight_gradient", shape)
    return call(grad_gates, operand, threads=np.int64(THREADS))


def _weight_gradient_shape(grad_gates: Any, operand: Any, *, precision: Any) -> Any:
    del precision
    return Shape((grad_gates.shape[2], operand.shape[2]), operand.dtype)


def _weight_tangent_shape(operand: Any, dweight: Any, *, precision: Any) -> Any:
    del precision
    return Shape((*operand.shape[:2], dweight.shape[0]), operand.dtype)


_weight_tangent = Kernel("lstm_weight_tangent", scan.weight_tangent, None, _weight_tangent_shape)
_weight_gradient_kernel = Kernel(
    "lstm_weight_gradient", _weight_gradient, _native_weight_gradient, _weight_gradient_shape
)
_weight_tangent.transposed_by(
    lambda operand, dweight, dz, **static: _weight_gradient_kernel(dz, operand, **static)
)


def run(params: Any, inputs: Any, state: Any, valid: Any, reverse: bool, precision: Any) -> Any:
    """As :func:`jaxlstm.scan.run`."""
    return _run(params, inputs, state, valid, reverse=reverse, precision=precision)


def run_and_differentiate(
    params: Any, inputs: Any, state: Any, valid: Any, reverse: bool, precision: Any
) -> Any:
    """As :func:`jaxlstm.scan.run_and_differentiate`."""
    return _differentiate(params, inputs, state, valid, reverse=reverse, precision=precision)


def run_tangent(
    params: Any,
    derivative: Any,
    dz: Any,
    dh_projection: Any,
    dstate: Any,
    valid: Any,
    reverse: bool,
    precision: Any,
) -> Any:
    """As :func:`jaxlstm.scan.run_tangent`; what is native is its transpose, the backward pass."""
    weights = {name: params[name] for name in ("weight_hh", "weight_hr") if name in params}
    linear = (dz, dh_projection, dstate)
    return _tangent_kernel(weights, derivative, valid, linear, reverse=reverse, precision=precision)


def weight_tangent(operand: Any, dweight: Any, precision: Any) -> jax.Array:
    """As :func:`jaxlstm.scan.weight_tangent`; what is native is its transpose, the gradient of the weight."""
    return _weight_tangent(operand, dweight, precision=precision)


NATIVE = scan.Recurrence(run, run_and_differentiate, run_tangent, weight_tangent)
