"""The two passes over time on a TPU, each in one kernel.

The grid iterates over blocks of time steps, in the opposite order in the backward pass. The steps of a block
run one by one, with the state, or its cotangents, in scratch memory. The forward pass computes the input
projection of a block in one product and leaves it in scratch memory: the pre-activations, four times as wide
as the state, never leave VMEM. After the backward pass, XLA computes the gradients of the weights and the
inputs, each with one large product.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxlstm.kernels.primitive import Results
from jaxlstm.kernels.tpu.plan import GATES, Plan, call, crop, crop_gates, pad, pad_gates, plan_call, resident
from jaxlstm.kernels.tpu.products import product
from jaxlstm.layer.cell import StepDerivative, evaluate_step
from jaxlstm.layer.precision import Precision, gate_dtype


def forward_pass(
    params: Any,
    inputs: Any,
    state: Any,
    valid: Any,
    out: dict[str, Any],
    *,
    reverse: bool,
    precision: Precision,
    interpret: bool = False,
) -> Results:
    """Run the forward pass, see :class:`jaxlstm.kernels.primitive.PlatformKernels`."""
    plan = plan_call(params, inputs, state, precision)
    if plan is None:
        return None
    units, dtype = state.c.shape[1], inputs.dtype
    gates, by_gates = GATES * plan.units, partial(pad_gates, units=plan.units)
    over_time = partial(plan.over_time, backwards=reverse)
    operands = {
        "x": (pad(inputs, plan.batch, plan.features), over_time(plan.features)),
        "h": (pad(state.h, plan.batch, plan.h_features), plan.state(plan.h_features)),
        "c": (pad(state.c, plan.batch, plan.units), plan.state(plan.units)),
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
    padded_out = {
        name: plan.out(shape, widths.get(name, plan.units), backwards=reverse) for name, shape in out.items()
    }
    scratch = [
        pltpu.VMEM((plan.steps, plan.rows, gates), jnp.float32),
        pltpu.VMEM((plan.rows, plan.h_features), dtype),
        pltpu.VMEM((plan.rows, plan.units), dtype),
    ]
    kernel = partial(_forward_kernel, plan=plan, reverse=reverse)
    arrays = call(kernel, plan, operands, padded_out, scratch, interpret)
    if "by_gates" in arrays:
        arrays["by_gates"] = crop_gates(arrays["by_gates"], units)
    return {name: crop(x, out[name]) for name, x in arrays.items()}


def _forward_kernel(ref: Any, out: Any, gates: Any, h: Any, c: Any, *, plan: Plan, reverse: bool) -> None:
    """Run one block of time steps. ``gates``, ``h`` and ``c`` are scratch memory."""

    @pl.when(pl.program_id(1) == 0)
    def begin() -> None:
        h[...], c[...] = ref["h"][...], ref["c"][...]

    x = ref["x"][...].reshape(-1, plan.features)
    x_gates = product(x, ref["weight_ih"], plan.parts)
    if "bias" in ref:
        x_gates = x_gates + ref["bias"][...]
    gates[...] = x_gates.reshape(gates.shape)

    def step(t: Any) -> None:
        z = gates[t] + product(h[...], ref["weight_hh"], plan.parts)
        values = evaluate_step(z, c[...].astype(z.dtype))
        m = values.m.astype(h.dtype)
        new_h, new_c = m.astype(z.dtype), values.c_next
        if "weight_hr" in ref:
            new_h = product(m, ref["weight_hr"], plan.parts)
        stored = {"outputs": new_h, "m": m.astype(z.dtype)}
        if "f" in out:
            stored |= values.derivative()._asdict()
        if "valid" in ref:
            valid = ref["valid"][t] > 0
            new_h = jnp.where(valid, new_h, h[...].astype(z.dtype))
            new_c = jnp.where(valid, new_c, c[...].astype(z.dtype))
            stored = {name: jnp.where(valid, value, 0.0) for name, value in stored.items()}
        h[...], c[...] = new_h.astype(h.dtype), new_c.astype(c.dtype)
        for name in stored.keys() & out.keys():
            out[name][t] = stored[name].astype(out[name].dtype)

    plan.each_step(step, backwards=reverse)
    out["h"][...], out["c"][...] = h[...], c[...]


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
    """Run the backward pass, the transpose of :func:`jaxlstm.layer.scan.outputs_tangent`."""
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
    kernel = partial(_backward_kernel, plan=plan, reverse=reverse)
    arrays = call(kernel, plan, operands, padded_out, scratch, interpret)
    arrays["z_bar"] = crop_gates(arrays["z_bar"], state_bar.c.shape[1])
    return {name: crop(x, out[name]) for name, x in arrays.items()}


def _backward_kernel(ref: Any, out: Any, h: Any, c: Any, *, plan: Plan, reverse: bool) -> None:
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
