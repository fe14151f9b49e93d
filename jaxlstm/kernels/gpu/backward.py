"""The recurrence backwards: from the cotangents of outputs and last state to those of the gates.

The transpose of :func:`jaxlstm.scan.run_tangent`, arranged as :mod:`jaxlstm.kernels.gpu.forward`: a program
for a few rows walks the time axis against its order, and the cotangents of h and c never leave the chip, in
float32. What remains for XLA is the gradients of weights and inputs, each one large product.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from jaxlstm.kernels.contract import Found
from jaxlstm.kernels.gpu.plan import Plan, plan_of
from jaxlstm.kernels.gpu.products import sum_of_products
from jaxlstm.kernels.gpu.tiles import GATES, by_unit, load, or_zero, pack, store, where_valid


def run_backward(
    weights: Any,
    derivative: Any,
    valid: Any,
    cotangents: tuple,
    out: dict[str, Any],
    *,
    reverse: bool,
    precision: Any,
    interpret: bool = False,
) -> Found:
    """As :class:`jaxlstm.kernels.contract.Kernels` says; None if there are no rows."""
    outputs_bar, state_bar = cotangents
    if outputs_bar.shape[1] == 0:
        return None
    plan = plan_of(weights, state_bar.c, precision)
    gates, units, features = plan.units.times(GATES), plan.units, plan.features
    operands = {
        **derivative._asdict(),
        "outputs_bar": outputs_bar,
        "h_bar": state_bar.h,
        "c_bar": state_bar.c,
        "weight_hh": pack(by_unit(weights["weight_hh"]), gates, features).T,
    }
    if "weight_hr" in weights:
        operands["weight_hr"] = pack(weights["weight_hr"], features, units).T
    if valid is not None:
        operands["valid"] = valid
    kernel = partial(_kernel, plan=plan, reverse=reverse, precision=precision)
    return pl.pallas_call(kernel, out, interpret=interpret, **plan.options)(operands)


def _kernel(ref: Any, out: Any, *, plan: Plan, reverse: bool, precision: Any) -> None:
    """All steps of the rows of one program, the last one first."""
    rows, units, features = (plan.rows, pl.program_id(0)), plan.units, plan.features
    steps = ref["f"].shape[0]
    weight_hh = plan.weight(ref["weight_hh"], units.times(GATES), features)
    weight_hr = plan.weight(ref["weight_hr"], features, units) if "weight_hr" in ref else None
    dtype = ref["weight_hh"].dtype

    def step(count: Any, state_bar: tuple) -> tuple:
        t = count if reverse else steps - 1 - count
        valid = load(ref["valid"], t, rows)[:, None] if "valid" in ref else None
        h_bar = [
            load(ref["outputs_bar"], t, rows, (features, p)) + state_bar[0][p]
            for p in range(features.count)
        ]
        if "projection_bar" in out:
            for p, value in enumerate(h_bar):
                store(out["projection_bar"], or_zero(valid, value), t, rows, (features, p))
        z_bar, c_bar = [], []
        for u in range(units.count):
            if weight_hr is None:
                m_bar = h_bar[u]
            else:
                operand = [part.astype(dtype) for part in h_bar]
                m_bar = sum_of_products(operand, weight_hr, u, precision)
            z_bar_u, c_bar_u = _cell(ref, out, m_bar, state_bar[1][u], (t, rows), (units, u))
            z_bar.append(z_bar_u.astype(dtype))
            c_bar.append(c_bar_u)
        h_bar = [sum_of_products(z_bar, weight_hh, p, precision) for p in range(features.count)]
        return where_valid(valid, h_bar, state_bar[0]), where_valid(valid, c_bar, state_bar[1])

    first = partial(_first, ref, rows)
    h_bar, c_bar = lax.fori_loop(0, steps, step, (first("h_bar", features), first("c_bar", units)))
    for p, value in enumerate(h_bar):
        store(out["h_bar"], value, rows, (features, p))
    for u, value in enumerate(c_bar):
        store(out["c_bar"], value, rows, (units, u))


def _first(ref: Any, rows: Any, name: str, axis: Any) -> tuple:
    tiles = (load(ref[name], rows, (axis, number)) for number in range(axis.count))
    return tuple(tile.astype(jnp.float32) for tile in tiles)


def _cell(
    ref: Any, out: Any, m_bar: jax.Array, c_bar: jax.Array, where: tuple, units: tuple
) -> tuple[jax.Array, jax.Array]:
    """One tile of units (R, N): the cotangents of its gates side by side (R, 4N), and of the c before.

    The derivative of a step that is not valid is zero, and so is what is made of it here.
    """
    by_i, by_f, by_g, by_o = (
        load(ref["by_gates"], *where, (*units, gate * units[0].size)) for gate in range(GATES)
    )
    c_bar = c_bar + load(ref["m_by_c"], *where, units) * m_bar
    i_bar, f_bar, g_bar, o_bar = z_bar = by_i * c_bar, by_f * c_bar, by_g * c_bar, by_o * m_bar
    for gate, value in enumerate(z_bar):
        store(out["z_bar"], value, *where, (*units, gate * units[0].size))
    pairs = jnp.stack([jnp.stack([i_bar, g_bar], -1), jnp.stack([f_bar, o_bar], -1)], -1)
    return pairs.reshape(m_bar.shape[0], -1), load(ref["f"], *where, units) * c_bar
