"""Changes of a call of the oracle, of which faults are made.

Changes compose. A change maps one call to another, whatever changes were applied before.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlstm.check.cases.case import Array
from jaxlstm.check.reference.oracle import DirectionRun, OracleCall, OracleRun, Step, suffix, weights_of
from jaxlstm.layer.config import LSTMConfig

Change = Callable[[OracleCall], OracleCall]
SlotOf = Callable[[int, int, LSTMConfig], int]
"""(layer, direction, config) -> the slot of that state in another layout."""
State = tuple[Array, Array]
GATES = "ifgo"


def around(part: str, change: Callable[..., Any]) -> Change:
    """Return the change of a part of the equations; ``change`` takes the part and then its arguments."""

    def apply(call: OracleCall) -> OracleCall:
        changed = {part: partial(change, getattr(call.equations, part))}
        return replace(call, equations=replace(call.equations, **changed))

    return apply


def each_parameter(prefix: str | tuple[str, ...], change: Callable[[Array], Array]) -> Change:
    """Return the change of each parameter whose name starts with a string."""
    return lambda call: replace(
        call, params={name: change(a) if name.startswith(prefix) else a for name, a in call.params.items()}
    )


def each_gate(prefix: str | tuple[str, ...], change: Callable[..., Sequence[Array]]) -> Change:
    """Return the change of the blocks i, f, g and o of each parameter whose name starts with a string."""
    return each_parameter(prefix, lambda a: np.concatenate(change(*np.split(a, 4))))


def initial_state(change: Callable[[State, LSTMConfig], State]) -> Change:
    """Return the change of h_0 and c_0."""
    return lambda call: replace(call, state=change(call.state, call.config))


def results(change: Callable[[OracleRun, OracleCall], dict[str, Array]]) -> Change:
    """Return the change of some results of a run."""

    def finish(inner: Any, run: OracleRun, call: OracleCall) -> OracleRun:
        run = inner(run, call)
        return run._replace(**change(run, call))

    return around("finish", finish)


def final_state(change: Callable[[State, LSTMConfig], State]) -> Change:
    """Return the change of h_n and c_n."""
    names = "h_n", "c_n"
    return results(lambda run, call: dict(zip(names, change((run.h_n, run.c_n), call.config), strict=True)))


def one_direction(reverse: bool, change: Callable[..., Any]) -> Change:
    """Return the change of the forward or of the reverse direction of each layer."""
    return around("direction", lambda run, *args: change(run, *args) if args[-1] == reverse else run(*args))


def layers_alike(config: LSTMConfig) -> range:
    """Return the layers whose parameters have the same shapes."""
    first_is_alike = config.layer_input_size(0) == config.output_size
    return range(0 if first_is_alike else 1, config.num_layers)


def reordered(order: str) -> Change:
    """Return the change to parameters whose gates are in another order."""
    return each_gate(
        ("weight_ih", "weight_hh", "bias_"), lambda *blocks: [blocks[order.index(gate)] for gate in GATES]
    )


def transposed(name: str) -> Change:
    """Return the change to a weight whose square blocks are transposed one by one."""
    return each_gate(name, lambda *blocks: [b.T if len(b) == b.shape[1] else b for b in blocks])


def reshaped(name: str) -> Change:
    """Return the change to a weight that is reshaped instead of transposed."""
    return each_parameter(name, lambda a: a.reshape(a.shape[::-1]).T)


def copied(source: str, target: str) -> Change:
    """Return the change to parameters of which one kind has the values of another."""
    return lambda call: replace(
        call, params={name: call.params[name.replace(target, source)] for name in call.params}
    )


def moved(source: Callable[[int, int, range], tuple[int, int]]) -> Change:
    """Take the weights of (layer, reverse) from ``source(layer, reverse, layers_alike)``."""

    def apply(call: OracleCall) -> OracleCall:
        layers, params = layers_alike(call.config), dict(call.params)
        for layer, reverse in np.ndindex(call.config.num_layers, call.config.num_directions):
            other_layer, other_reverse = source(layer, reverse, layers)
            weights = weights_of(call.params, call.config, other_layer, bool(other_reverse))
            end = suffix(call.config, layer, bool(reverse))
            params |= {name + end: array for name, array in weights.items()}
        return replace(call, params=params)

    return apply


def backwards(layer: int, reverse: int, layers: range) -> tuple[int, int]:
    """Return the source of weights that are in the reverse order of layers."""
    return (layers[0] + layers[-1] - layer if layer in layers else layer), reverse


def in_slots(slot_of: SlotOf, *, written: bool = False) -> Callable[[State, LSTMConfig], State]:
    """Return the change of states that are read from, or ``written`` to, the slots of another layout."""

    def change(state: State, config: LSTMConfig) -> State:
        places = np.ndindex(config.num_layers, config.num_directions)
        slots = np.array([slot_of(layer, direction, config) for layer, direction in places])
        slots = np.argsort(slots) if written else slots
        return state[0][slots], state[1][slots]

    return change


def state_at_the_end(run: OracleRun, call: OracleCall) -> dict[str, Array]:
    """Return the states at the last valid time of each row as the final ones."""
    last, rows = call.lengths - 1, np.arange(len(call.lengths))
    steps = [direction.steps for layer in run.record for direction in layer]
    return {f"{name}_n": np.stack([getattr(s, name)[last, rows] for s in steps]) for name in "hc"}


def over_padding(
    run: Any, eq: Any, w: Any, x: Array, h: Array, c: Array, lengths: Array, reverse: bool
) -> Any:
    """Run over the padding too, and zero the outputs there."""
    result = run(eq, w, x, h, c, np.full_like(lengths, len(x)), reverse)
    valid = np.arange(len(x))[:, None, None] < lengths[None, :, None]
    return result._replace(steps=Step(*(np.where(valid, a, 0) for a in result.steps)))


def not_flipped_back(run: Any, *args: Any) -> DirectionRun:
    """Return the steps of the reverse direction in the order of computation; the padding stays in place."""
    result, (*_, lengths, _) = run(*args), args
    t, rows = np.arange(len(result.inputs))[:, None], np.arange(len(lengths))
    source = np.where(t < lengths, lengths - 1 - t, t)
    return result._replace(steps=Step(*(a[source, rows] for a in result.steps)))


def axes_swapped(call: OracleCall) -> OracleCall:
    """Run over the batch axis, in a batch that allows it."""
    # Only a batch with as many rows as steps runs in a port with this fault.
    if call.inputs.shape[0] != call.inputs.shape[1]:
        return call
    swap_back = results(lambda run, call: {"outputs": run.outputs.swapaxes(0, 1)})
    return swap_back(replace(call, inputs=call.inputs.swapaxes(0, 1)))


def swapped(step: Step) -> Step:
    """Return a step with its h and c exchanged."""
    return step._replace(h=step.c, c=step.h)


def tf32(a: Array) -> Array:
    """Round to the 10 bits of mantissa of TF32, ties to even."""
    bits = np.asarray(a, np.float32).view(np.uint32).astype(np.uint64)
    bits += 0x0FFF + ((bits >> 13) & 1)
    return (bits & 0xFFFFE000).astype(np.uint32).view(np.float32).astype(np.float64)


def rounded_products(rounded: Callable[[Array], Array]) -> Change:
    """Return the change to products of rounded operands."""
    return around("product", lambda product, x, w: product(rounded(x), rounded(w)))


def half(name: str) -> dict[str, Change]:
    """Return the changes to a half precision, by the cause of the fault."""

    def rounded(a: Array) -> Array:
        return a.astype(jnp.dtype(name)).astype(np.float64)

    def cell(inner: Any, eq: Any, w: Any, x: Array, h: Array, c: Array) -> Step:
        step = inner(eq, w, x, rounded(h), rounded(c))
        return step._replace(h=rounded(step.h), c=rounded(step.c))

    return {
        f"the matrix products take {name} operands": rounded_products(rounded),
        f"the weights are rounded to {name}": each_parameter("", rounded),
        f"h and c are kept in {name}": around("cell", cell),
    }
