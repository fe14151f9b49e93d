"""A child writes file after file and is killed at random moments: what is there is always of one write."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from jaxlstm import LSTMConfig, param_shapes, save
from jaxlstm_converters.lstm._load import load_numpy

CONFIG = LSTMConfig(60, 60)
WRITER = """
import itertools, sys, numpy as np
from jaxlstm import LSTMConfig, param_shapes, save
config = LSTMConfig(60, 60)
print("ready", flush=True)
for k in itertools.count():
    params = {n: np.full(s, k, np.float32) for n, s in param_shapes(config).items()}
    save(sys.argv[1], params, config)
"""


def always_whole(path: Path, kills: int, *, seconds: float) -> None:
    """Assert that ``path`` loads after each kill, which comes within ``seconds`` of the child's start."""
    first = {name: np.zeros(shape, np.float32) for name, shape in param_shapes(CONFIG).items()}
    save(path, first, CONFIG)
    rng = np.random.default_rng(0)
    for _ in range(kills):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
        )
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(rng.uniform(0, seconds))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        params, config = load_numpy(path)
        assert config == CONFIG
        assert len({float(v) for p in params.values() for v in np.unique(p)}) == 1  # no mixture
