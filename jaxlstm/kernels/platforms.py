"""A recurrence out of kernels: where a platform has them they run, elsewhere the plain scan.

The functions of :mod:`jaxlstm.scan` become primitives of :mod:`jaxlstm.kernels.primitive`, run by what a
platform brings, :class:`jaxlstm.kernels.contract.PlatformKernels`. Which is whose transpose stands here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax

from jaxlstm import scan
from jaxlstm.kernels.contract import (
    TANGENTS,
    PlatformKernels,
    Shape,
    cotangent_shapes,
    differentiate_shapes,
    gradients_shapes,
    plain_cotangent,
    plain_tangent,
    run_shapes,
)
from jaxlstm.kernels.primitive import KernelPrimitive
from jaxlstm.placement import whole_beside
from jaxlstm.precision import gate_dtype, linear, resolve


def _tangent_shapes(params: Any, derivative: Any, valid: Any, linear: tuple, **static: Any) -> Any:
    dz, _, dstate = linear
    outputs = Shape(dz.shape, dstate.h.dtype)
    return run_shapes(params, outputs, dstate, valid, **static)


def _outputs_and_state(*arguments: Any, **static: Any) -> list[int]:
    return [1, 0, 0]


def _gates_tangent(
    weight_ih: Any,
    inputs: Any,
    outputs: Any,
    h_0: Any,
    valid: Any,
    tangents: dict,
    *,
    reverse: bool,
    precision: Any,
) -> Any:
    return scan.gates_tangent(weight_ih, inputs, outputs, h_0, valid, tangents, reverse, precision)


def _gates_tangent_shape(weight_ih: Any, inputs: Any, *_: Any, **static: Any) -> Any:
    del static
    return Shape((*inputs.shape[:2], weight_ih.shape[0]), gate_dtype(inputs.dtype))


def _gradients(
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
    """The transpose of :func:`_gates_tangent`."""

    def by_weight(operand: Any) -> Any:
        product = jax.lax.dot_general(
            grad_gates,
            operand,
            (((0, 1), (0, 1)), ((), ())),  # over steps and rows
            precision=resolve(precision),
            preferred_element_type=grad_gates.dtype,
            out_sharding=whole_beside(grad_gates, 2),
        )
        return product.astype(operand.dtype)

    found = {}
    if "inputs" in wanted:
        through = lambda dx: linear(dx, weight_ih, precision=precision)  # noqa: E731
        (found["inputs"],) = jax.linear_transpose(through, inputs)(grad_gates)
    if "weight_ih" in wanted:
        found["weight_ih"] = by_weight(inputs)
    if "weight_hh" in wanted:
        found["weight_hh"] = by_weight(scan.states_before(outputs, h_0, valid, reverse))
    if "bias" in wanted:
        found["bias"] = grad_gates.sum((0, 1))
    return found


def build_recurrence(
    name: str, by_platform: Mapping[str, PlatformKernels], *, insists: str | None = None
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

    run = KernelPrimitive(
        f"{name}_run",
        scan.run,
        of("run"),
        run_shapes,
        (None, 1, 0, 1),
        _outputs_and_state,
        insists,
    )
    differentiate = KernelPrimitive(
        f"{name}_run_and_differentiate",
        scan.run_and_differentiate,
        of("run_and_differentiate"),
        differentiate_shapes,
        (None, 1, 0, 1),
        lambda params, *_, **static: [1, 0, 0, 1, 1, 1, *([1] if "weight_hr" in params else [])],
        insists,
    )
    tangent = KernelPrimitive(
        f"{name}_tangent",
        plain_tangent,
        {},
        _tangent_shapes,
        (None, 1, 1, (1, 1, 0)),
        _outputs_and_state,
    )
    cotangent = KernelPrimitive(
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
    gates_tangent = KernelPrimitive(
        f"{name}_gates_tangent",
        _gates_tangent,
        {},
        _gates_tangent_shape,
        (None, 1, 1, 0, 1, TANGENTS),
        lambda *_, **static: [1],
    )
    gradients = KernelPrimitive(
        f"{name}_gradients",
        _gradients,
        of("gradients"),
        gradients_shapes,
        (None, 1, 1, 0, 1, 1),
        lambda *_, wanted, **static: [TANGENTS[each] for each in sorted(wanted)],
    )
    gates_tangent.transposed_by(
        lambda weight_ih, inputs, outputs, h_0, valid, tangents, dz, **static: gradients(
            weight_ih, inputs, outputs, h_0, valid, dz, wanted=tuple(sorted(tangents)), **static
        )
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
        gates_tangent=lambda *arguments: gates_tangent(
            *arguments[:6], reverse=arguments[6], precision=arguments[7]
        ),
    )
