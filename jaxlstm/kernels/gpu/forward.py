"""The recurrence forwards: one program for a few rows walks the whole time axis, its state on the chip.

The input projection of all steps is one product by XLA before. Inside, a step is one product for each tile of
units, which gives its four gates side by side, and the cell while they are in registers; h and c never leave
the chip. Recurrent weights that fit are read once, before the first step; others in each step, from the
second-level cache.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from jaxlstm.activations import sigmoid, tanh
from jaxlstm.cell import input_gates
from jaxlstm.kernels.contract import Found
from jaxlstm.kernels.gpu.plan import Plan, plan_of
from jaxlstm.kernels.gpu.products import sum_of_products
from jaxlstm.kernels.gpu.tiles import GATES, by_unit, load, or_zero, pack, store, where_valid


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
    """As :class:`jaxlstm.kernels.contract.Kernels` says; None if there are no rows."""
    if inputs.shape[1] == 0:
        return None
    plan = plan_of(params, state.c, precision)
    ordered = {name: by_unit(params[name]) for name in params if name != "weight_hr"}
    x_gates = input_gates(ordered, inputs, precision=precision)
    if "bias_hh" in params:
        x_gates += ordered["bias_hh"].astype(x_gates.dtype)
    operands = {
        "x_gates": x_gates,
        "weight_hh": pack(ordered["weight_hh"], plan.units.times(GATES), plan.features),
        "h": state.h,
        "c": state.c,
    }
    if "weight_hr" in params:
        operands["weight_hr"] = pack(params["weight_hr"], plan.features, plan.units)
    if valid is not None:
        operands["valid"] = valid
    kernel = partial(_kernel, plan=plan, reverse=reverse, precision=precision)
    return pl.pallas_call(kernel, out, interpret=interpret, **plan.options)(operands)


def _kernel(ref: Any, out: Any, *, plan: Plan, reverse: bool, precision: Any) -> None:
    """All steps of the rows of one program."""
    rows, units, features = (plan.rows, pl.program_id(0)), plan.units, plan.features
    steps = ref["x_gates"].shape[0]
    gates_of_units = units.times(GATES)
    weight_hh = plan.weight(ref["weight_hh"], features, gates_of_units)
    weight_hr = plan.weight(ref["weight_hr"], units, features) if "weight_hr" in ref else None

    def step(count: Any, state: tuple) -> tuple:
        t = steps - 1 - count if reverse else count
        valid = load(ref["valid"], t, rows)[:, None] if "valid" in ref else None
        h, c = state
        c_next, m = [], []
        for u in range(units.count):
            x_gates = load(ref["x_gates"], t, rows, (gates_of_units, u))
            z = x_gates + sum_of_products(h, weight_hh, u, precision)
            c_u, m_u, derivative = _cell(z, c[u])
            m.append(m_u.astype(h[0].dtype))
            c_next.append(c_u.astype(c[u].dtype))
            if "f" in out:
                _store_derivative(out, derivative, m[-1], valid, (t, rows), (units, u))
        if weight_hr is None:
            h_next = m
        else:
            h_next = [
                sum_of_products(m, weight_hr, p, precision).astype(h[0].dtype)
                for p in range(features.count)
            ]
        for p, value in enumerate(h_next):
            store(out["outputs"], or_zero(valid, value), t, rows, (features, p))
        return where_valid(valid, h_next, h), where_valid(valid, c_next, c)

    h = tuple(load(ref["h"], rows, (features, p)) for p in range(features.count))
    c = tuple(load(ref["c"], rows, (units, u)) for u in range(units.count))
    h, c = lax.fori_loop(0, steps, step, (h, c))
    for p, value in enumerate(h):
        store(out["h"], value, rows, (features, p))
    for u, value in enumerate(c):
        store(out["c"], value, rows, (units, u))


def _cell(z: jax.Array, c: jax.Array) -> tuple[jax.Array, jax.Array, tuple]:
    """The cell on gates side by side (R, 4N): c', m = o tanh(c'), and a :class:`StepDerivative` in parts."""
    i, f, g, o = (
        part[:, :, 0] for part in jnp.split(z.reshape(z.shape[0], -1, GATES), GATES, axis=-1)
    )
    i, f, g, o, c = sigmoid(i), sigmoid(f), tanh(g), sigmoid(o), c.astype(z.dtype)
    c_next = f * c + i * g
    tanh_c = tanh(c_next)
    by_gates = (g * i * (1 - i), c * f * (1 - f), i * (1 + g) * (1 - g), tanh_c * o * (1 - o))
    return c_next, o * tanh_c, (by_gates, f, o * (1 + tanh_c) * (1 - tanh_c))


def _store_derivative(
    out: Any, derivative: tuple, m: jax.Array, valid: Any, where: tuple, units: tuple
) -> None:
    by_gates, f, m_by_c = derivative
    for gate, value in enumerate(by_gates):
        store(out["by_gates"], or_zero(valid, value), *where, (*units, gate * units[0].size))
    store(out["f"], or_zero(valid, f), *where, units)
    store(out["m_by_c"], or_zero(valid, m_by_c), *where, units)
    if "m" in out:
        store(out["m"], or_zero(valid, m), *where, units)
