"""The values of a written model and its program in float64, and their forward derivatives."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.check.cases.case import Array, Case, is_floating, named_outputs
from jaxlstm.check.reference.jax_runs import jax_settings, jitted, split, to_numpy
from jaxlstm.check.subjects.flax_model import FlaxModel
from jaxlstm.check.subjects.function import CheckedModel
from jaxlstm.check.subjects.program import ProgramModel
from jaxlstm.programs.graph import Graph, all_nodes
from jaxlstm.programs.program import Program

_EQUAL = 1e-6
"""A difference in float64, relative to the largest number of a result, that rounding rarely causes."""


def difference(model: Any, program: Program, arguments: tuple[Any, Any], *, forward: bool = False) -> str:
    """Return the result that differs between a model and a program, in words; "" if all are equal.

    ``forward`` compares the derivatives of the results, in the direction of other numbers for all parameters
    and inputs.
    """
    case = Case.of_model("example", *arguments)
    ours, theirs = (_run(subject, case, forward) for subject in (FlaxModel(model), ProgramModel(program)))
    what = "forward derivative of " if forward else ""
    if ours.keys() != theirs.keys():
        return f"{what}results: the model returns {[*ours]}, the program {[*theirs]}"
    for name, expected in theirs.items():
        if ours[name].shape != expected.shape:
            return f"{what}{name}: shape {ours[name].shape}, expected {expected.shape}"
        limit = _EQUAL * np.max(np.abs(expected), initial=0, where=np.isfinite(expected))
        if not np.allclose(ours[name], expected, rtol=0, atol=limit, equal_nan=True):
            return f"{what}{name}: other values"
    return ""


def lacks_reverse(graph: Graph) -> bool:
    """Return True for a graph with a loop through which JAX computes forward derivatives only."""
    return any(node.op == "higher_order.while_loop" for node in all_nodes(graph))


def _run(subject: CheckedModel, case: Case, forward: bool) -> dict[str, Array]:
    with jax_settings(np.float64, "highest"):
        call = subject.call_in(np.float64)
        floating, others = split(case, np.float64)
        given, buffers = (jax.device_put(dict(call.params)), floating), jax.device_put(dict(call.buffers))

        def outputs(params: Any, floating: Any) -> dict[str, Any]:
            args, kwargs = case.call({**floating, **others})
            found = named_outputs(call.function({**params, **buffers}, args, kwargs)).items()
            return {n: a for n, a in found if not forward or (hasattr(a, "dtype") and is_floating(a))}

        if not forward:
            return to_numpy(jitted(outputs)(*given))
        # Torch's layout of a parameter and Flax's have the same direction.
        direction = jax.tree.map(lambda a: jnp.cos(1_000 * a), given)
        return to_numpy(jitted(lambda *point: jax.jvp(outputs, point, direction)[1])(*given))
