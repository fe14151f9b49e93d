"""The recurrence forwards: input projection, recurrent product and cell in one kernel.

The grid walks over blocks of time. Of each block the input projection is one product, left in scratch; then
come its steps one by one, with h and c in scratch too. What moves through HBM is the inputs once, the outputs
once, and the weights once: the gates, four times as wide, never do.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxlstm.activations import sigmoid, tanh
from jaxlstm.kernels.contract import Found
from jaxlstm.kernels.tpu.plan import (
    GATES,
    Plan,
    call,
    cut,
    cut_gates,
    fill,
    fill_gates,
    plan_of,
    resident,
)
from jaxlstm.kernels.tpu.products import product
from jaxlstm.precision import gate_dtype


def run_forward(
    params: Any,
    inputs: Any,
    state: Any,
    valid: Any,
    out: dict[str, Any],
    *,
    reverse: bool,
    precision: Any,
    interpret: bool = False,
) -> Found:
    """As :class:`jaxlstm.kernels.contract.Kernels` says; None where there is no :func:`plan_of`."""
    plan = plan_of(params, inputs, state, precision)
    if plan is None:
        return None
    units, dtype = state.c.shape[1], inputs.dtype
    gates, by_gates = GATES * plan.units, partial(fill_gates, units=plan.units)
    over_time = partial(plan.over_time, backwards=reverse)
    operands = {
        "x": (fill(inputs, plan.batch, plan.features), over_time(plan.features)),
        "h": (fill(state.h, plan.batch, plan.h_features), plan.state(plan.h_features)),
        "c": (fill(state.c, plan.batch, plan.units), plan.state(plan.units)),
        "weight_ih": plan.weight(by_gates(params["weight_ih"].T), plan.features, gates),
        "weight_hh": plan.weight(by_gates(params["weight_hh"].T), plan.h_features, gates),
    }
    if "bias_ih" in params:
        bias_ih, bias_hh = (params[n].astype(gate_dtype(dtype)) for n in ("bias_ih", "bias_hh"))
        operands["bias"] = resident(by_gates((bias_ih + bias_hh)[None]))
    if "weight_hr" in params:
        operands["weight_hr"] = plan.weight(params["weight_hr"].T, plan.units, plan.h_features)
    if valid is not None:
        operands["valid"] = plan.mask(valid, backwards=reverse)
    widths = {"outputs": plan.h_features, "h": plan.h_features, "by_gates": gates}
    filled = {
        name: plan.out(wanted, widths.get(name, plan.units), backwards=reverse)
        for name, wanted in out.items()
    }
    scratch = [
        pltpu.VMEM((plan.steps, plan.rows, gates), jnp.float32),
        pltpu.VMEM((plan.rows, plan.h_features), dtype),
        pltpu.VMEM((plan.rows, plan.units), dtype),
    ]
    kernel = partial(_kernel, plan=plan, reverse=reverse)
    found = call(kernel, plan, operands, filled, scratch, interpret)
    if "by_gates" in found:
        found["by_gates"] = cut_gates(found["by_gates"], units)
    return {name: cut(x, out[name]) for name, x in found.items()}


def _kernel(ref: Any, out: Any, gates: Any, h: Any, c: Any, *, plan: Plan, reverse: bool) -> None:
    """One block of time."""

    @pl.when(pl.program_id(1) == 0)
    def begin() -> None:
        h[...], c[...] = ref["h"][...], ref["c"][...]

    x = ref["x"][...].reshape(-1, plan.features)
    z_x = product(x, ref["weight_ih"], plan.parts)
    if "bias" in ref:
        z_x = z_x + ref["bias"][...]
    gates[...] = z_x.reshape(gates.shape)

    def step(t: Any) -> None:
        z = gates[t] + product(h[...], ref["weight_hh"], plan.parts)
        kept = _cell(z, c[...].astype(z.dtype), differentiate="f" in out)
        kept["outputs"] = kept["m"] = kept["m"].astype(h.dtype).astype(z.dtype)
        if "weight_hr" in ref:
            m = kept["m"].astype(h.dtype)
            kept["outputs"] = product(m, ref["weight_hr"], plan.parts)
        new_h, new_c = kept["outputs"], kept.pop("c")
        if "valid" in ref:
            valid = ref["valid"][t] > 0
            new_h = jnp.where(valid, new_h, h[...].astype(z.dtype))
            new_c = jnp.where(valid, new_c, c[...].astype(z.dtype))
            kept = {name: jnp.where(valid, value, 0.0) for name, value in kept.items()}
        h[...], c[...] = new_h.astype(h.dtype), new_c.astype(c.dtype)
        for name in kept.keys() & out.keys():
            out[name][t] = kept[name].astype(out[name].dtype)

    plan.each_step(step, backwards=reverse)
    out["h"][...], out["c"][...] = h[...], c[...]


def _cell(z: jax.Array, c: jax.Array, *, differentiate: bool) -> dict[str, jax.Array]:
    """c' and m = o tanh(c') from the gates before their nonlinearity, and the derivative of the step."""
    i, f, g, o = jnp.split(z, GATES, axis=-1)
    i, f, g, o = sigmoid(i), sigmoid(f), tanh(g), sigmoid(o)
    c_next = f * c + i * g
    tanh_c = tanh(c_next)
    values = {"c": c_next, "m": o * tanh_c}
    if differentiate:
        by_gates = (g * i * (1 - i), c * f * (1 - f), i * (1 + g) * (1 - g), tanh_c * o * (1 - o))
        by_gates = jnp.concatenate(by_gates, axis=-1)
        values |= {"by_gates": by_gates, "f": f, "m_by_c": o * (1 + tanh_c) * (1 - tanh_c)}
    return values
