"""Result shapes of the functions of a :class:`jaxlstm.layer.scan.Recurrence` and of their transposes.

Each function takes the arguments of the function that it describes, and returns ``jax.ShapeDtypeStruct`` in
place of arrays.
"""

from __future__ import annotations

from typing import Any

import jax

from jaxlstm.layer.cell import LSTMState, StepDerivative
from jaxlstm.layer.precision import gate_dtype
from jaxlstm.layer.scan import RunTangents

# Typed as Any because shapes take the place of arrays in classes with annotated fields.
Shape: Any = jax.ShapeDtypeStruct


def run(params: Any, inputs: Any, state: Any, valid: Any, **static: Any) -> Any:
    """Return the shapes for :func:`jaxlstm.layer.scan.run`."""
    outputs = Shape((*inputs.shape[:2], state.h.shape[1]), inputs.dtype)
    return outputs, _like(state)


def run_and_differentiate(params: Any, inputs: Any, state: Any, valid: Any, **static: Any) -> Any:
    """Return the shapes for :func:`jaxlstm.layer.scan.run_and_differentiate`."""
    steps, H, dtype = inputs.shape[:2], state.c.shape[1], gate_dtype(inputs.dtype)
    units = Shape((*steps, H), dtype)
    derivative = StepDerivative(Shape((*steps, 4 * H), dtype), units, units)
    m = Shape((*steps, H), inputs.dtype) if "weight_hr" in params else None
    return run(params, inputs, state, valid, **static), derivative, m


def run_tangent(
    weights: Any, derivative: Any, valid: Any, tangents: RunTangents, **static: Any
) -> tuple[Any, LSTMState]:
    """Return the shapes for :func:`jaxlstm.layer.scan.run_tangent`."""
    state = tangents.state
    steps = tangents.gates.shape[:2]
    return Shape((*steps, state.h.shape[1]), state.h.dtype), _like(state)


def run_cotangent(
    weights: Any, derivative: Any, valid: Any, cotangents: tuple, *, projected: bool, **static: Any
) -> RunTangents:
    """Return the shapes for :func:`jaxlstm.kernels.transposes.run_cotangent`."""
    outputs, state = _like(cotangents)
    return RunTangents(_like(derivative.by_gates), outputs if projected else None, state)


def gates_tangent(weight_ih: Any, inputs: Any, *arrays: Any, **static: Any) -> Any:
    """Return the shapes for :func:`jaxlstm.layer.scan.gates_tangent`."""
    return Shape((*inputs.shape[:2], weight_ih.shape[0]), gate_dtype(inputs.dtype))


def gradients(
    weight_ih: Any, inputs: Any, outputs: Any, *arrays: Any, names: tuple[str, ...], **static: Any
) -> dict[str, Any]:
    """Return the shapes for :func:`jaxlstm.kernels.transposes.gradients`."""
    gates, dtype = weight_ih.shape[0], inputs.dtype
    shapes = {
        "inputs": _like(inputs),
        "weight_ih": _like(weight_ih),
        "weight_hh": Shape((gates, outputs.shape[2]), dtype),
        "bias": Shape((gates,), gate_dtype(dtype)),
    }
    return {name: shapes[name] for name in names}


def _like(tree: Any) -> Any:
    return jax.tree.map(lambda x: Shape(x.shape, x.dtype), tree)
