"""The derivative of the oracle, by backpropagation through time."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxlstm.check.reference.oracle import (
    DirectionRun,
    OracleCall,
    OracleRun,
    Weights,
    running,
    suffix,
    weights_of,
)

Array = np.ndarray


def backward(call: OracleCall, run: OracleRun, cotangents: tuple[Any, Any, Any]) -> dict[str, Array]:
    """Return the gradients of <cotangents, (outputs, h_n, c_n)> by parameter, "inputs", "h_0" and "c_0".

    ``run`` is the forward pass with the correct equations. Cotangents in the padding are ignored.
    """
    config = call.config
    d_out, d_h, d_c = (np.asarray(a).astype(run.outputs.dtype) for a in cotangents)
    d_h_0, d_c_0 = np.zeros_like(d_h), np.zeros_like(d_c)
    gradients: Weights = {}
    for layer in reversed(range(config.num_layers)):
        # Both directions read the same input, so their gradients add up.
        d_inputs = np.zeros_like(run.record[layer][0].inputs)
        for reverse, direction in enumerate(run.record[layer]):
            slot = layer * config.num_directions + reverse
            w = weights_of(call.params, config, layer, bool(reverse))
            part = slice(reverse * config.h_size, (reverse + 1) * config.h_size)
            d_w, d_x, d_h_0[slot], d_c_0[slot] = _direction_backward(
                w, direction, d_out[..., part], d_h[slot], d_c[slot], call.lengths, bool(reverse)
            )
            d_inputs += d_x
            end = suffix(config, layer, bool(reverse))
            gradients |= {name + end: value for name, value in d_w.items()}
        d_out = d_inputs
    by_parameter = {name: gradients[name] for name in call.params}
    return {**by_parameter, "inputs": d_out, "h_0": d_h_0, "c_0": d_c_0}


def _direction_backward(
    w: Weights, run: DirectionRun, d_out: Array, d_h: Array, d_c: Array, lengths: Array, reverse: bool
) -> tuple[Weights, Array, Array, Array]:
    """Return the gradients of one direction's weights, inputs and initial state."""
    d_w = {name: np.zeros_like(value) for name, value in w.items()}
    d_x, d_h, d_c = np.zeros_like(run.inputs), d_h.copy(), d_c.copy()
    for t, rows in reversed(running(lengths, reverse)):
        x, h_prev, c_prev = (a[t, rows] for a in (run.inputs, run.h_prev, run.c_prev))
        i, f, g, o, c, _ = (a[t, rows] for a in run.steps)
        tanh_c = np.tanh(c)
        d_m = d_out[t, rows] + d_h[rows]
        if "weight_hr" in w:
            d_w["weight_hr"] += d_m.T @ (o * tanh_c)
            d_m = d_m @ w["weight_hr"]
        d_cell = d_c[rows] + d_m * o * (1 - tanh_c**2)
        d_z = np.concatenate(
            [
                d_cell * g * i * (1 - i),
                d_cell * c_prev * f * (1 - f),
                d_cell * i * (1 - g**2),
                d_m * tanh_c * o * (1 - o),
            ],
            axis=-1,
        )
        d_w["weight_ih"] += d_z.T @ x
        d_w["weight_hh"] += d_z.T @ h_prev
        for name in {"bias_ih", "bias_hh"} & d_w.keys():
            d_w[name] += d_z.sum(0)
        d_x[t, rows] = d_z @ w["weight_ih"]
        d_h[rows], d_c[rows] = d_z @ w["weight_hh"], d_cell * f
    return d_w, d_x, d_h, d_c
