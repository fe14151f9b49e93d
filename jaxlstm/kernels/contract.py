"""What a platform brings to run the recurrence: two functions, and whatever follows from their shapes.

A kernel is told by name which results are wanted and of which shape, and gives them by name. So forwards is
one function, with the derivative of each step or without; the functions of :mod:`jaxlstm.scan` are made of it
here, the same for all platforms, and so is the plain scan where a platform has no kernel for a call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jaxlstm import scan
from jaxlstm.cell import LSTMState, StepDerivative
from jaxlstm.precision import gate_dtype

Shape: Any = jax.ShapeDtypeStruct  # in trees whose classes say jax.Array
# Those of scan.gates_tangent, and where each has the batch.
TANGENTS = {"inputs": 1, "weight_ih": None, "weight_hh": None, "bias": None}
Found = dict[str, Any] | None  # arrays by name; None: there is no kernel for this call


class PlatformKernels(NamedTuple):
    """What one platform has. ``reverse`` and ``precision`` are handed to both functions by name.

    Attributes:
      forward: ``(params, inputs, state, valid, out)`` to arrays of the names and shapes of ``out``:
        "outputs", "h" and "c" are the last state, and, all or none, the fields of
        :class:`jaxlstm.cell.StepDerivative`, with "m" where there is a projection. None where it has no
        kernel for these arguments.
      backward: ``(weights, derivative, valid, (outputs_bar, state_bar), out)`` to cotangents: "z_bar" of dz,
        "h_bar" and "c_bar" of the first state, "projection_bar" of dW_hr m if that is wanted. None as above.
      gradients: ``(weight_ih, inputs, outputs, h_0, valid, grad_gates (T, B, 4H))``, and ``wanted``, names of
        tangents of :func:`jaxlstm.scan.gates_tangent`, to a dict of their cotangents: its transpose. None:
        products by XLA.
    """

    forward: Callable[..., Found]
    backward: Callable[..., Found]
    gradients: Callable[..., Any] | None = None

    def run(self, params: Any, inputs: Any, state: Any, valid: Any, **static: Any) -> Any:
        """As :func:`jaxlstm.scan.run`."""
        outputs, last = run_shapes(params, inputs, state, valid, **static)
        out = {"outputs": outputs, **last._asdict()}
        found = self.forward(params, inputs, state, valid, out, **static)
        if found is None:
            return scan.run(params, inputs, state, valid, **static)
        return found["outputs"], _fields(LSTMState, found)

    def run_and_differentiate(
        self, params: Any, inputs: Any, state: Any, valid: Any, **static: Any
    ) -> Any:
        """As :func:`jaxlstm.scan.run_and_differentiate`."""
        arguments = (params, inputs, state, valid)
        (outputs, last), derivative, m = differentiate_shapes(*arguments, **static)
        out = {"outputs": outputs, **last._asdict(), **derivative._asdict()}
        if m is not None:
            out["m"] = m
        found = self.forward(*arguments, out, **static)
        if found is None:
            return scan.run_and_differentiate(*arguments, **static)
        last, derivative = _fields(LSTMState, found), _fields(StepDerivative, found)
        return (found["outputs"], last), derivative, found["m"] if m is not None else None

    def cotangent(
        self,
        weights: Any,
        derivative: Any,
        valid: Any,
        cotangents: tuple,
        *,
        projected: bool,
        **static: Any,
    ) -> Any:
        """The transpose of :func:`jaxlstm.scan.run_tangent`: of dz, of dW_hr m and of the first state."""
        arguments = (weights, derivative, valid, cotangents)
        z, projection, first = cotangent_shapes(*arguments, projected=projected, **static)
        out = {"z_bar": z, "h_bar": first.h, "c_bar": first.c}
        if projected:
            out["projection_bar"] = projection
        found = self.backward(*arguments, out, **static)
        if found is None:
            return plain_cotangent(*arguments, projected=projected, **static)
        first = LSTMState(found["h_bar"], found["c_bar"])
        return found["z_bar"], found["projection_bar"] if projected else None, first


def _fields(kind: Any, found: dict[str, Any]) -> Any:
    return kind(*(found[name] for name in kind._fields))


def run_shapes(
    params: Any, inputs: Any, state: Any, valid: Any, *, reverse: bool, precision: Any
) -> Any:
    """The shapes of what ``run`` returns."""
    del params, valid, reverse, precision
    outputs = Shape((*inputs.shape[:2], state.h.shape[1]), inputs.dtype)
    return outputs, LSTMState(*(Shape(s.shape, s.dtype) for s in state))


def differentiate_shapes(params: Any, inputs: Any, state: Any, valid: Any, **static: Any) -> Any:
    """The shapes of what ``run_and_differentiate`` returns."""
    steps, H, dtype = inputs.shape[:2], state.c.shape[1], gate_dtype(inputs.dtype)
    units = Shape((*steps, H), dtype)
    derivative = StepDerivative(Shape((*steps, 4 * H), dtype), units, units)
    m = Shape((*steps, H), inputs.dtype) if "weight_hr" in params else None
    return run_shapes(params, inputs, state, valid, **static), derivative, m


def cotangent_shapes(
    params: Any, derivative: Any, valid: Any, cotangents: tuple, *, projected: bool, **static: Any
) -> Any:
    """The shapes of what ``cotangent`` returns."""
    del params, valid, static
    outputs, state = jax.tree.map(lambda x: Shape(x.shape, x.dtype), cotangents)
    gates = derivative.by_gates
    return Shape(gates.shape, gates.dtype), outputs if projected else None, state


def gradients_shapes(
    weight_ih: Any, inputs: Any, outputs: Any, *_: Any, wanted: tuple[str, ...], **static: Any
) -> Any:
    """The shapes of what ``gradients`` returns."""
    del static
    gates, dtype = weight_ih.shape[0], inputs.dtype
    shapes = {
        "inputs": Shape(inputs.shape, dtype),
        "weight_ih": Shape(weight_ih.shape, dtype),
        "weight_hh": Shape((gates, outputs.shape[2]), dtype),
        "bias": Shape((gates,), gate_dtype(dtype)),
    }
    return {name: shapes[name] for name in wanted}


def plain_tangent(
    params: Any, derivative: Any, valid: Any, linear: tuple, *, reverse: bool, precision: Any
) -> Any:
    """:func:`jaxlstm.scan.run_tangent`, with dz, dW_hr m and the tangent of the state as one argument."""
    dz, dh_projection, dstate = linear
    return scan.run_tangent(
        params, derivative, dz, dh_projection, dstate, valid, reverse, precision
    )


def plain_cotangent(
    params: Any, derivative: Any, valid: Any, cotangents: tuple, *, projected: bool, **static: Any
) -> Any:
    """The transpose of :func:`plain_tangent`, as JAX makes it: cotangents of dz, dW_hr m and the state's."""
    outputs, state = cotangents
    # arrays and not shapes: their types say how they lie, too
    alike = (derivative.by_gates, outputs if projected else None, state)
    tangent = lambda linear: plain_tangent(params, derivative, valid, linear, **static)  # noqa: E731
    (linear,) = jax.linear_transpose(tangent, alike)(cotangents)
    return linear
