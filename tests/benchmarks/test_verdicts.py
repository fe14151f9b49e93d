"""The checker's verdict on other libraries' LSTMs. Each compiles for seconds, so the tests are slow."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import peers, verdicts
from benchmarks.peers import layers
from jaxlstm import LSTMConfig
from jaxlstm.check.port import Port
from jaxlstm.check.reference.cases import ordinary_case
from testing.verification import random_params, status

BY_NAME = {row.name: row for row in verdicts.ROWS}
FLAX = ("flax.nnx.RNN, Bidirectional", "flax.linen.RNN, Bidirectional")
KERAS = "keras.layers.LSTM, Bidirectional, on JAX"
GRADIENTS = "haiku.LSTM"  # the one library whose gradients are checked here; the table has all
RIGHT = [name for name in BY_NAME if name not in (*FLAX, KERAS)]


def report_on(name, **settings):
    row = BY_NAME[name]
    if peers.version(row.distribution) is None:
        pytest.skip(f"{row.distribution} is not installed; the extra 'bench' installs it")
    return verdicts.check(row, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("name", RIGHT)
def test_right_libraries_hold(name):
    report = report_on(name, gradients=name == GRADIENTS)
    assert report.ok, str(report)
    assert verdicts.columns(BY_NAME[name], report)["verdict"] == "holds"
    assert ("float64 gradients against oracle" in status(report)) is (name == GRADIENTS)
    untested = [item.name for item in report.items if item.ok is None]
    takes_lengths = Port.of(BY_NAME[name].port).takes_lengths
    assert untested == ([] if takes_lengths else ["ragged lengths"])


@pytest.mark.slow
@pytest.mark.parametrize("name", FLAX)
def test_flax_does_not_zero_the_padding(name):
    report = report_on(name, gradients=False)
    assert not report.ok
    columns = verdicts.columns(BY_NAME[name], report)
    assert columns["verdict"] == "does not hold"
    assert columns["diagnosis"] == report.diagnosis[0]
    assert "in which the outputs in the padding are not zeroed" in report.diagnosis[0]
    assert "fails in ragged, saturating, tiny" in str(report)
    assert status(report)["step residual"] == "ok"


@pytest.mark.slow
def test_keras_computes_tanh_in_float32():
    report = report_on(KERAS, gradients=False, seconds=0.0)
    failed = {item.name for item in report.failures}
    assert failed
    assert all(name.startswith("float64 semantics") for name in failed)
    assert "a part of the computation is in float32" in report.diagnosis[0]
    assert "in i*g, unit" in report.diagnosis[1]


@pytest.mark.slow
@pytest.mark.parametrize("library", ["flax-nnx", "flax-linen", "keras"])
def test_bidirectional_wrapper_equals_two_runs(library):
    """The library's own wrapper, against its loops of one direction, bit for bit."""
    pytest.importorskip(library.partition("-")[0])
    direction = peers.load(library).DIRECTION
    config = LSTMConfig(5, 6, bidirectional=True)
    params, case = random_params(config), ordinary_case(config)
    with_wrapper, without = (
        Port.of(layers.port(d, config)).run(params, case, np.float32)
        for d in (direction, direction._replace(both=None))
    )
    for (name, a), (_, b) in zip(with_wrapper.leaves(), without.leaves(), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)
