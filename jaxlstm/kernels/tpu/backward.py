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

from jaxlstm.cell import LSTMState
from jaxlstm.kernels.platforms import plain_cotangent
from jaxlstm.kernels.tpu.plan import (
    GATES,
    Plan,
    call,
    cut_gates,
    fill,
    fill_gates,
    plan_of,
)
from jaxlstm.kernels.tpu.products import product


def cotangent(
    params: Any,
    derivative: Any,
    valid: Any,
    cotangents: tuple,
    *,
    projected: bool,
    reverse: bool,
    precision: Any,
    interpret: bool = False,
) -> Any:
    """The transpose of :func:`jaxlstm.scan.run_tangent`: of dz, of dW_hr m, and of the first state."""
    outputs_bar, state_bar = cotangents
    plan = plan_of(params, outputs_bar, state_bar, precision)
    if plan is None:
        static = {"projected": projected, "reverse": reverse, "precision": precision}
        return plain_cotangent(params, derivative, valid, cotangents, **static)
    (batch, units), h_features = state_bar.c.shape, state_bar.h.shape[1]
    gates = GATES * plan.units
    over_time = partial(plan.over_time, backwards=not reverse)
    operands = {
        "outputs": (fill(outputs_bar, plan.batch, plan.h_features), over_time(plan.h_features)),
        "h": (fill(state_bar.h, plan.batch, plan.h_features), plan.state(plan.h_features)),
        "c": (fill(state_bar.c, plan.batch, plan.units), plan.state(plan.units)),
        "weight_hh": plan.weight(
            fill_gates(params["weight_hh"].T, plan.units).T, gates, plan.h_features
        ),
    }
    for name, x in derivative._asdict().items():
        x = fill_gates(x, plan.units) if name == "by_gates" else fill(x, plan.units)
        operands[name] = fill(x, plan.batch, x.shape[-1]), over_time(x.shape[-1])
    if "weight_hr" in params:
        operands["weight_hr"] = plan.weight(params["weight_hr"], plan.h_features, plan.units)
    if valid is not None:
        operands["valid"] = plan.mask(valid, backwards=not reverse)
    out = {
        "z": plan.out_over_time(gates, derivative.f.dtype, backwards=not reverse),
        "h": plan.out_state(plan.h_features, state_bar.h.dtype),
        "c": plan.out_state(plan.units, state_bar.c.dtype),
    }
    if projected:
        out["h_projection"] = plan.out_over_time(
            plan.h_features, outputs_bar.dtype, backwards=not reverse
        )
    scratch = [pltpu.VMEM((plan.rows, n), jnp.float32) for n in (plan.h_features, plan.units)]
    kernel = partial(_kernel, plan=plan, reverse=reverse)
    found = call(kernel, plan, operands, out, scratch, interpret)
    z = cut_gates(found["z"][:, :batch], units)
    h_projection = found["h_projection"][:, :batch, :h_features] if projected else None
    return z, h_projection, LSTMState(found["h"][:batch, :h_features], found["c"][:batch, :units])


def _kernel(ref: Any, out: Any, h: Any, c: Any, *, plan: Plan, reverse: bool) -> None:
    """One block of time; h and c are cotangents, of the state behind the step at hand."""

    @pl.when(pl.program_id(1) == 0)
    def begin() -> None:
        h[...], c[...] = ref["h"][...].astype(h.dtype), ref["c"][...].astype(c.dtype)

    def step(t: Any) -> None:
        h_bar = h[...] + ref["outputs"][t].astype(h.dtype)
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
        out["z"][t] = z_bar.astype(out["z"].dtype)
        if "h_projection" in out:
            out["h_projection"][t] = h_bar.astype(out["h_projection"].dtype)

    plan.each_step(step, backwards=not reverse)
    out["h"][...], out["c"][...] = h[...].astype(out["h"].dtype), c[...].astype(out["c"].dtype)
