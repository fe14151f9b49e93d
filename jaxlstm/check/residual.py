r"""The step residual: is each single step of a port within what rounding can do?

The port takes one step from given states, many at once as rows of a batch; the same step is recomputed
in float64 from the port's own previous numbers (layer k reads what the port gave for layer k-1), and
the difference is divided by a bound on the rounding error of one step. Below 1 is rounding; a wrong
formula, a bias off by a part in a thousand or a product in TF32 is above. It does not depend on the
number of time steps, as a bound on the whole sequence would (and would then be vacuous).

With unit roundoff u, the bound follows the equations. A sum of n products has an error of at most
:math:`\gamma_n \sum |w| |x|`, with :math:`\gamma_n = n u / (1 - n u)` (Higham, Accuracy and Stability of
Numerical Algorithms, 2nd ed., 3.1), or :math:`6 \sqrt n u` in its place where that is smaller, which
holds with all but certainty (Higham and Mary 2019, SIAM J. Sci. Comput. 41(5), theorem 2.4). A function
passes an error on with its steepest slope between here and there, and adds up to ACTIVATION u of its
own. Nothing is linearised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from jaxlstm.check import oracle
from jaxlstm.check.inputs import Case
from jaxlstm.check.place import run_oracle
from jaxlstm.check.port import Port
from jaxlstm.config import LSTMConfig

Array = np.ndarray

ACTIVATION = 10.0
"""Error allowed to sigmoid and tanh, in u: XLA's tanh on a CPU was measured at 4.4 ulp, or 8.8 u."""

CONFIDENCE = 6.0


class Residual(NamedTuple):
    """The worst residual in units of its bound, and where: which state, layer, direction, row, unit."""

    ratio: float
    where: str


def step_residual(
    port: Port,
    params: Mapping[str, Any],
    config: LSTMConfig,
    cases: Sequence[Case],
    dtype: Any,
    *,
    precision: str | None = "highest",
) -> Residual | None:
    """The worst step residual of a port that takes a state, over every step of some cases.

    The states stepped from are those of the oracle on the cases, rounded to ``dtype``. None if the port
    does not tell h_n and c_n, or gives them other shapes.
    """
    params = {name: np.asarray(a).astype(dtype).astype(np.float64) for name, a in params.items()}
    case = _one_step_case(params, config, cases).astype(dtype)
    answer = port.run(params, case, dtype, precision=precision)
    assert case.initial_state is not None
    if answer.h_n is None or answer.c_n is None:
        return None
    h_0, c_0, h_n, c_n = (
        np.asarray(a, np.float64) for a in (*case.initial_state, answer.h_n, answer.c_n)
    )
    if h_n.shape != h_0.shape or c_n.shape != c_0.shape:
        return None
    x = case.inputs[0].astype(np.float64)
    worst = Residual(0.0, "")
    for layer in range(config.num_layers):
        slots = range(layer * config.num_directions, (layer + 1) * config.num_directions)
        for reverse, slot in enumerate(slots):
            w = oracle.weights_of(params, config, layer, bool(reverse))
            with np.errstate(invalid="ignore", over="ignore"):  # of weights that are not finite
                step = oracle.cell(oracle.TRUE, w, x, h_0[slot], c_0[slot])
                bounds = step_bound(w, x, h_0[slot], c_0[slot], step, dtype)
            for name, ours, true, bound in zip(
                ("h", "c"), (h_n[slot], c_n[slot]), (step.h, step.c), bounds, strict=True
            ):
                ratio = _in_units(ours, true, bound)
                row, unit = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
                if ratio[row, unit] >= worst.ratio:
                    where = f"{name}, layer {layer}{' reverse' if reverse else ''}, unit {unit}"
                    worst = Residual(float(ratio[row, unit]), where)
        x = np.concatenate([h_n[slot] for slot in slots], axis=-1)
    return worst


def _in_units(ours: Array, true: Array, bound: Array) -> Array:
    """The distance in units of the bound; of weights that are not finite, what is alike has none."""
    alike = (ours == true) | (np.isnan(ours) & np.isnan(true))
    bound = np.where(np.isnan(bound), np.inf, bound)
    with np.errstate(invalid="ignore"):
        ratio = np.where(alike, 0.0, np.abs(ours - true) / bound)
    return np.where(np.isnan(ratio), np.inf, ratio)


def step_bound(
    w: oracle.Weights, x: Array, h: Array, c: Array, step: oracle.Step, dtype: Any
) -> tuple[Array, Array]:
    """How far the h and c of one step in ``dtype`` may be from ``step``, the same step in float64."""
    info = ml_dtypes.finfo(dtype)
    u, tiny = float(info.eps) / 2, 8 * float(info.smallest_normal)  # a backend may flush subnormals
    i, f, g, o, c_next, _ = step
    z = x @ w["weight_ih"].T + h @ w["weight_hh"].T
    size = np.abs(x) @ np.abs(w["weight_ih"]).T + np.abs(h) @ np.abs(w["weight_hh"]).T
    if "bias_ih" in w:
        z = z + w["bias_ih"] + w["bias_hh"]
        size = size + np.abs(w["bias_ih"]) + np.abs(w["bias_hh"])
    d_z = np.split(gamma(x.shape[-1] + h.shape[-1] + 3, u) * size + tiny, 4, axis=-1)
    z_i, z_f, z_g, z_o = np.split(z, 4, axis=-1)
    d_i, d_f, d_o = (
        _passed_on(_sigmoid_slope, zs, d, u)
        for zs, d in zip((z_i, z_f, z_o), (d_z[0], d_z[1], d_z[3]), strict=True)
    )
    d_g = _passed_on(_tanh_slope, z_g, d_z[2], u)
    d_c = np.abs(c) * d_f + np.abs(g) * d_i + i * d_g + d_i * d_g
    d_c += gamma(3, u) * (np.abs(f * c) + np.abs(i * g)) + tiny
    tanh_c = np.tanh(c_next)
    d_tanh = _passed_on(_tanh_slope, c_next, d_c, u)
    d_h = np.abs(tanh_c) * d_o + o * d_tanh + d_o * d_tanh + gamma(2, u) * np.abs(o * tanh_c) + tiny
    if "weight_hr" in w:
        absolute = np.abs(w["weight_hr"]).T
        d_h = d_h @ absolute + gamma(c.shape[-1] + 1, u) * (np.abs(o * tanh_c) @ absolute) + tiny
    return d_h, d_c


def gamma(n: int, u: float) -> float:
    """The relative error bound of a sum of n products: see the module's text."""
    certain = n * u / (1 - n * u) if n * u < 1 else np.inf
    return min(certain, CONFIDENCE * np.sqrt(n) * u)


def _passed_on(slope: Any, z: Array, d_z: Array, u: float) -> Array:
    """The error of a function whose argument is off by up to ``d_z``."""
    nearest = np.sign(z) * np.maximum(np.abs(z) - d_z, 0)  # both slopes are steepest at zero
    return np.minimum(slope(nearest) * d_z, 2.0) + ACTIVATION * u


def _sigmoid_slope(z: Array) -> Array:
    s = oracle.sigmoid(z)
    return s * (1 - s)


def _tanh_slope(z: Array) -> Array:
    return 1 - np.tanh(z) ** 2


def _one_step_case(params: Mapping[str, Any], config: LSTMConfig, cases: Sequence[Case]) -> Case:
    """One case of a single time step whose rows are all the steps of ``cases``, as the oracle took them."""
    inputs, states = [], []
    for case in cases:
        result = run_oracle(params, config, case)
        valid = case.valid
        runs = [run for layer in result.record for run in layer]
        inputs.append(case.inputs[valid])
        states.append([np.stack([run[k][valid] for run in runs]) for k in (1, 2)])
    x = np.concatenate(inputs)[None]
    h_0, c_0 = (np.concatenate([state[k] for state in states], axis=1) for k in (0, 1))
    zeros = (np.zeros((*x.shape[:2], config.output_size)), np.zeros_like(h_0), np.zeros_like(c_0))
    return Case("one step each", x, (h_0, c_0), None, zeros)
