"""The oracle as a reference of an LSTM: its results, its derivative, and the effect of rounding on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxlstm.check.cases.case import Array, Case, Results
from jaxlstm.check.cases.rounding import Rounding
from jaxlstm.check.reference import oracle
from jaxlstm.check.reference.oracle import (
    DirectionRun,
    OracleCall,
    OracleRun,
    Weights,
    running,
    suffix,
    weights_of,
)
from jaxlstm.layer.config import LSTMConfig


@dataclasses.dataclass(frozen=True)
class OracleLSTM:
    """The oracle with the parameters of one LSTM, under torch's names."""

    params: Mapping[str, Any]
    config: LSTMConfig
    equations: oracle.Equations = oracle.CORRECT
    name = "oracle"
    dtype = None
    chaotic = 1e4

    def call(self, case: Case, dtype: Any = np.float64) -> OracleCall:
        """Return the call of the oracle for a case."""
        arguments = (self.params, case.inputs, case.initial_state, case.seq_lengths, self.config)
        return OracleCall.of(*arguments, dtype=dtype, equations=self.equations)

    @np.errstate(all="ignore")
    def run(self, case: Case, dtype: Any = np.float64, *, gradients: bool = False) -> Results:
        """Return the results on a case, computed in ``dtype``."""
        call = self.call(case, dtype)
        run = call.run()
        results = Results(run.results)
        if not gradients:
            return results
        d_out, d_h, d_c = (case.cotangents[name] for name in results.outputs)
        by_name = backward(call, run, (d_out, d_h, d_c))
        if case.initial_state is None:
            del by_name["h_0"], by_name["c_0"]
        return dataclasses.replace(results, gradients=by_name)

    def rounded(self, dtype: Any) -> OracleLSTM:
        """Return the oracle with its parameters rounded to ``dtype``."""
        return dataclasses.replace(
            self, params={n: np.asarray(a).astype(dtype) for n, a in self.params.items()}
        )

    def perturbed(self, case: Case, rounding: Rounding, *, gradients: bool) -> Results:
        """Return the results after a change of every number of the call.

        Every sigmoid changes by half of it: if its size is an ulp, by the spacing of the numbers below 1.
        Many libraries compute sigmoid through tanh, so a gate near 0 has an absolute error of that size.
        An LSTM decides nothing, so that whole numbers move too.
        """
        rounding = dataclasses.replace(rounding, whole="except zeros")

        def perturbed(a: Any) -> Array:
            return rounding.of_weight(np.asarray(a).astype(np.float64))

        def sigmoid(z: Array) -> Array:
            return oracle.sigmoid(z) + rounding.size / 2 * rounding.rng.choice([-1.0, 1.0], z.shape)

        case = case.map(perturbed)
        params = {name: perturbed(a) for name, a in self.params.items()}
        equations = dataclasses.replace(oracle.CORRECT, sigmoid=sigmoid)
        return OracleLSTM(params, self.config, equations).run(case, gradients=gradients)

    def right_runs(self, case: Case, dtype: Any, *, gradients: bool) -> list[Results]:
        """Evaluate the equations in ``dtype`` in two ways.

        The first follows the text of the equations. The second computes sigmoid through tanh, which has an
        absolute error where exp has a relative error, and adds up products in the reverse order. Half
        precision is computed in float32 and rounded, as in torch and jaxlstm.
        """
        compute = np.promote_types(dtype, np.float32)
        half = compute.type(0.5)
        reordered = oracle.Equations(
            sigmoid=lambda z: half + half * np.tanh(half * z),
            product=lambda x, w: np.ascontiguousarray(x[:, ::-1]) @ w[:, ::-1].T,
        )
        runners = [OracleLSTM(self.params, self.config, eq) for eq in (oracle.CORRECT, reordered)]
        return [runner.run(case, compute, gradients=gradients).astype(dtype) for runner in runners]

    def with_other_tables(self, case: Case, rng: np.random.Generator, *, weights: bool = False) -> None:
        """Return None: an LSTM has no tables."""


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
