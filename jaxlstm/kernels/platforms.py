"""Kernels of a platform, and the recurrence that dispatches to them.

A platform provides a :class:`PlatformKernels`: a function for the forward pass, one for the backward pass and
optionally one for the gradients of the weights. :func:`build_recurrence` wraps the kernels of several
platforms in JAX primitives, which run the plain scan on every other platform.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxlstm.kernels import shapes, transposes
from jaxlstm.kernels.primitive import KernelPrimitive
from jaxlstm.layer import scan
from jaxlstm.layer.cell import LSTMState, StepDerivative
from jaxlstm.layer.scan import RunTangents

TANGENTS = {"inputs": 1, "weight_ih": None, "weight_hh": None, "bias": None}
"""The names of the tangents of :func:`jaxlstm.layer.scan.gates_tangent`, each with its batch axis."""

Results = dict[str, Any] | None
"""Arrays by name, or None if a kernel does not support the arguments."""


class PlatformKernels(NamedTuple):
    """The kernels of one platform. All take ``reverse`` and ``precision`` by keyword.

    ``forward`` and ``backward`` take ``out``, a dict of shapes, and return arrays of these names and shapes.
    They return None if they do not support the arguments; the plain scan then runs.

    Attributes:
      forward: ``(params, inputs, state, valid, out)``. ``out`` has "outputs", and "h" and "c" for the last
        state. To differentiate, it also has the fields of :class:`jaxlstm.layer.cell.StepDerivative`, and
        "m" with a projection.
      backward: ``(weights, derivative, valid, (outputs_bar, state_bar), out)``. ``out`` has "z_bar", and
        "h_bar" and "c_bar" for the initial state. It also has "projection_bar", the cotangent of dW_hr m, if
        that is required.
      gradients: ``(weight_ih, inputs, outputs, h_0, valid, z_bar, *, names)``, the transpose of
        :func:`jaxlstm.layer.scan.gates_tangent` for the tangents in ``names``. None to use matrix products
        by XLA.
    """

    forward: Callable[..., Results]
    backward: Callable[..., Results]
    gradients: Callable[..., Any] | None = None

    def run(self, params: Any, inputs: Any, state: Any, valid: Any, **static: Any) -> Any:
        """Run :func:`jaxlstm.layer.scan.run` by the kernel."""
        arguments = (params, inputs, state, valid)
        outputs, last = shapes.run(*arguments, **static)
        arrays = self.forward(*arguments, {"outputs": outputs, **last._asdict()}, **static)
        if arrays is None:
            return scan.run(*arguments, **static)
        return arrays["outputs"], _fields(LSTMState, arrays)

    def run_and_differentiate(self, params: Any, inputs: Any, state: Any, valid: Any, **static: Any) -> Any:
        """Run :func:`jaxlstm.layer.scan.run_and_differentiate` by the kernel."""
        arguments = (params, inputs, state, valid)
        (outputs, last), derivative, m = shapes.run_and_differentiate(*arguments, **static)
        out = {"outputs": outputs, **last._asdict(), **derivative._asdict()}
        if m is not None:
            out["m"] = m
        arrays = self.forward(*arguments, out, **static)
        if arrays is None:
            return scan.run_and_differentiate(*arguments, **static)
        results = arrays["outputs"], _fields(LSTMState, arrays)
        return results, _fields(StepDerivative, arrays), arrays.get("m")

    def run_cotangent(
        self, weights: Any, derivative: Any, valid: Any, cotangents: tuple, *, projected: bool, **static: Any
    ) -> RunTangents:
        """Run :func:`jaxlstm.kernels.transposes.run_cotangent` by the kernel."""
        arguments = (weights, derivative, valid, cotangents)
        z, projection, state = shapes.run_cotangent(*arguments, projected=projected, **static)
        out: dict[str, Any] = {"z_bar": z, "h_bar": state.h, "c_bar": state.c}
        if projected:
            out["projection_bar"] = projection
        arrays = self.backward(*arguments, out, **static)
        if arrays is None:
            return transposes.run_cotangent(*arguments, projected=projected, **static)
        projection_bar = arrays["projection_bar"] if projected else None
        state_bar = LSTMState(arrays["h_bar"], arrays["c_bar"])
        return RunTangents(arrays["z_bar"], projection_bar, state_bar)


def _fields(kind: Any, arrays: dict[str, Any]) -> Any:
    return kind(*(arrays[name] for name in kind._fields))


def build_recurrence(
    name: str, platforms: Mapping[str, PlatformKernels], *, required_by: str | None = None
) -> scan.Recurrence:
    """Return a recurrence that runs kernels on their platforms and the plain scan on all others.

    Args:
      name: prefix of the primitives' names in a jaxpr, such as ``name_run``. It must be unique.
      platforms: kernels by JAX's name of the platform: "cpu", "cuda" or "tpu".
      required_by: name of the backend that requires a kernel. Lowering for a platform without one is then
        an error, except in ``jax.export``, which always gets the plain scan. None: the plain scan runs.
    """
    run = KernelPrimitive(
        f"{name}_run",
        scan.run,
        shapes.run,
        kernels=_kernels(platforms, "run"),
        batch_axes=(None, 1, 0, 1),
        result_batch_axes=lambda *_, **static: [1, 0, 0],
        required_by=required_by,
    )
    run_and_differentiate = KernelPrimitive(
        f"{name}_run_and_differentiate",
        scan.run_and_differentiate,
        shapes.run_and_differentiate,
        kernels=_kernels(platforms, "run_and_differentiate"),
        batch_axes=(None, 1, 0, 1),
        result_batch_axes=lambda params, *_, **static: (
            [1, 0, 0, 1, 1, 1, *([1] if "weight_hr" in params else [])]
        ),
        required_by=required_by,
    )
    return scan.Recurrence(
        run,
        run_and_differentiate,
        _run_tangent(name, platforms, required_by),
        _gates_tangent(name, platforms),
    )


def _run_tangent(
    name: str, platforms: Mapping[str, PlatformKernels], required_by: str | None
) -> KernelPrimitive:
    """Return the primitive of :func:`jaxlstm.layer.scan.run_tangent`, whose transpose runs kernels."""
    run_tangent = KernelPrimitive(
        f"{name}_run_tangent",
        scan.run_tangent,
        shapes.run_tangent,
        batch_axes=(None, 1, 1, (1, 1, 0)),
        result_batch_axes=lambda *_, **static: [1, 0, 0],
    )
    transposed_run = KernelPrimitive(
        f"{name}_run_cotangent",
        transposes.run_cotangent,
        shapes.run_cotangent,
        kernels=_kernels(platforms, "run_cotangent"),
        batch_axes=(None, 1, 1, (1, 0)),
        result_batch_axes=lambda *_, projected, **static: [1, *([1] if projected else []), 0, 0],
        required_by=required_by,
    )
    run_tangent.set_transpose(
        lambda weights, derivative, valid, tangents, cotangents, **static: transposed_run(
            weights, derivative, valid, cotangents, projected=tangents.projection is not None, **static
        )
    )
    return run_tangent


def _gates_tangent(name: str, platforms: Mapping[str, PlatformKernels]) -> KernelPrimitive:
    """Return the primitive of :func:`jaxlstm.layer.scan.gates_tangent`, whose transpose may run kernels."""
    gates_tangent = KernelPrimitive(
        f"{name}_gates_tangent",
        scan.gates_tangent,
        shapes.gates_tangent,
        batch_axes=(None, 1, 1, 0, 1, TANGENTS),
        result_batch_axes=lambda *_, **static: [1],
    )
    transposed_gates = KernelPrimitive(
        f"{name}_gradients",
        transposes.gradients,
        shapes.gradients,
        kernels=_kernels(platforms, "gradients"),
        batch_axes=(None, 1, 1, 0, 1, 1),
        result_batch_axes=lambda *_, names, **static: [TANGENTS[key] for key in sorted(names)],
    )
    gates_tangent.set_transpose(
        lambda weight_ih, inputs, outputs, h_0, valid, tangents, z_bar, **static: transposed_gates(
            weight_ih, inputs, outputs, h_0, valid, z_bar, names=tuple(sorted(tangents)), **static
        )
    )
    return gates_tangent


def _kernels(platforms: Mapping[str, PlatformKernels], which: str) -> dict[str, Callable[..., Any]]:
    """Return the kernels of one kind by platform, of the platforms that have one."""
    functions = {key: getattr(platform, which) for key, platform in platforms.items()}
    return {key: function for key, function in functions.items() if function is not None}
