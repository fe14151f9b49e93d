"""LSTMs of other libraries through the checker; the adapters are those of ``examples/peers.py``."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from examples import peers
from jaxlstm.bench.peers import layers
from jaxlstm.check.port import Port
from jaxlstm.check.reference.cases import ordinary_case
from tests.check.helpers import needs_torch, random_params

ROOT = Path(__file__).parents[2]
BY_NAME = {peer.name: peer for peer in peers.PEERS}
FLAX = ("flax.nnx.RNN, Bidirectional", "flax.linen.RNN, Bidirectional")
KERAS = "keras.layers.LSTM, Bidirectional, on JAX"
GRADIENTS = "haiku.LSTM"  # those of one peer; the table has those of all
RIGHT = [name for name in BY_NAME if name not in (*FLAX, KERAS)]
QUICK = {"flax.nnx.RNN, Bidirectional", "equinox.nn.LSTMCell"}


def each(names):
    """The names as parameters; compiling takes seconds each, so that some are for the slow tests."""
    return [
        pytest.param(name, marks=() if name in QUICK else (pytest.mark.slow,)) for name in names
    ]


def report_on(name, **settings):
    peer = BY_NAME[name]
    if peers.version(peer) is None:
        pytest.skip(f"{peer.distribution} is not installed; the extra 'peers' brings it")
    return peers.check(peer, **settings)


def status(report):
    return {item.name: item.status for item in report.items}


@pytest.mark.parametrize("name", each(RIGHT))
def test_right_peers_hold(name):
    report = report_on(name, gradients=name == GRADIENTS)
    assert report.ok, str(report)
    assert ("float64 gradients against oracle" in status(report)) is (name == GRADIENTS)
    untested = [item.name for item in report.items if item.ok is None]
    takes_lengths = Port.of(BY_NAME[name].port).takes_lengths
    assert untested == ([] if takes_lengths else ["ragged lengths"])


@pytest.mark.parametrize("name", each(FLAX))
def test_flax_leaves_numbers_behind_the_end_of_a_sequence(name):
    report = report_on(name, gradients=False)
    assert not report.ok
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
@pytest.mark.parametrize("library", ["flax_nnx", "flax_linen", "keras"])
def test_a_wrapper_of_two_directions_is_two_runs(library):
    """The library's own wrapper, against its loops of one direction, bit for bit."""
    pytest.importorskip(library.partition("_")[0])
    direction = importlib.import_module(f"jaxlstm.bench.peers.{library}").DIRECTION
    params, case = random_params(peers.CONFIG), ordinary_case(peers.CONFIG)
    with_wrapper, without = (
        Port.of(layers.port(d, peers.CONFIG)).run(params, case, np.float32)
        for d in (direction, direction._replace(both=None))
    )
    for (name, a), (_, b) in zip(with_wrapper.leaves(), without.leaves(), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.mark.slow
@needs_torch
def test_the_table_is_the_one_in_the_readme():
    """Peer by peer: the verdict, what went untested, the diagnosis; ratios move with versions."""
    if missing := [peer.name for peer in peers.PEERS if peers.version(peer) is None]:
        pytest.skip(f"{', '.join(missing)} not installed; the extra 'peers' brings them")
    done = subprocess.run(
        [sys.executable, "examples/peers.py"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    text = (ROOT / "README.md").read_text()
    quoted = text.split("<!-- peers -->")[1].split("<!-- /peers -->")[0].strip()
    assert [told(line) for line in done.stdout.splitlines()] == [
        told(line) for line in quoted.splitlines()
    ]


def told(line):
    """The cells of a line of the table that no other version changes in the last digit."""
    peer, _, verdict, _, _, untested, diagnosis = line.split("|")[1:-1]
    return peer, verdict, untested, re.sub(r"(to within|an error of) [\d.e-]+", "", diagnosis)
