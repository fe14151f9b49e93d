r"""The step residual: the error of each single step, relative to a bound on its rounding error.

The port takes one step from given states; many states form the rows of one batch. The same step is
recomputed in float64 from the port's own values: layer k reads the port's results for layer k-1. The
difference is divided by the bound. A ratio below 1 is rounding. A wrong formula, a bias off by one part
in a thousand and a product in TF32 all exceed 1. Unlike a bound on a whole sequence, which becomes vacuous,
the bound does not grow with the number of steps.

With unit roundoff u, the bound follows the equations. A sum of n products has an error of at most
:math:`\gamma_n \sum |w| |x|`, with :math:`\gamma_n = n u / (1 - n u)` (Higham, Accuracy and Stability of
Numerical Algorithms, 2nd ed., 3.1). Where it is smaller, :math:`6 \sqrt n u` takes the place of
:math:`\gamma_n`; it holds with very high probability (Higham and Mary 2019, SIAM J. Sci. Comput. 41(5),
theorem 2.4). A function multiplies the error of its argument by its steepest slope on the interval and adds
up to ACTIVATION u. Nothing is linearized.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from jaxlstm.check.cases.case import Array, Case, Results
from jaxlstm.check.criteria.criterion import Measurement, worst_of
from jaxlstm.check.reference import oracle
from jaxlstm.check.reference.oracle_lstm import OracleLSTM

ACTIVATION = 10.0
"""Error allowed to sigmoid and tanh, in u. XLA's tanh on a CPU reaches 4.4 ulp, or 8.8 u."""

CONFIDENCE = 6.0


def step_residual(
    run: Callable[[Case], Results], reference: OracleLSTM, cases: Sequence[Case], dtype: Any
) -> Measurement | None:
    """Measure the worst residual, in units of its bound, over every step of some cases.

    The steps start from the oracle's states on the cases, rounded to ``dtype``. ``run`` runs the port on a
    case; the port must take an initial state. The result is None if the port does not return h_n and c_n in
    the expected shapes.
    """
    reference, config = reference.rounded(dtype).rounded(np.float64), reference.config
    case = _one_step_case(reference, cases).astype(dtype)
    outputs = run(case).outputs
    if any(outputs.get(f"{s}_n", np.empty(0)).shape != case.arrays[f"{s}_0"].shape for s in "hc"):
        return None
    h_0, c_0, h_n, c_n = (
        np.asarray(a, np.float64)
        for a in (case.arrays["h_0"], case.arrays["c_0"], outputs["h_n"], outputs["c_n"])
    )
    x = case.inputs[0].astype(np.float64)
    residuals: list[Measurement] = []
    for layer in range(config.num_layers):
        slots = range(layer * config.num_directions, (layer + 1) * config.num_directions)
        for reverse, slot in enumerate(slots):
            w = oracle.weights_of(reference.params, config, layer, bool(reverse))
            place = f"layer {layer}{' reverse' if reverse else ''}"
            states = h_0[slot], c_0[slot], h_n[slot], c_n[slot]
            residuals += _direction_residuals(w, x, *states, dtype, place)
        x = np.concatenate([h_n[slot] for slot in slots], axis=-1)
    return worst_of(residuals[::-1])


def _one_step_case(reference: OracleLSTM, cases: Sequence[Case]) -> Case:
    """Return a case of a single time step whose rows are all the steps of the oracle on ``cases``."""
    parts: dict[str, list[Array]] = {"inputs": [], "h_0": [], "c_0": []}
    for case in cases:
        runs = [run for layer in reference.call(case).run().record for run in layer]
        parts["inputs"].append(case.inputs[case.valid][None])
        parts["h_0"].append(np.stack([run.h_prev[case.valid] for run in runs]))
        parts["c_0"].append(np.stack([run.c_prev[case.valid] for run in runs]))
    return Case("one step each", {name: np.concatenate(a, axis=1) for name, a in parts.items()})


def _direction_residuals(
    w: oracle.Weights, x: Array, h_0: Array, c_0: Array, h_n: Array, c_n: Array, dtype: Any, place: str
) -> Iterator[Measurement]:
    """Yield the worst residual of h and of c of one direction of one layer."""
    with np.errstate(invalid="ignore", over="ignore"):  # Weights may not be finite.
        step = oracle.cell(oracle.CORRECT, w, x, h_0, c_0)
        h_bound, c_bound = step_bound(w, x, h_0, c_0, step, dtype)
    for name, ours, exact, bound in (("h", h_n, step.h, h_bound), ("c", c_n, step.c, c_bound)):
        ratio = _in_units(ours, exact, bound)
        row, unit = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
        yield Measurement(float(ratio[row, unit]), 1.0, f"{name}, {place}, unit {unit}")


def step_bound(
    w: oracle.Weights, x: Array, h: Array, c: Array, step: oracle.Step, dtype: Any
) -> tuple[Array, Array]:
    """Bound the rounding error of h and c of one step in ``dtype``; ``step`` is the step in float64."""
    info = ml_dtypes.finfo(dtype)
    # A backend may flush subnormal numbers to zero.
    u, tiny = float(info.eps) / 2, 8 * float(info.smallest_normal)
    i, f, g, o, c_next, _ = step
    z = x @ w["weight_ih"].T + h @ w["weight_hh"].T
    size = np.abs(x) @ np.abs(w["weight_ih"]).T + np.abs(h) @ np.abs(w["weight_hh"]).T
    if "bias_ih" in w:
        z = z + w["bias_ih"] + w["bias_hh"]
        size = size + np.abs(w["bias_ih"]) + np.abs(w["bias_hh"])
    d_z = np.split(gamma(x.shape[-1] + h.shape[-1] + 3, u) * size + tiny, 4, axis=-1)
    z_i, z_f, z_g, z_o = np.split(z, 4, axis=-1)
    d_i, d_f, d_o = (
        _propagated(_sigmoid_slope, zs, d, u)
        for zs, d in zip((z_i, z_f, z_o), (d_z[0], d_z[1], d_z[3]), strict=True)
    )
    d_g = _propagated(_tanh_slope, z_g, d_z[2], u)
    d_c = np.abs(c) * d_f + np.abs(g) * d_i + i * d_g + d_i * d_g
    d_c += gamma(3, u) * (np.abs(f * c) + np.abs(i * g)) + tiny
    tanh_c = np.tanh(c_next)
    d_tanh = _propagated(_tanh_slope, c_next, d_c, u)
    d_h = np.abs(tanh_c) * d_o + o * d_tanh + d_o * d_tanh + gamma(2, u) * np.abs(o * tanh_c) + tiny
    if "weight_hr" in w:
        absolute = np.abs(w["weight_hr"]).T
        d_h = d_h @ absolute + gamma(c.shape[-1] + 1, u) * (np.abs(o * tanh_c) @ absolute) + tiny
    return d_h, d_c


def gamma(n: int, u: float) -> float:
    """Return the relative error bound of a sum of n products."""
    worst_case = n * u / (1 - n * u) if n * u < 1 else np.inf
    return min(worst_case, CONFIDENCE * np.sqrt(n) * u)


def _propagated(slope: Callable[[Array], Array], z: Array, d_z: Array, u: float) -> Array:
    """Bound the error of a function whose argument is off by up to ``d_z``."""
    nearest = np.sign(z) * np.maximum(np.abs(z) - d_z, 0)  # Both slopes are steepest at zero.
    return np.minimum(slope(nearest) * d_z, 2.0) + ACTIVATION * u


def _sigmoid_slope(z: Array) -> Array:
    s = oracle.sigmoid(z)
    return s * (1 - s)


def _tanh_slope(z: Array) -> Array:
    return 1 - np.tanh(z) ** 2


def _in_units(ours: Array, exact: Array, bound: Array) -> Array:
    """Return the error in units of the bound. Equal infinities and NaN in both have no error."""
    is_equal = (ours == exact) | (np.isnan(ours) & np.isnan(exact))
    bound = np.where(np.isnan(bound), np.inf, bound)
    with np.errstate(invalid="ignore"):
        ratio = np.where(is_equal, 0.0, np.abs(ours - exact) / bound)
    return np.where(np.isnan(ratio), np.inf, ratio)
