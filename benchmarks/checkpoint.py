"""Reading a 20 MB LSTM from a 1 GB checkpoint, over whole processes, imports included.

The checkpoint is one state dict, written by torch.save and as safetensors: 60 float32 matrices of
2048 x 2048, and between them ``lstm.``, two layers, 512 to 576. The files are in the page cache.
``jaxlstm convert`` also writes the LSTM, syncs it to disk, reads it back and compares; the other processes
only read.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.parts import Settings
from benchmarks.timing import process_rows

MATRICES, SIDE = 60, 2048
MAKE = f"""
import sys, torch
from safetensors.torch import save_file
matrices, side = int(sys.argv[2]), {SIDE}
state = {{f"encoder.{{k}}.weight": torch.full((side, side), 1.0 + k) for k in range(matrices // 2)}}
lstm = torch.nn.LSTM(512, 576, 2)
state |= {{f"lstm.{{name}}": tensor for name, tensor in lstm.state_dict().items()}}
state |= {{
    f"decoder.{{k}}.weight": torch.full((side, side), -1.0 - k)
    for k in range(matrices - matrices // 2)
}}
torch.save(state, sys.argv[1] + ".pt")
save_file(state, sys.argv[1] + ".safetensors")
"""
TORCH_LOAD = """
import sys, torch
state = torch.load(sys.argv[1], weights_only=True, mmap={mmap})
lstm = {{name: tensor.clone() for name, tensor in state.items() if name.startswith("lstm.")}}
assert len(lstm) == 8
"""
SAFE_OPEN = """
import sys
from safetensors import safe_open
with safe_open(sys.argv[1], "np") as file:
    lstm = {name: file.get_tensor(name) for name in file.keys() if name.startswith("lstm.")}
assert len(lstm) == 8
"""
READ_CHECKPOINT = """
import sys, numpy, jaxlstm
checkpoint = jaxlstm.read_checkpoint(sys.argv[1])
lstm = {name: numpy.asarray(t) for name, t in checkpoint.items() if name.startswith("lstm.")}
assert len(lstm) == 8
"""
LOAD = """
import sys, jax, jaxlstm
params, config = jaxlstm.load(sys.argv[1], batch_first=False, dropout=0.0)
jax.block_until_ready(params)
assert len(params) == 8
"""
NAMES_BY_TORCH = """
import sys, torch
state = torch.load(sys.argv[1], weights_only=True, mmap=True)
print({name: tuple(tensor.shape) for name, tensor in state.items()})
"""
NAMES_BY_SAFETENSORS = """
import sys
from safetensors import safe_open
with safe_open(sys.argv[1], "np") as file:
    print({name: file.get_slice(name).get_shape() for name in file.keys()})
"""


def run(settings: Settings) -> Iterator[dict[str, Any]]:
    """Measure each case in turn."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make = ["-c", MAKE, str(folder / "big"), "2" if settings.tiny else str(MATRICES)]
        subprocess.run([sys.executable, *make], check=True)
        for case, sides in cases(folder).items():
            yield from process_rows(case, sides, settings.rounds)


def cases(folder: Path) -> dict[str, dict[str, list[str]]]:
    """Return the arguments of Python for each process of each case."""
    pt, st = str(folder / "big.pt"), str(folder / "big.safetensors")
    convert = ["-m", "jaxlstm", "convert", "--no-batch-first", "--dropout", "0", "-o"]
    convert.append(str(folder / "lstm.safetensors"))
    mapped = ["-c", TORCH_LOAD.format(mmap=True), pt]
    read = ["-c", TORCH_LOAD.format(mmap=False), pt]
    return {
        "names, .pt": {
            "jaxlstm": ["-m", "jaxlstm", "inspect", pt],
            "torch.load(mmap=True)": ["-c", NAMES_BY_TORCH, pt],
        },
        "names, .safetensors": {
            "jaxlstm": ["-m", "jaxlstm", "inspect", st],
            "safetensors": ["-c", NAMES_BY_SAFETENSORS, st],
        },
        "LSTM to NumPy, .pt": {
            "jaxlstm": ["-c", READ_CHECKPOINT, pt],
            "jaxlstm convert": [*convert, pt],
            "jaxlstm to JAX": ["-c", LOAD, pt],
            "torch.load(mmap=True)": mapped,
            "torch.load": read,
        },
        "LSTM to NumPy, .safetensors": {
            "jaxlstm": ["-c", READ_CHECKPOINT, st],
            "jaxlstm convert": [*convert, st],
            "safetensors": ["-c", SAFE_OPEN, st],
        },
    }
