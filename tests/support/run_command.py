"""What the tests of ``jaxlstm run`` have in common: a checkpoint, inputs, and what has to come out."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np

from jaxlstm import LSTMConfig, cli, init_params, save
from tests.support.inference import reference

CONFIG = LSTMConfig(5, 8, num_layers=2)
LENGTHS = (30, 7, 55, 1, 20, 16, 40, 3, 25)


def params_of(config: LSTMConfig) -> dict[str, jax.Array]:
    return init_params(jax.random.key(0), config)


def write_checkpoint(folder: Path) -> Path:
    save(folder / "m.safetensors", params_of(CONFIG), CONFIG)
    return folder / "m.safetensors"


def sequences(dtype: type = np.float32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {f"s{k}": rng.standard_normal((n, 5)).astype(dtype) for k, n in enumerate(LENGTHS)}


def long_sequence(path: Path) -> np.ndarray:
    """(120, 5), written to a ``.npy``."""
    x = np.random.default_rng(0).standard_normal((120, 5)).astype(np.float32)
    np.save(path, x)
    return x


def assert_right(
    name: str, outputs: np.ndarray, x: np.ndarray, config: LSTMConfig = CONFIG
) -> None:
    wanted, _ = reference(params_of(config), x[:, None], config=config)
    np.testing.assert_allclose(outputs, wanted[:, 0], rtol=0, atol=1e-6, err_msg=name)


def run(checkpoint: Path, source: Path, output: Path, *more: str) -> int:
    return cli.main(["run", str(checkpoint), "--input", str(source), "-o", str(output), *more])
