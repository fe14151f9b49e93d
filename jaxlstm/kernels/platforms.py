"""A recurrence out of kernels: where a platform has them they run, elsewhere the plain scan.

The functions of :mod:`jaxlstm.scan` become primitives of :mod:`jaxlstm.kernels.primitive`, run by what a
platform brings, :class:`jaxlstm.kernels.contract.Kernels`. Which is whose transpose stands here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax

from jaxlstm import scan
from jaxlstm.kernels.contract import (
    Kernels,
    Shape,
    cotangent_shapes,
    differentiate_shapes,
    plain_cotangent,
    plain_tangent,
    run_shapes,
)
from jaxlstm.kernels.primitive import Kernel
from jaxlstm.placement import whole_beside
from jaxlstm.precision import gate_dtype, resolve


def _tangent_shapes(params: Any, derivative: Any, valid: Any, linear: tuple, **static: Any) -> Any:
    dz, _, dstate = linear
    outputs = Shape(dz.shape, dstate.h.dtype)
    return run_shapes(params, outputs, dstate, valid, **static)


def _outputs_and_state(*arguments: Any, **static: Any) -> list[int]:
    return [1, 0, 0]


def _weight_gradient(grad_gates: Any, operand: Any, *, precision: Any) -> Any:
    over_steps = (((0, 1), (0, 1)), ((), ()))
    product = jax.lax.dot_general(
        grad_gates,
        operand,
        over_steps,
        precision=resolve(precision),
        preferred_element_type=grad_gates.dtype,
        out_sharding=whole_beside(grad_gates, 2),
    )
    return product.astype(operand.dtype)


def weight_gradient_shape(grad_gates: Any, operand: Any, *, precision: Any) -> Any:
    """The shape of what ``weight_gradient`` returns."""
    del precision
    return Shape((grad_gates.shape[2], operand.shape[2]), operand.dtype)


def _weight_tangent_shape(operand: Any, dweight: Any, *, precision: Any) -> Any:
    del precision
    return Shape((*operand.shape[:2], dweight.shape[0]), gate_dtype(operand.dtype))


def recurrence_of(
    name: str, by_platform: Mapping[str, Kernels], *, insists: str | None = None
) -> scan.Recurrence:
    """The recurrence that runs these kernels on their platforms, and the plain scan on all others.

    Args:
      name: unique to this recurrence; its primitives are ``name_run`` and so on in a jaxpr.
      by_platform: kernels by JAX's name of the platform: "cpu", "cuda" or "tpu".
      insists: the backend, if a program for another platform is an error instead. One for ``jax.export``
        gets the plain scan even so.
    """

    def of(which: str) -> dict[str, Callable[..., Any]]:
        found = {platform: getattr(kernels, which) for platform, kernels in by_platform.items()}
        return {platform: kernel for platform, kernel in found.items() if kernel is not None}

    run = Kernel(
        f"{name}_run",
        scan.run,
        of("run"),
        run_shapes,
        (None, 1, 0, 1),
        _outputs_and_state,
        insists,
    )
    differentiate = Kernel(
        f"{name}_run_and_differentiate",
        scan.run_and_differentiate,
        of("run_and_differentiate"),
        differentiate_shapes,
        (None, 1, 0, 1),
        lambda params, *_, **static: [1, 0, 0, 1, 1, 1, *([1] if "weight_hr" in params else [])],
        insists,
    )
    tangent = Kernel(
        f"{name}_tangent",
        plain_tangent,
        {},
        _tangent_shapes,
        (None, 1, 1, (1, 1, 0)),
        _outputs_and_state,
    )
    cotangent = Kernel(
        f"{name}_cotangent",
        plain_cotangent,
        of("cotangent"),
        cotangent_shapes,
        (None, 1, 1, (1, 0)),
        lambda *_, projected, **static: [1, *([1] if projected else []), 0, 0],
        insists,
    )
    tangent.transposed_by(
        lambda params, derivative, valid, linear, cotangents, **static: cotangent(
            params, derivative, valid, cotangents, projected=linear[1] is not None, **static
        )
    )
    weight_tangent = Kernel(
        f"{name}_weight_tangent",
        scan.weight_tangent,
        {},
        _weight_tangent_shape,
        (1, None),
        lambda *_, **static: [1],
    )
    weight_gradient = Kernel(
        f"{name}_weight_gradient",
        _weight_gradient,
        of("weight_gradient"),
        weight_gradient_shape,
        (1, 1),
        lambda *_, **static: [None],
    )
    weight_tangent.transposed_by(
        lambda operand, dweight, dz, **static: weight_gradient(dz, operand, **static)
    )

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
        weights = {key: params[key] for key in ("weight_hh", "weight_hr") if key in params}
        linear = (dz, dh_projection, dstate)
        return tangent(weights, derivative, valid, linear, reverse=reverse, precision=precision)

    return scan.Recurrence(
        run=lambda params, inputs, state, valid, reverse, precision: run(
            params, inputs, state, valid, reverse=reverse, precision=precision
        ),
        run_and_differentiate=lambda params, inputs, state, valid, reverse, precision: (
            differentiate(params, inputs, state, valid, reverse=reverse, precision=precision)
        ),
        run_tangent=run_tangent,
        weight_tangent=lambda operand, dweight, precision: weight_tangent(
            operand, dweight, precision=precision
        ),
    )
