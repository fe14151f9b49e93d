"""Run the command line in this process; a checkpoint, inputs and expected outputs for ``jaxlstm run``."""

import io
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxlstm import LSTMConfig, cli, save
from jaxlstm._shared.safetensors import safetensors_bytes
from testing.inference import reference, weights


class Result(NamedTuple):
    """Exit status and output of a command."""

    status: int
    out: str
    err: str


class Screen(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def jaxlstm_command(*arguments: object, status: int | None = None) -> Result:
    """Run ``jaxlstm ARGUMENTS`` and, if given, require the exit status."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            result = cli.main([str(argument) for argument in arguments])
        except SystemExit as error:  # raised by argparse
            result = int(error.code or 0)
    assert status in (None, result), err.getvalue()
    return Result(result, out.getvalue(), err.getvalue())


CONFIG = LSTMConfig(5, 8, num_layers=2)
SUFFIXES = (".npz", ".safetensors", ".parquet", ".npy")
LENGTHS = (30, 7, 55, 1, 20, 16, 40, 3, 25)


def write_checkpoint(folder: Path) -> Path:
    save(folder / "m.safetensors", weights(CONFIG), CONFIG)
    return folder / "m.safetensors"


def sequences(dtype: type = np.float32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {f"s{k}": rng.standard_normal((n, 5)).astype(dtype) for k, n in enumerate(LENGTHS)}


def write_long_sequence(path: Path) -> np.ndarray:
    """Write a .npy file of shape (120, 5) and return its array."""
    x = np.random.default_rng(0).standard_normal((120, 5)).astype(np.float32)
    np.save(path, x)
    return x


def write_sequences(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write sequences in the format of a suffix; a Parquet file has their names in a column "id"."""
    if path.suffix == ".npz":
        np.savez(path, **arrays)  # type: ignore[arg-type]
    elif path.suffix == ".safetensors":
        path.write_bytes(b"".join(safetensors_bytes(arrays, {})))
    elif path.suffix == ".npy":
        np.save(path, np.stack(list(arrays.values())))
    else:
        import pyarrow.parquet

        columns = {"id": list(arrays), "inputs": [list(array) for array in arrays.values()]}
        pyarrow.parquet.write_table(pyarrow.table(columns), path)


def assert_outputs(name: str, outputs: np.ndarray, x: np.ndarray) -> None:
    expected, _ = reference(weights(CONFIG), x[:, None], config=CONFIG)
    np.testing.assert_allclose(outputs, expected[:, 0], rtol=0, atol=1e-6, err_msg=name)


def run(checkpoint: Path, source: Path, output: Path, *options: str) -> int:
    return cli.main(["run", str(checkpoint), "--input", str(source), "-o", str(output), *options])
