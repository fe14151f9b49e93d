"""The oracle and its derivative against torch in float64, and its independence of the layer."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

from jaxlstm.check.cases import lstm as cases
from jaxlstm.check.reference import oracle
from jaxlstm.check.reference.oracle_lstm import OracleLSTM
from jaxlstm.check.reference.torch_lstm import TorchLSTM
from testing.verification import CONFIGS, STRONG, needs_torch, random_params


@needs_torch
@pytest.mark.parametrize("name", CONFIGS)
def test_agrees_with_torch(name):
    config = CONFIGS[name]
    params = random_params(config, dtype=np.float64)
    for case in cases.standard_cases(config, seed=1):
        ours = OracleLSTM(params, config).run(case, gradients=case.differentiate)
        theirs = TorchLSTM(params, config).run(case, np.float64, gradients=case.differentiate)
        rtol = 1e-15 if case.scale > 1 else 0  # the spacing of large numbers is above 1e-14
        for (leaf, a), (_, b) in zip(ours.outputs.items(), theirs.outputs.items(), strict=True):
            np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-14, err_msg=f"{case.name} {leaf}")
        if not case.differentiate:
            continue
        assert ours.gradients is not None
        assert theirs.gradients is not None
        assert ours.gradients.keys() == theirs.gradients.keys()
        for leaf, a in ours.gradients.items():
            b = theirs.gradients[leaf]
            error = np.max(np.abs(a - b)) / np.max(np.abs(b))
            assert error <= 1e-12, f"{case.name} {leaf}"


def test_default_initial_state_is_zero():
    params = random_params(STRONG)
    case = cases.ordinary_case(STRONG)
    zeros = (np.zeros(STRONG.state_shapes(5)[0]), np.zeros(STRONG.state_shapes(5)[1]))
    reference, without_state = OracleLSTM(params, STRONG), case.without("h_0", "c_0")
    left_out = reference.call(without_state).run()
    given = reference.call(case.with_arrays(h_0=zeros[0], c_0=zeros[1])).run()
    assert np.array_equal(left_out.outputs, given.outputs)
    assert np.array_equal(left_out.c_n, given.c_n)
    without = reference.run(without_state, gradients=True)
    assert list(without.gradients or ()) == [*params, "inputs"]
    assert OracleLSTM(params, STRONG).run(case).gradients is None


def test_record_equals_the_run():
    """The recorded h is the output, and each step starts from the state that the previous one left."""
    config = CONFIGS["bidirectional"]
    case = cases.ordinary_case(config)
    run = OracleLSTM(random_params(config), config).call(case).run()
    forward, backward = run.record[-1]
    assert np.array_equal(run.outputs, np.concatenate([forward.steps.h, backward.steps.h], -1))
    assert case.initial_state is not None
    assert case.seq_lengths is not None
    for row, length in enumerate(case.seq_lengths):
        assert np.array_equal(forward.h_prev[1:length, row], forward.steps.h[: length - 1, row])
        assert np.array_equal(backward.c_prev[: length - 1, row], backward.steps.c[1:length, row])
        assert np.array_equal(backward.c_prev[length - 1, row], case.initial_state[1][-1, row])
        assert np.array_equal(backward.h_n[row], backward.steps.h[0, row])
        assert not forward.steps.h[length:, row].any()


def test_computes_in_the_given_dtype():
    config = CONFIGS["plain"]
    case = cases.ordinary_case(config)
    params = random_params(config)
    single = OracleLSTM(params, config).run(case, dtype=np.float32, gradients=True)
    double = OracleLSTM(params, config).run(case, gradients=True)
    assert {a.dtype for a in single.arrays().values()} == {np.dtype(np.float32)}
    for name, value in double.arrays().items():
        assert np.allclose(single.arrays()[name], value, rtol=1e-4, atol=1e-5)
        assert not np.array_equal(single.arrays()[name], value)


def test_shares_no_code_with_the_layer():
    source = Path(oracle.__file__).read_text()
    imported = {
        node.module
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and node.module
    } | {
        alias.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    ours = {name for name in imported if name.startswith(("jaxlstm", "jax"))}
    assert ours == {"jaxlstm.layer.config"}
