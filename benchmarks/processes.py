"""The first call of a process, and reading a 20 MB LSTM from a 1 GB checkpoint.

The checkpoint is one state dict, written by torch.save and as safetensors: 60 float32 matrices of
2048 x 2048, and between them ``lstm.``, two layers, 512 to 576. The files are in the page cache.
``jaxlstm convert`` also writes the LSTM, syncs it to disk, reads it back and compares; the other processes
only read.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from benchmarks import peers
from benchmarks.parts import Settings
from benchmarks.problems import Size, make_problem, own
from benchmarks.timing import process_rows, spreads
from jaxlstm import LSTMConfig

IN_JAX = """
import jax, numpy, jaxlstm
config = jaxlstm.LSTMConfig(256, 256)
params = {name: numpy.ones(shape, "float32") for name, shape in jaxlstm.param_shapes(config).items()}
x = numpy.ones((16, 4, 256), "float32")
"""
PROCESSES = {
    "jaxlstm": f"""{IN_JAX}
jax.block_until_ready(jax.jit(lambda params, x: jaxlstm.lstm(params, x, config=config))(params, x))
""",
    "jaxlstm Runner": f"""{IN_JAX}
jaxlstm.inference.compile(params, config, max_length=16, max_batch=4)(x)
""",
    "torch": """
import torch
with torch.inference_mode():
    torch.nn.LSTM(256, 256)(torch.ones(16, 4, 256))
""",
}
SIZES = {
    "one layer": LSTMConfig(256, 256),
    "two layers, bidirectional": LSTMConfig(128, 256, num_layers=2, bidirectional=True),
}


def first_call(settings: Settings) -> Iterator[dict[str, Any]]:
    """Time whole processes, then compilation in this one. torch does not compile."""
    names = [name for name in PROCESSES if name.startswith("jaxlstm") or name in settings.against]
    sides = {name: ["-c", PROCESSES[name]] for name in names}
    yield process_rows("a process with one call", sides, settings.rounds)[0]
    makers = {"jaxlstm": own}
    if "flax-nnx" in settings.against:
        makers["flax-nnx"] = peers.load("flax-nnx").implementation
    for name in list(SIZES)[:1] if settings.tiny else SIZES:
        problem = make_problem(Size(16, 4, SIZES[name]))
        for index, mode in enumerate(("inference", "gradients")):
            calls = {
                side: lambda make=make, problem=problem, index=index: make(problem, settings)[index]
                for side, make in makers.items()
            }
            times = _first_calls(calls, settings.rounds)
            yield {"case": f"{name}, {mode}", "unit": "ms", "values": spreads(times)}


def _first_calls(makers: dict[str, Callable[[], Callable[[], Any]]], rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds of first calls with empty caches. The first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in makers}
    for number in range(rounds + 1):
        for name, make in makers.items():
            jax.clear_caches()
            call = make()
            start = time.perf_counter()
            call()
            if number:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


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


def checkpoint(settings: Settings) -> Iterator[dict[str, Any]]:
    """Measure each case in turn."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make = ["-c", MAKE, str(folder / "big"), "2" if settings.tiny else str(MATRICES)]
        subprocess.run([sys.executable, *make], check=True)
        for case, sides in _checkpoint_cases(folder).items():
            yield from process_rows(case, sides, settings.rounds)


def _checkpoint_cases(folder: Path) -> dict[str, dict[str, list[str]]]:
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
