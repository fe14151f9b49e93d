"""The oracle as a reference of an LSTM: its results, its gradients, and the effect of rounding on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxlstm.check.cases.case import Case
from jaxlstm.check.cases.results import Results
from jaxlstm.check.reference import oracle
from jaxlstm.check.reference.derivative import backward
from jaxlstm.layer.config import LSTMConfig

Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class OracleLSTM:
    """The oracle with the parameters of one LSTM, under torch's names."""

    params: Mapping[str, Any]
    config: LSTMConfig
    equations: oracle.Equations = oracle.CORRECT
    name = "oracle"
    dtype = None
    chaotic = 1e4

    def call(self, case: Case, dtype: Any = np.float64) -> oracle.OracleCall:
        """Return the call of the oracle for a case."""
        arguments = (self.params, case.inputs, case.initial_state, case.seq_lengths, self.config)
        return oracle.OracleCall.of(*arguments, dtype=dtype, equations=self.equations)

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

    def expected(self, case: Case, dtype: Any, truth: Results) -> Results:
        """Return the truth in ``dtype``."""
        with np.errstate(over="ignore"):
            return truth.astype(dtype)

    def perturbed(self, case: Case, size: float, rng: np.random.Generator, *, gradients: bool) -> Results:
        """Return the results after every number of the call has changed by a relative ``size``.

        Every sigmoid changes by half of it: if ``size`` is an ulp, by the spacing of the numbers below 1.
        Many libraries compute sigmoid through tanh, so a gate near 0 has an absolute error of that size.
        """

        def signs(a: Array) -> Array:
            return rng.choice([-1.0, 1.0], a.shape)

        def perturb(a: Any) -> Array:
            a = np.asarray(a).astype(np.float64)
            return a * (1 + size * signs(a))

        def sigmoid(z: Array) -> Array:
            return oracle.sigmoid(z) + size / 2 * signs(z)

        case = case.map(perturb)
        params = {name: perturb(a) for name, a in self.params.items()}
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
        ways = [OracleLSTM(self.params, self.config, way) for way in (oracle.CORRECT, reordered)]
        return [way.run(case, compute, gradients=gradients).astype(dtype) for way in ways]

    def with_other_tables(self, case: Case, rng: np.random.Generator) -> None:
        """Return None: an LSTM has no tables."""
