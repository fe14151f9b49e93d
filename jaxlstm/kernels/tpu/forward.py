"""The forward pass: input projection, recurrent product and cell in one kernel.

The grid iterates over blocks of time steps. For each block, one product computes the input projection and
leaves it in scratch memory. Then the steps of the block run one by one, with h and c in scratch memory too.
HBM traffic is the inputs, the outputs and the weights, once each. The pre-activations, four times as wide as
the state, never leave VMEM.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxlstm.kernels.platforms import Results
from jaxlstm.kernels.tpu.plan import GATES, Plan, call, crop, crop_gates, pad, pad_gates, plan_call, resident
from jaxlstm.kernels.tpu.products import product
from jaxlstm.layer.cell import evaluate_step
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
    """Run the forward pass, see :class:`jaxlstm.kernels.platforms.PlatformKernels`."""
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
    kernel = partial(_kernel, plan=plan, reverse=reverse)
    arrays = call(kernel, plan, operands, padded_out, scratch, interpret)
    if "by_gates" in arrays:
        arrays["by_gates"] = crop_gates(arrays["by_gates"], units)
    return {name: crop(x, out[name]) for name, x in arrays.items()}


def _kernel(ref: Any, out: Any, gates: Any, h: Any, c: Any, *, plan: Plan, reverse: bool) -> None:
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
