"""The plugin in a foreign project, run by a separate pytest."""

import subprocess
import sys
from importlib import metadata

import pytest

from testing.processes import python_environment

FOREIGN = """
import numpy as np
from torch import nn
from jaxlstm.layer.config import LSTMConfig
from testing.verification import random_params
from testing.wrong_ports import WrongPort

CONFIG = LSTMConfig(3, 4)
PARAMS = random_params(CONFIG)

def test_right(jaxlstm_verify):
    report = jaxlstm_verify(WrongPort(CONFIG), PARAMS, CONFIG, gradients=False)
    assert report.ok

def test_wrong(jaxlstm_verify):
    jaxlstm_verify(WrongPort(CONFIG, "order iofg"), PARAMS, CONFIG, gradients=False)

def test_right_model(jaxlstm_verify_model):
    layer, x = nn.Linear(3, 4), np.ones((2, 3), np.float32)
    weight, bias = (a.detach().numpy() for a in layer.parameters())
    assert jaxlstm_verify_model(lambda x: x @ weight.T + bias, layer, (x,), gradients=False).ok

def test_wrong_model(jaxlstm_verify_model):
    layer, x = nn.Linear(3, 4), np.ones((2, 3), np.float32)
    jaxlstm_verify_model(lambda x: x @ layer.weight.detach().numpy().T, layer, (x,), gradients=False)

def test_something_else():
    assert 1 + 1 == 3
"""


@pytest.mark.slow
def test_failures_fit_one_screen(tmp_path):
    """The output has no frame of the plugin."""
    pytest.importorskip("torch", reason="verify_model compares with a torch module")
    (tmp_path / "test_foreign.py").write_text(FOREIGN)
    installed = metadata.entry_points(group="pytest11", name="jaxlstm")
    plugin = () if installed else ("-p", "jaxlstm.check.pytest_plugin")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *plugin, "--noconftest", "."],
        cwd=tmp_path,
        env=python_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    foreign = done.stdout + done.stderr
    assert "3 failed, 2 passed" in foreign
    assert foreign.count("DOES NOT HOLD") >= 2
    assert "assert (1 + 1) == 3" in foreign
    assert "INTERNALERROR" not in foreign
    assert "order iofg in float32: DOES NOT HOLD" in foreign
    assert "in which the gates are read in the order i, o, f, g" in foreign
    assert "array(" not in foreign
    assert "pytest_plugin.py" not in foreign
    assert len(foreign.splitlines()) < 80
