"""The backward pass: cotangents of the pre-activations from cotangents of the outputs and the last state.

This is the transpose of :func:`jaxlstm.layer.scan.outputs_tangent`, laid out as in
:mod:`jaxlstm.kernels.tpu.forward`. The grid iterates over time in the opposite order, and the cotangents of
h and c stay in scratch memory in float32. XLA computes the gradients of the weights and the inputs
afterwards, each with one large product.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxlstm.kernels.platforms import Results
from jaxlstm.kernels.tpu.plan import GATES, Plan, call, crop, crop_gates, pad, pad_gates, plan_call
from jaxlstm.kernels.tpu.products import product
from jaxlstm.layer.cell import StepDerivative
from jaxlstm.layer.precision import Precision


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
    interpret: bool = False,
) -> Results:
    """Run the backward pass, see :class:`jaxlstm.kernels.platforms.PlatformKernels`."""
    outputs_bar, state_bar = cotangents
    plan = plan_call(weights, outputs_bar, state_bar, precision)
    if plan is None:
        return None
    gates = GATES * plan.units
    over_time = partial(plan.over_time, backwards=not reverse)
    operands = {
        "outputs_bar": (pad(outputs_bar, plan.batch, plan.h_features), over_time(plan.h_features)),
        "h_bar": (pad(state_bar.h, plan.batch, plan.h_features), plan.state(plan.h_features)),
        "c_bar": (pad(state_bar.c, plan.batch, plan.units), plan.state(plan.units)),
        "weight_hh": plan.weight(pad_gates(weights["weight_hh"].T, plan.units).T, gates, plan.h_features),
    }
    for name, x in derivative._asdict().items():
        x = pad_gates(x, plan.units) if name == "by_gates" else pad(x, plan.units)
        operands[name] = pad(x, plan.batch, x.shape[-1]), over_time(x.shape[-1])
    if "weight_hr" in weights:
        operands["weight_hr"] = plan.weight(weights["weight_hr"], plan.h_features, plan.units)
    if valid is not None:
        operands["valid"] = plan.mask(valid, backwards=not reverse)
    widths = {"z_bar": gates, "c_bar": plan.units}
    padded_out = {
        name: plan.out(shape, widths.get(name, plan.h_features), backwards=not reverse)
        for name, shape in out.items()
    }
    scratch = [pltpu.VMEM((plan.rows, n), jnp.float32) for n in (plan.h_features, plan.units)]
    kernel = partial(_kernel, plan=plan, reverse=reverse)
    arrays = call(kernel, plan, operands, padded_out, scratch, interpret)
    arrays["z_bar"] = crop_gates(arrays["z_bar"], state_bar.c.shape[1])
    return {name: crop(x, out[name]) for name, x in arrays.items()}


def _kernel(ref: Any, out: Any, h: Any, c: Any, *, plan: Plan, reverse: bool) -> None:
    """Run one block of time steps. The scratch memory ``h`` and ``c`` holds the cotangents of the state."""

    @pl.when(pl.program_id(1) == 0)
    def begin() -> None:
        h[...], c[...] = ref["h_bar"][...].astype(h.dtype), ref["c_bar"][...].astype(c.dtype)

    def step(t: Any) -> None:
        h_bar = h[...] + ref["outputs_bar"][t].astype(h.dtype)
        m_bar = h_bar
        if "weight_hr" in ref:
            m_bar = product(h_bar, ref["weight_hr"], plan.parts)
        derivative = StepDerivative(*(ref[name][t] for name in StepDerivative._fields))
        z_bar, c_bar = derivative.transpose(m_bar, c[...])
        before = product(z_bar, ref["weight_hh"], plan.parts), c_bar
        if "valid" in ref:
            # At other steps the derivative is zero, hence z_bar too, and the state passes through unchanged.
            valid = ref["valid"][t] > 0
            before = tuple(jnp.where(valid, x, kept[...]) for x, kept in zip(before, (h, c), strict=True))
            h_bar = jnp.where(valid, h_bar, 0.0)
        h[...], c[...] = before
        out["z_bar"][t] = z_bar.astype(out["z_bar"].dtype)
        if "projection_bar" in out:
            out["projection_bar"][t] = h_bar.astype(out["projection_bar"].dtype)

    plan.each_step(step, backwards=not reverse)
    for name, last in (("h_bar", h), ("c_bar", c)):
        out[name][...] = last[...].astype(out[name].dtype)
