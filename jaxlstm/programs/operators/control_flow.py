"""torch's ``cond``, ``while_loop``, ``scan`` and ``map`` on :mod:`jax.lax`."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer

from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.operators.registry import register_operator

Function = Callable[..., tuple[Any, ...]]


def _one_or_all(results: Sequence[Any]) -> Any:
    """Return the only result, or all of them: a node with one result has no tuple."""
    return results[0] if len(results) == 1 else tuple(results)


def _require_arrays(values: Sequence[Any], subject: str) -> None:
    if not all(isinstance(value, jax.Array) for value in values):
        raise ProgramError(
            "unsupported-operator", f"{subject} has a Python number, not a tensor; use torch.tensor(number)"
        )


def _on_arrays(function: Function, operands: Sequence[Any]) -> tuple[Function, list[Array]]:
    """Return a function of the arrays among its operands, with the other operands fixed, and the arrays."""

    def run(*arrays: Array) -> tuple[Any, ...]:
        remaining = iter(arrays)
        return function(*(next(remaining) if isinstance(x, jax.Array) else x for x in operands))

    return run, [x for x in operands if isinstance(x, jax.Array)]


@register_operator("higher_order.cond")
def cond(pred: Any, true: Function, false: Function, operands: Sequence[Any] = ()) -> Any:
    """Run one of two functions; a condition whose value is known runs the chosen one only."""
    if not isinstance(pred, Tracer):
        return _one_or_all((true if bool(pred) else false)(*operands))
    branches = [_on_arrays(function, operands) for function in (true, false)]
    (run_true, arrays), (run_false, _) = branches
    return _one_or_all(jax.lax.cond(pred.reshape(()), run_true, run_false, *arrays))


@register_operator("higher_order.while_loop")
def while_loop(
    condition: Function, body: Function, carried: Sequence[Any], additional: Sequence[Any] = ()
) -> Any:
    """Run a function on its own results as long as a condition holds. It has no reverse derivative."""
    _require_arrays(carried, "the state of while_loop")
    results = jax.lax.while_loop(
        lambda state: jax.numpy.reshape(condition(*state, *additional)[0], ()),
        lambda state: body(*state, *additional),
        tuple(carried),
    )
    return _one_or_all(results)


@register_operator("higher_order.scan")
def scan(
    combine: Function,
    init: Sequence[Any],
    xs: Sequence[Any],
    additional: Sequence[Any] = (),
    steps: int | None = None,
    listed: bool = False,
) -> Any:
    """Run a function over the first axis of arrays with a state. Returns states and stacked results.

    Args:
      combine: (states, rows, additional values) -> states and results of a step.
      init: arrays, the states before the first step.
      xs: arrays (steps, ...); a tuple of arrays, one for each step, if ``listed``.
      additional: values that are the same in all steps.
      steps: number of steps of a Python loop. On plain arrays they run one by one, so that operators can
        check values. None for torch's own scan.
      listed: rows and results are lists, whose shapes and dtypes may differ from step to step.
    """

    def step(state: Sequence[Any], x: Sequence[Any]) -> tuple[Any, Any]:
        results = combine(*state, *x, *additional)
        return results[: len(init)], results[len(init) :]

    if steps is None:
        _require_arrays((*init, *xs), "scan")
    is_traced = any(map(_is_traced, jax.tree.leaves((init, xs, additional))))
    if steps is None or (is_traced and (not listed or _is_regular(step, init, xs))):
        stacked = [jnp.stack(x) if isinstance(x, tuple) else x for x in xs]
        state, results = jax.lax.scan(step, tuple(init), tuple(stacked), steps)
        return _one_or_all((*state, *results))
    state, rows = init, []
    for x in zip(*xs, strict=True) if xs else ((),) * steps:
        state, row = step(state, x)
        rows.append(row)
    lists = zip(*rows, strict=True)
    return _one_or_all((*state, *(lists if listed else map(jnp.stack, lists))))


def _is_traced(value: Any) -> bool:
    return isinstance(value, Tracer) and value.to_concrete_value() is None


def _is_regular(step: Callable[..., Any], init: Sequence[Any], xs: Sequence[Any]) -> bool:
    """Return True for arrays of one shape and dtype in each list of rows, and for a state at all steps."""
    for rows in (*([item] for item in init), *(x for x in xs if isinstance(x, tuple))):
        if not all(isinstance(row, Array) and _is_alike(row, rows[0]) for row in rows):
            return False

    def results(state: Sequence[Any], x: Sequence[Any]) -> list[Any]:
        new_state, row = step(state, x)
        return [item if isinstance(item, Array) else None for item in (*new_state, *row)]

    types = jax.eval_shape(results, init, [x[0] for x in xs])
    return None not in types and all(map(_is_alike, init, types))


def _is_alike(first: Any, second: Any) -> bool:
    return (first.shape, first.dtype) == (second.shape, second.dtype)


@register_operator("higher_order.map_impl")
def map_(function: Function, xs: Sequence[Any], additional: Sequence[Any] = ()) -> Any:
    """Run a function on each slice along the first axis of arrays. Returns stacked results."""
    _require_arrays(xs, "map")
    return _one_or_all(jax.lax.map(lambda x: function(*x, *additional), tuple(xs)))
