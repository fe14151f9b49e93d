"""The transposes of the tangents in :mod:`jaxlstm.layer.scan`, which a platform without kernels runs."""

from __future__ import annotations

from typing import Any

import jax

from jaxlstm.layer import scan
from jaxlstm.layer.mesh_types import whole_beside
from jaxlstm.layer.precision import Precision, linear, resolve
from jaxlstm.layer.scan import RunTangents


def run_cotangent(
    weights: Any, derivative: Any, valid: Any, cotangents: tuple, *, projected: bool, **static: Any
) -> RunTangents:
    """Return the transpose of :func:`jaxlstm.layer.scan.run_tangent`, derived by JAX.

    Args:
      cotangents: cotangents of the outputs and of the last state.
      projected: True if the cotangent of ``RunTangents.projection`` is required.
    """
    outputs, state = cotangents
    # linear_transpose gets arrays instead of shapes, because their types also carry the sharding.
    like = RunTangents(derivative.by_gates, outputs if projected else None, state)
    tangent = lambda tangents: scan.run_tangent(weights, derivative, valid, tangents, **static)  # noqa: E731
    (result,) = jax.linear_transpose(tangent, like)(cotangents)
    return result


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
    """Return the transpose of :func:`jaxlstm.layer.scan.gates_tangent` for the tangents in ``names``."""

    def by_weight(operand: Any) -> Any:
        product = jax.lax.dot_general(
            z_bar,
            operand,
            (((0, 1), (0, 1)), ((), ())),  # contracts time and batch
            precision=resolve(precision),
            preferred_element_type=z_bar.dtype,
            out_sharding=whole_beside(z_bar, 2),
        )
        return product.astype(operand.dtype)

    result = {}
    if "inputs" in names:
        by_inputs = lambda dx: linear(dx, weight_ih, precision=precision)  # noqa: E731
        (result["inputs"],) = jax.linear_transpose(by_inputs, inputs)(z_bar)
    if "weight_ih" in names:
        result["weight_ih"] = by_weight(inputs)
    if "weight_hh" in names:
        result["weight_hh"] = by_weight(scan.states_before(outputs, h_0, valid, reverse=reverse))
    if "bias" in names:
        result["bias"] = z_bar.sum((0, 1))
    return result
