"""The operations over time that a kernel may compute, each described once.

A :class:`KernelOperation` has the plain function in JAX, which defines its results and its derivative and
runs where no kernel does, and a rule for the names, shapes and batch axes of the results. A linear operation
also has its transpose, which is another operation.

- :data:`FORWARD` and :data:`FORWARD_AND_DIFFERENTIATE` are the functions of these names in
  :mod:`jaxlstm.layer.scan`.
- :data:`FORWARD_BOTH` is :func:`jaxlstm.layer.scan.forward` in both directions of a layer.
- :data:`GATES_TANGENT` and :data:`OUTPUTS_TANGENT` are linear, the two halves of the derivative. Their
  transposes are :data:`GRADIENTS` and :data:`BACKWARD`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from jaxlstm.layer import scan
from jaxlstm.layer.cell import Cell, LSTMState, StepDerivative
from jaxlstm.layer.mesh_types import whole_beside
from jaxlstm.layer.precision import Precision, gate_dtype, linear, resolve
from jaxlstm.layer.scan import RecurrentTangents


@dataclass(frozen=True)
class ResultType:
    """The shape, dtype and batch axis of a result. A sum over the batch has no batch axis."""

    shape: tuple[int, ...]
    dtype: Any
    batch_axis: int | None


@dataclass(frozen=True)
class KernelOperation:
    """A function ``(*arguments, **static)`` to a tree of arrays.

    Attributes:
      name: the name, which becomes a part of the primitive's.
      batch_axes: the batch axis of each argument: an int for all arrays of the argument, None for weights, or
        a tuple or a dict of these that matches the argument.
      results: ``(*arguments, **static)`` to the type of each result by name. It reads only the shapes and
        dtypes of arguments.
      tree: values of the results by name, to a tree of the structure of ``plain``'s results.
      transpose: the transpose with respect to the last argument, ``(*other arguments, cotangents,
        **static)``, if the function is linear in that argument.
      static_of_transpose: the last argument to the static arguments that only the transpose has.
    """

    name: str
    plain: Callable[..., Any]
    batch_axes: tuple
    results: Callable[..., dict[str, ResultType]]
    tree: Callable[[Mapping[str, Any]], Any]
    transpose: KernelOperation | None = None
    static_of_transpose: Callable[[Any], dict[str, Any]] | None = None

    def result_types(self, *arguments: Any, **static: Any) -> tuple[list[ResultType], Any]:
        """Return the type of each leaf of the results, and the structure of their tree."""
        return jax.tree.flatten(self.tree(self.results(*arguments, **static)))

    def kernel(self, compute: Callable[..., dict[str, Any]]) -> Callable[..., Any]:
        """Return the function computed by a kernel.

        ``compute`` maps ``(*arguments, out, **static)`` to arrays. ``out`` holds the results to compute by
        name, as ``jax.ShapeDtypeStruct``.
        """

        def call(*arguments: Any, **static: Any) -> Any:
            types = self.results(*arguments, **static)
            out = {name: jax.ShapeDtypeStruct(t.shape, t.dtype) for name, t in types.items()}
            return self.tree(compute(*arguments, out, **static))

        return call


def _like(x: Any, batch_axis: int | None) -> ResultType:
    return ResultType(x.shape, x.dtype, batch_axis)


def _like_state(state: LSTMState, suffix: Any = "") -> dict[str, ResultType]:
    return {f"{name}{suffix}": _like(leaf, 0) for name, leaf in state._asdict().items() if leaf is not None}


def _state(values: Mapping[str, Any], suffix: Any = "") -> Any:
    return LSTMState(values[f"h{suffix}"], values.get(f"c{suffix}"))  # type: ignore[arg-type]


def _forward_results(params: Any, inputs: Any, state: Any, valid: Any, **static: Any) -> dict:
    outputs = ResultType((*inputs.shape[:2], state.h.shape[1]), inputs.dtype, 1)
    return {"outputs": outputs, **_like_state(state)}


def _forward_tree(values: Mapping[str, Any]) -> Any:
    return values["outputs"], _state(values)


FORWARD = KernelOperation("forward", scan.forward, (None, 1, 0, 1), _forward_results, _forward_tree)


def _both_results(params: Any, inputs: Any, states: Any, valid: Any, **static: Any) -> dict:
    outputs = ResultType((*inputs.shape[:2], 2 * states[0].h.shape[1]), inputs.dtype, 1)
    return {"outputs": outputs, **_like_state(states[0], 0), **_like_state(states[1], 1)}


FORWARD_BOTH = KernelOperation(
    "forward_both",
    scan.forward_both,
    (None, 1, 0, 1),
    _both_results,
    lambda values: (values["outputs"], (_state(values, 0), _state(values, 1))),
)


def _differentiated_results(
    params: Any, inputs: Any, state: Any, valid: Any, *, cell: Cell, **static: Any
) -> dict:
    steps, dtype = inputs.shape[:2], gate_dtype(inputs.dtype)
    H = params["weight_hh"].shape[0] // len(cell.of_h)
    results = _forward_results(params, inputs, state, valid)
    results["by_gates"] = ResultType((*steps, cell.blocks * H), dtype, 1)
    for name in ("f", "m_by_c") if state.c is not None else ("f",):
        results[name] = ResultType((*steps, H), dtype, 1)
    if "weight_hr" in params:
        results["m"] = ResultType((*steps, H), inputs.dtype, 1)
    return results


FORWARD_AND_DIFFERENTIATE = KernelOperation(
    "forward_and_differentiate",
    scan.forward_and_differentiate,
    (None, 1, 0, 1),
    _differentiated_results,
    lambda values: (
        _forward_tree(values),
        StepDerivative(*(values.get(name) for name in StepDerivative._fields)),  # type: ignore[arg-type]
        values.get("m"),
    ),
)


def _backward(
    weights: Any, derivative: Any, valid: Any, cotangents: tuple, *, projected: bool, **static: Any
) -> RecurrentTangents:
    """Return the transpose of :func:`jaxlstm.layer.scan.outputs_tangent`, derived by JAX."""
    outputs, state = cotangents
    # linear_transpose gets arrays instead of shapes, because their types also carry the sharding.
    like = RecurrentTangents(derivative.by_gates, outputs if projected else None, state)
    tangent = lambda tangents: scan.outputs_tangent(weights, derivative, valid, tangents, **static)  # noqa: E731
    (result,) = jax.linear_transpose(tangent, like)(cotangents)
    return result


def _backward_results(
    weights: Any, derivative: Any, valid: Any, cotangents: tuple, *, projected: bool, **static: Any
) -> dict:
    outputs, state = cotangents
    results = {"z_bar": _like(derivative.by_gates, 1), **_like_state(state, "_bar")}
    return results | ({"projection_bar": _like(outputs, 1)} if projected else {})


BACKWARD = KernelOperation(
    "backward",
    _backward,
    (None, 1, 1, (1, 0)),
    _backward_results,
    lambda values: RecurrentTangents(values["z_bar"], values.get("projection_bar"), _state(values, "_bar")),
)
OUTPUTS_TANGENT = KernelOperation(
    "outputs_tangent",
    scan.outputs_tangent,
    (None, 1, 1, (1, 1, 0)),
    lambda weights, derivative, valid, tangents, **static: {
        "outputs": ResultType(
            (*tangents.gates.shape[:2], tangents.state.h.shape[1]), tangents.state.h.dtype, 1
        ),
        **_like_state(tangents.state),
    },
    _forward_tree,
    BACKWARD,
    lambda tangents: {"projected": tangents.projection is not None},
)

TANGENTS = {"inputs": 1, "weight_ih": None, "weight_hh": None, "bias": None}
"""The names of the tangents of :func:`jaxlstm.layer.scan.gates_tangent`, each with its batch axis."""


def _gradients(
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
    cell: Cell,
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


def _gradients_results(
    weight_ih: Any, inputs: Any, outputs: Any, *arrays: Any, names: tuple[str, ...], **static: Any
) -> dict:
    gates, dtype = weight_ih.shape[0], inputs.dtype
    shapes = {
        "inputs": inputs.shape,
        "weight_ih": weight_ih.shape,
        "weight_hh": (gates, outputs.shape[2]),
        "bias": (gates,),
    }
    dtypes = {"bias": gate_dtype(dtype)}
    return {name: ResultType(shapes[name], dtypes.get(name, dtype), TANGENTS[name]) for name in names}


GRADIENTS = KernelOperation("gradients", _gradients, (None, 1, 1, 0, 1, 1), _gradients_results, dict)
GATES_TANGENT = KernelOperation(
    "gates_tangent",
    scan.gates_tangent,
    (None, 1, 1, 0, 1, TANGENTS),
    lambda weight_ih, inputs, *arrays, **static: {
        "gates": ResultType((*inputs.shape[:2], weight_ih.shape[0]), gate_dtype(inputs.dtype), 1)
    },
    lambda values: values["gates"],
    GRADIENTS,
    lambda tangents: {"names": tuple(sorted(tangents))},
)
