"""Gates recovered from single steps, and the tolerance for a wrong gate."""

from __future__ import annotations

import numpy as np
import pytest

from jaxlstm.check.cases import lstm as cases
from jaxlstm.check.cases.results import Results
from jaxlstm.check.diagnosis.locate import gates_of_one_step
from jaxlstm.check.reference.oracle_lstm import OracleLSTM
from jaxlstm.check.report.difference import differing_units
from jaxlstm.layer.config import LSTMConfig
from testing.verification import random_params

CONFIG = LSTMConfig(3, 4, num_layers=2, bidirectional=True)
PROJECTED = LSTMConfig(3, 4, num_layers=2, bidirectional=True, proj_size=2)


def one_step(config, slot, change=lambda results, case: results):
    """Return the recovered gates, and the oracle's recorded gates of a step from c_0 = 1."""
    params = random_params(config, dtype=np.float64)
    case = cases.ordinary_case(config)
    case = case.with_arrays(inputs=case.inputs[:1]).without("seq_lengths")

    def run(step):
        return change(OracleLSTM(params, config).run(step), step)

    case.arrays["c_0"][slot] = 1.0
    layer, direction = divmod(slot, 2)
    recorded = OracleLSTM(params, config).record(case).record[layer][direction].steps
    return gates_of_one_step(run, config, case, slot, None), recorded


@pytest.mark.parametrize("slot", range(4))
def test_gates_of_a_step(slot):
    measured, recorded = one_step(CONFIG, slot)
    assert list(measured) == ["f", "i*g", "o"]
    np.testing.assert_allclose(measured["f"], recorded.f[0], atol=1e-15)
    np.testing.assert_allclose(measured["i*g"], recorded.i[0] * recorded.g[0], atol=1e-15)
    np.testing.assert_allclose(measured["o"], recorded.o[0], rtol=1e-13)


def test_a_projection_hides_o():
    measured, recorded = one_step(PROJECTED, 3)
    assert list(measured) == ["f", "i*g"]
    np.testing.assert_allclose(measured["f"], recorded.f[0], atol=1e-15)


@pytest.mark.parametrize(("off", "gates"), [(1e-10, ["f", "i*g", "o"]), (1e-6, [])])
def test_no_gates_if_the_step_is_not_linear_in_c(off, gates):
    def add_quadratic_term(results, case):
        return results.with_outputs(c_n=results.outputs["c_n"] + off * np.square(case.arrays["c_0"]))

    assert list(one_step(CONFIG, 1, add_quadratic_term)[0]) == gates


def test_missing_states():
    assert one_step(CONFIG, 0, lambda results, case: Results({"h_n": results.outputs["h_n"]}))[0] == {}
    measured, _ = one_step(CONFIG, 0, lambda results, case: Results({"c_n": results.outputs["c_n"]}))
    assert list(measured) == ["f", "i*g"]


def test_gates_have_the_ports_dtype():
    def in_half_precision(results, case):
        return results.astype(np.float16)

    measured, recorded = one_step(CONFIG, 2, in_half_precision)
    assert {gate.dtype.name for gate in measured.values()} == {"float16"}
    np.testing.assert_allclose(measured["o"], recorded.o[0], rtol=5e-3)


def test_tolerance_is_relative_above_one():
    expected = np.array([0.5, 100.0, -100.0, 0.0, np.nan])
    assert differing_units(np.add(expected[:4], [5e-10, 5e-8, -5e-8, -5e-10]), expected[:4], None).size == 0
    assert differing_units(expected[:4] + 2e-7, expected[:4], None).tolist() == [0, 1, 2, 3]
    assert differing_units(np.array([1.1, 1.3]), np.ones(2), 0.2).tolist() == [1]
    assert differing_units(expected, expected, None).tolist() == [4]


@pytest.mark.parametrize(("dtype", "allowed"), [(np.float64, 1e-9), (np.float32, 1e-4), (np.float16, 2e-2)])
def test_tolerance_by_dtype(dtype, allowed):
    exact = np.zeros(2)
    assert differing_units(np.array([0.9 * allowed, 1.1 * allowed], dtype), exact, None).tolist() == [1]
