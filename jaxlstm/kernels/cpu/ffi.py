"""Calls of the native CPU kernel for one direction, through XLA's FFI.

Each function computes an operation of :mod:`jaxlstm.kernels.operations`. It takes the operation's arguments
and then ``out``, a ``jax.ShapeDtypeStruct`` for each result, and returns arrays of these names and shapes.
The kernel ignores ``precision``, because products on a CPU always have the full precision of the dtype.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.kernels import operations
from jaxlstm.kernels.operations import TANGENTS, KernelOperation
from jaxlstm.kernels.primitive import KernelPrimitive
from jaxlstm.layer.cell import LSTM, Cell, StepDerivative
from jaxlstm.layer.precision import Precision
from jaxlstm.layer.scan import Recurrence

WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
"""The parameters that the library takes, in its order."""

THREADS = 0
"""Number of threads per call; 0 means the size of XLA's thread pool."""


def forward_pass(
    params: Any,
    inputs: Any,
    state: Any,
    valid: Any,
    out: dict[str, Any],
    *,
    reverse: bool,
    precision: Precision,
    cell: Cell,
) -> dict[str, Any]:
    """Run FORWARD, or FORWARD_AND_DIFFERENTIATE if ``out`` has the fields of a derivative."""
    operands = (inputs, *map(params.get, WEIGHTS), *state, valid)
    results = ("outputs", "h", "c", *StepDerivative._fields, "m")
    return _call("jaxlstm_forward", operands, results, out, reverse, cell)


def both_directions(
    params: Any,
    inputs: Any,
    states: Any,
    valid: Any,
    out: dict[str, Any],
    *,
    precision: Precision,
    cell: Cell,
) -> dict[str, Any]:
    """Run FORWARD_BOTH."""
    weights = (direction.get(name) for direction in params for name in WEIGHTS)
    operands = (inputs, *weights, *states[0], *states[1], valid)
    return _call("jaxlstm_forward_both", operands, ("outputs", "h0", "c0", "h1", "c1"), out, False, cell)


def backward_pass(
    weights: Any,
    derivative: Any,
    valid: Any,
    cotangents: tuple,
    out: dict[str, Any],
    *,
    projected: bool,
    reverse: bool,
    precision: Precision,
    cell: Cell,
) -> dict[str, Any]:
    """Run BACKWARD."""
    outputs_bar, state_bar = cotangents
    if "weight_hr" in weights:  # the kernel writes the cotangent of a projection, requested or not
        out = {**out, "projection_bar": jax.ShapeDtypeStruct(outputs_bar.shape, outputs_bar.dtype)}
    matrices = (weights["weight_hh"], weights.get("weight_hr"))
    operands = (*matrices, *derivative, valid, outputs_bar, *state_bar)
    results = ("z_bar", "projection_bar", "h_bar", "c_bar")
    # z_bar overwrites by_gates, which is not needed afterwards: fresh memory would cost more than the step.
    found = _call("jaxlstm_backward", operands, results, out, reverse, cell, input_output_aliases={2: 0})
    return found if projected else {**found, "projection_bar": None}


def gradients(
    weight_ih: Any,
    inputs: Any,
    outputs: Any,
    h_0: Any,
    valid: Any,
    z_bar: Any,
    out: dict[str, Any],
    *,
    names: tuple[str, ...],
    reverse: bool,
    precision: Precision,
    cell: Cell,
) -> dict[str, Any]:
    """Run GRADIENTS of an LSTM: all in one call, because XLA would share the threads among several."""
    assert cell is LSTM, cell
    operands = (z_bar, inputs, outputs, h_0, valid, weight_ih)
    return _call("jaxlstm_gradients", operands, tuple(TANGENTS), out, reverse)


def prepared_layer(
    cell: Cell, prepared: Any, x: Any, state: Sequence[Any], valid: Any = None
) -> tuple[jax.Array, ...]:
    """Run a layer in float32. Return outputs (time, batch, directions * hidden_size), and the last state.

    ``prepared`` is (directions, elements), as :func:`.stack.prepare` packs the weights of a direction; x is
    (time, batch, input_size), ``state`` is h and for an LSTM c, each (directions, batch, hidden_size), and
    valid (time, batch).
    """
    shapes = {"outputs": (*x.shape[:2], state[0].shape[0] * state[0].shape[2])}
    shapes |= {name: leaf.shape for name, leaf in zip("hc", state, strict=False)}
    out = {name: jax.ShapeDtypeStruct(shape, x.dtype) for name, shape in shapes.items()}
    operands = (x, prepared, state[0], state[1] if len(state) > 1 else None, valid)
    return tuple(_call("jaxlstm_layer", operands, ("outputs", "h", "c"), out, False, cell).values())


def _call(
    target: str,
    operands: Sequence[Any],
    results: Sequence[str],
    out: dict[str, Any],
    reverse: bool,
    cell: Cell | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Call the library. An array of shape (0,) stands for an operand of None, and a result not in ``out``."""
    omitted = jnp.zeros((0,), bool)
    call: Any = jax.ffi.ffi_call(target, [out.get(name, omitted) for name in results], **options)
    arrays = call(
        *(omitted if operand is None else operand for operand in operands),
        reverse=reverse,
        threads=np.int64(THREADS),
        **({} if cell is None else {"cell": np.int64(cell.number)}),
    )
    return {name: array for name, array in zip(results, arrays, strict=True) if name in out}


def _recurrence(prefix: str, required_by: str | None = None) -> Recurrence:
    """Return the recurrence of primitives with a prefix, see :class:`.KernelPrimitive`."""

    def primitive(operation: KernelOperation, *kernel: Any) -> KernelPrimitive:
        return KernelPrimitive(prefix, operation, "cpu", *kernel, required_by=required_by)

    return Recurrence(
        primitive(operations.FORWARD, forward_pass),
        primitive(operations.FORWARD_AND_DIFFERENTIATE, forward_pass),
        primitive(operations.OUTPUTS_TANGENT, None, primitive(operations.BACKWARD, backward_pass)),
        primitive(operations.GATES_TANGENT, None, primitive(operations.GRADIENTS, gradients)),
        primitive(operations.FORWARD_BOTH, both_directions),
    )


AUTO = _recurrence("lstm")
NATIVE = _recurrence("lstm_native", required_by="native")
