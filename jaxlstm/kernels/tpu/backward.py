"""The recurrence backwards: from the cotangents of outputs and last state to those of the gates.

The transpose of :func:`jaxlstm.scan.run_tangent`, laid out as :mod:`jaxlstm.kernels.tpu.forward`: the grid
walks over time against its order, the cotangents of h and c stay in scratch, in float32. What remains for XLA
is the gradients of weights and inputs, each one large product.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

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
)
from jaxlstm.kernels.tpu.products import product


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
    """As :class:`jaxlstm.kernels.contract.Kernels` says; None where there is no :func:`plan_of`."""
    outputs_bar, state_bar = cotangents
    plan = plan_of(weights, outputs_bar, state_bar, precision)
    if plan is None:
        return None
    gates = GATES * plan.units
    over_time = partial(plan.over_time, backwards=not reverse)
    operands = {
        "outputs_bar": (fill(outputs_bar, plan.batch, plan.h_features), over_time(plan.h_features)),
        "h_bar": (fill(state_bar.h, plan.batch, plan.h_features), plan.state(plan.h_features)),
        "c_bar": (fill(state_bar.c, plan.batch, plan.units), plan.state(plan.units)),
        "weight_hh": plan.weight(
            fill_gates(weights["weight_hh"].T, plan.units).T, gates, plan.h_features
        ),
    }
    for name, x in derivative._asdict().items():
        x = fill_gates(x, plan.units) if name == "by_gates" else fill(x, plan.units)
        operands[name] = fill(x, plan.batch, x.shape[-1]), over_time(x.shape[-1])
    if "weight_hr" in weights:
        operands["weight_hr"] = plan.weight(weights["weight_hr"], plan.h_features, plan.units)
    if valid is not None:
        operands["valid"] = plan.mask(valid, backwards=not reverse)
    widths = {"z_bar": gates, "c_bar": plan.units}
    filled = {
        name: plan.out(wanted, widths.get(name, plan.h_features), backwards=not reverse)
        for name, wanted in out.items()
    }
    scratch = [pltpu.VMEM((plan.rows, n), jnp.float32) for n in (plan.h_features, plan.units)]
    kernel = partial(_kernel, plan=plan, reverse=reverse)
    found = call(kernel, plan, operands, filled, scratch, interpret)
    found["z_bar"] = cut_gates(found["z_bar"], state_bar.c.shape[1])
    return {name: cut(x, out[name]) for name, x in found.items()}


def _kernel(ref: Any, out: Any, h: Any, c: Any, *, plan: Plan, reverse: bool) -> None:
    """One block of time; h and c are cotangents, of the state behind the step at hand."""

    @pl.when(pl.program_id(1) == 0)
    def begin() -> None:
        h[...], c[...] = ref["h_bar"][...].astype(h.dtype), ref["c_bar"][...].astype(c.dtype)

    def step(t: Any) -> None:
        h_bar = h[...] + ref["outputs_bar"][t].astype(h.dtype)
        m_bar = h_bar
        if "weight_hr" in ref:
            m_bar = product(h_bar, ref["weight_hr"], plan.parts)
        c_bar = c[...] + ref["m_by_c"][t] * m_bar
        z_bar = ref["by_gates"][t] * jnp.concatenate([c_bar, c_bar, c_bar, m_bar], axis=-1)
        before = product(z_bar, ref["weight_hh"], plan.parts), ref["f"][t] * c_bar
        if (
            "valid" in ref
        ):  # elsewhere the derivative is zero, and z_bar with it; the state stood still
            valid = ref["valid"][t] > 0
            before = tuple(
                jnp.where(valid, x, kept[...]) for x, kept in zip(before, (h, c), strict=True)
            )
            h_bar = jnp.where(valid, h_bar, 0.0)
        h[...], c[...] = before
        out["z_bar"][t] = z_bar.astype(out["z_bar"].dtype)
        if "projection_bar" in out:
            out["projection_bar"][t] = h_bar.astype(out["projection_bar"].dtype)

    plan.each_step(step, backwards=not reverse)
    for name, last in (("h_bar", h), ("c_bar", c)):
        out[name][...] = last[...].astype(out[name].dtype)
