"""verify_cell, a single step of our cells and of foreign ones; verify_matrix, each combination judged."""

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm
from jaxlstm.check import verify_cell, verify_matrix
from jaxlstm.check.exceptions import PortError
from jaxlstm.check.reference import torch_lstm
from jaxlstm.cli.verdict import matrix_table
from jaxlstm.layer.config import LSTMCellConfig, LSTMConfig
from testing.verification import random_params, status
from testing.wrong_ports import WrongPort

CONFIG = LSTMConfig(3, 4)
PARAMS = random_params(CONFIG)


def matrix(port, config=CONFIG, params=PARAMS, **options):
    """Check one combination, without jit unless `modes` are given."""
    one = {"dtypes": ("float32",), "batches": (2,), "lengths": (3,), "modes": ("no jit",)}
    return verify_matrix(port, params, config, **{**one, **options})


def test_our_layer():
    steps = []
    report = verify_matrix(
        None,
        PARAMS,
        CONFIG,
        dtypes=("bfloat16", "float64"),
        batches=(1, 3),
        lengths=(1, 4),
        progress=lambda *step: steps.append(step),
    )
    assert report.ok, str(report)
    assert report.title == "jaxlstm.lstm, dtype x batch x length x jit"
    against = "torch, oracle" if torch_lstm.is_available() else "oracle"
    assert report.settings == {"config": repr(CONFIG), "seed": 0, "against": against}
    assert report.environment["jax matmul precision"] == "highest"
    assert ("torch" in report.environment) is torch_lstm.is_available()
    assert len(report.items) == 2 * 2 * 2 * 2
    assert len({item.name for item in report.items}) == 16
    assert [done for done, _, _ in steps] == list(range(17))
    lines = matrix_table(report.items).splitlines()
    assert len(lines) == 1 + 2 * 2 * 2
    assert lines[0].split() == ["1", "step", "4", "steps"]
    assert lines[2].startswith("bfloat16, batch 1, no jit ")
    assert all(line.count("ok") == 2 for line in lines[1:])
    # The last column is right-aligned.
    assert len({len(line.rstrip()) for line in lines}) == 1
    assert len(lines[0]) < 80


def test_port_wrong_in_one_dtype_and_batch():
    def port(x, state, lengths, *, params):
        outputs, final = jaxlstm.lstm(params, x, state, seq_lengths=lengths, config=CONFIG)
        wrong = x.dtype == "float32" and x.shape[1] == 3
        return outputs * (1.01 if wrong else 1.0), final

    report = verify_matrix(port, PARAMS, CONFIG, dtypes=("float32", "float64"), batches=(1, 3), lengths=(4,))
    failed = {item.name for item in report.failures}
    assert failed == {f"float32, batch 3, 4 steps, {mode}" for mode in ("jit", "no jit")}


def test_port_that_cannot_be_traced():
    report = matrix(WrongPort(CONFIG), modes=("jit", "no jit"))
    assert report.ok
    assert status(report) == {
        "float32, batch 2, 3 steps, jit": "untested",
        "float32, batch 2, 3 steps, no jit": "ok",
    }


def test_chaotic_case_is_untested():
    config = LSTMConfig(7, 4, num_layers=3, bidirectional=True, proj_size=3)
    report = matrix(WrongPort(config), config, random_params(config, 2015, scale=30.0), lengths=(100,))
    (item,) = report.items
    assert item.ok is None
    assert "one ulp grows" in item.detail
    # Nothing was tested.
    assert not report.ok


def test_rejects_invalid_arguments():
    with pytest.raises(ValueError, match="modes must be one or both of"):
        verify_matrix(None, PARAMS, CONFIG, modes=("pmap",))
    with pytest.raises(ValueError, match="lengths must be 1 or more"):
        verify_matrix(None, PARAMS, CONFIG, lengths=(3, 0))


CELL_CONFIG = LSTMCellConfig(3, 4)
CELL_PARAMS = random_params(CELL_CONFIG)


@pytest.mark.slow
def test_our_cell():
    step = jax.jit(lambda x, state, *, params: jaxlstm.lstm_cell(params, x, state))
    report = verify_cell(step, CELL_PARAMS, CELL_CONFIG)
    assert report.ok, str(report)
    assert report.title == "<lambda> in float32"
    assert {item.name for item in report.items if item.ok is None} == {"ragged lengths"}


def test_foreign_cell_with_foreign_params():
    """flax.linen's cell has transposed kernels per gate, one bias, and the carry (c, h)."""
    cell = flax.linen.LSTMCell(CELL_CONFIG.hidden_size)

    def tree(params):
        found = {}
        for name, ih, hh, bias in zip(
            "ifgo",
            jnp.split(params["weight_ih"], 4),
            jnp.split(params["weight_hh"], 4),
            jnp.split(params["bias_ih"] + params["bias_hh"], 4),
            strict=True,
        ):
            found[f"i{name}"] = {"kernel": ih.T}
            found[f"h{name}"] = {"kernel": hh.T, "bias": bias}
        return {"params": found}

    def step(x, state, *, params):
        (c, h), _ = cell.apply(tree(params), (state[1], state[0]), x)
        return h, c

    report = verify_cell(jax.jit(step), CELL_PARAMS, CELL_CONFIG, gradients=False)
    assert report.ok, str(report)


@pytest.mark.parametrize(
    ("step", "cause"),
    [
        (
            lambda x, state, *, params: jaxlstm.lstm_cell(params, x, state[::-1]),
            "h and c are swapped at every step",
        ),
        (
            lambda x, state, *, params: jaxlstm.lstm_cell(params, x, state)[::-1],
            "every step returns (c, h) instead of (h, c)",
        ),
        (
            lambda x, state, *, params: jaxlstm.lstm_cell(params, x, state[::-1])[::-1],
            "every step takes and returns (c, h) (as in Flax) instead of (h, c)",
        ),
    ],
)
def test_order_of_the_state(step, cause):
    report = verify_cell(jax.jit(step), CELL_PARAMS, CELL_CONFIG, gradients=False)
    assert report.diagnosis[0].startswith(f"matches an LSTM in which {cause}, to within ")


def test_cell_rejects_other_objects():
    with pytest.raises(TypeError, match="config must be"):
        verify_cell(lambda x, s: s, CELL_PARAMS, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one layer and one direction"):
        verify_cell(lambda x, s: s, {}, LSTMConfig(3, 4, num_layers=2))
    with pytest.raises(ValueError, match="one layer and one direction"):
        verify_cell(lambda x, s: s, {}, LSTMConfig(3, 4, bidirectional=True))
    with pytest.raises(PortError, match="step must be callable"):
        verify_cell(3, CELL_PARAMS, CELL_CONFIG)  # type: ignore[arg-type]
    with pytest.raises(PortError, match="step must return a pair"):
        verify_cell(lambda x, s: np.float32(1), CELL_PARAMS, CELL_CONFIG, gradients=False)
