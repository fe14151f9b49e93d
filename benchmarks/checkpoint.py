"""Time and peak memory of taking an LSTM of 20 MB out of a checkpoint of 2 GB, as whole processes.

``python benchmarks/checkpoint.py [--json FILE]`` prints a markdown table. It writes one state dict twice, by
torch.save and as safetensors, into a folder that is removed at the end: 118 matrices of 2048 x 2048 float32,
and between them ``lstm.``, two layers, 512 to 576. Each side is a process of its own, from the start of the
interpreter to its exit, so that imports count; the sides take turns, and the files lie in the page cache.
``jaxlstm convert`` also writes the LSTM, flushes it to the disk, reads it back and compares: what it is held
against only brings it into memory.

Peak memory is the largest resident set of the process, pages of mapped files included (Linux counts them),
and so is the interpreter. Before they become another program, children are copies of this process: it
imports neither numpy nor torch, so that none looks larger for it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

MATRICES, SIDE = 118, 2048
INPUT_SIZE, HIDDEN_SIZE, NUM_LAYERS = 512, 576, 2
MIB = 1 << 20

MAKE = f"""
import sys, torch
from safetensors.torch import save_file
matrices, side = int(sys.argv[2]), {SIDE}
state = {{f"encoder.{{k}}.weight": torch.full((side, side), 1.0 + k) for k in range(matrices // 2)}}
lstm = torch.nn.LSTM({INPUT_SIZE}, {HIDDEN_SIZE}, {NUM_LAYERS})
state |= {{f"lstm.{{name}}": tensor for name, tensor in lstm.state_dict().items()}}
state |= {{
    f"decoder.{{k}}.weight": torch.full((side, side), -1.0 - k)
    for k in range(matrices - matrices // 2)
}}
torch.save(state, sys.argv[1] + ".pt")
save_file(state, sys.argv[1] + ".safetensors")
print(sum(tensor.nbytes for tensor in lstm.state_dict().values()))
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
with safe_open(sys.argv[1], "{framework}") as file:
    lstm = {{name: file.get_tensor(name) for name in file.keys() if name.startswith("lstm.")}}
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
params, config = jaxlstm.load(sys.argv[1])
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


class Side(NamedTuple):
    """A process to measure; `held_against` is the side that its time is a ratio of."""

    name: str
    arguments: list[str]
    held_against: str = ""


class Cost(NamedTuple):
    """Of one process."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int


def sides(folder: Path) -> list[Side]:
    """Every process, in the order of the table."""
    pt, st = str(folder / "big.pt"), str(folder / "big.safetensors")
    port = ["-m", "jaxlstm", "convert", "-o", str(folder / "ported.safetensors")]
    mapped = "torch.load(mmap=True), .pt"
    listed = "names by torch.load(mmap=True), .pt"
    return [
        Side("an idle interpreter", ["-c", "pass"]),
        Side("import numpy", ["-c", "import numpy"]),
        Side("import torch", ["-c", "import torch"]),
        Side("jaxlstm inspect, .pt", ["-m", "jaxlstm", "inspect", pt], listed),
        Side("jaxlstm inspect, .safetensors", ["-m", "jaxlstm", "inspect", st], listed),
        Side(listed, ["-c", NAMES_BY_TORCH, pt]),
        Side("names by safe_open, .safetensors", ["-c", NAMES_BY_SAFETENSORS, st], listed),
        Side("jaxlstm convert, .pt", [*port, pt], mapped),
        Side("jaxlstm convert, .safetensors", [*port, st], mapped),
        Side("jaxlstm.read_checkpoint, .pt", ["-c", READ_CHECKPOINT, pt], mapped),
        Side("jaxlstm.read_checkpoint, .safetensors", ["-c", READ_CHECKPOINT, st], mapped),
        Side("jaxlstm.load to JAX arrays, .pt", ["-c", LOAD, pt], mapped),
        Side("torch.load, .pt", ["-c", TORCH_LOAD.format(mmap=False), pt], mapped),
        Side(mapped, ["-c", TORCH_LOAD.format(mmap=True), pt]),
        Side("safe_open to torch, .safetensors", ["-c", SAFE_OPEN.format(framework="pt"), st], mapped),
        Side("safe_open to numpy, .safetensors", ["-c", SAFE_OPEN.format(framework="np"), st], mapped),
    ]  # fmt: skip


def run(arguments: list[str]) -> Cost:
    """One process from start to exit."""
    start = time.perf_counter()
    child = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{arguments} ended with status {child.returncode}")
    return Cost(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)


def measure(chosen: list[Side], rounds: int) -> dict[str, Cost]:
    """The median of each column over the rounds, the sides taking turns."""
    for side in chosen:
        run(side.arguments)  # untimed: it brings what is read into the page cache
    costs: dict[str, list[Cost]] = {side.name: [] for side in chosen}
    for _ in range(rounds):
        for side in chosen:
            costs[side.name].append(run(side.arguments))
    return {
        name: Cost(*(statistics.median(column) for column in zip(*found, strict=True)))
        for name, found in costs.items()
    }


def goals(costs: dict[str, Cost], lstm_bytes: int) -> dict[str, dict[str, float]]:
    """What the table is held to: measured, and at most."""
    idle, port = costs["an idle interpreter"], costs["jaxlstm convert, .pt"]
    inspect = costs["jaxlstm inspect, .pt"]
    return {
        "time of port, of torch.load(mmap=True)": {
            "measured": port.seconds / costs["torch.load(mmap=True), .pt"].seconds,
            "at_most": 0.5,
        },
        "peak memory of port, MiB, the interpreter included": {
            "measured": port.peak_bytes / MIB,
            "at_most": 64 + 2 * lstm_bytes / MIB,
        },
        "seconds of inspect beyond an idle interpreter": {
            "measured": inspect.seconds - idle.seconds,
            "at_most": 0.5,
        },
    }


def setting(rounds: int, lstm_bytes: int, file_bytes: int) -> dict[str, Any]:
    """What a reader needs in order to compare."""
    packages = ("jaxlstm", "numpy", "torch", "safetensors", "jax")
    return {
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in packages},
        },
        "device": cpu_name(),
        "cores": os.cpu_count(),
        "rounds": rounds,
        "lstm_bytes": lstm_bytes,
        "file_bytes": file_bytes,
    }


def cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def print_table(chosen: list[Side], costs: dict[str, Cost]) -> None:
    print("\n| process | s | CPU s | of the time of | is | peak MiB |\n|---|---|---|---|---|---|")
    for side in chosen:
        cost, other = costs[side.name], costs.get(side.held_against)
        ratio = f"{cost.seconds / other.seconds:.2f}" if other else ""
        print(
            f"| {side.name} | {cost.seconds:.2f} | {cost.cpu_seconds:.2f} | {side.held_against} "
            f"| {ratio} | {cost.peak_bytes / MIB:.0f} |"
        )
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description="An LSTM of 20 MB out of a checkpoint of 2 GB.")
    parser.add_argument(
        "--rounds", type=int, default=9, help="of which each median is taken (default 9)"
    )
    parser.add_argument(
        "--matrices", type=int, default=MATRICES, help="of 16 MiB each, around the LSTM"
    )
    parser.add_argument(
        "--folder", help="where the files are made, 4 GB; default: that of tempfile"
    )
    parser.add_argument("--json", metavar="FILE", help="write the results and the setting")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        make = [sys.executable, "-c", MAKE, str(folder / "big"), str(arguments.matrices)]
        lstm_bytes = int(subprocess.run(make, stdout=subprocess.PIPE, check=True).stdout)
        found = setting(arguments.rounds, lstm_bytes, (folder / "big.pt").stat().st_size)
        print(", ".join(f"{name} {value}" for name, value in found["versions"].items()))
        print(f"{found['device']}, {found['cores']} cores")
        print(f"{lstm_bytes / 1e6:.1f} MB of {found['file_bytes'] / 1e9:.2f} GB", flush=True)
        chosen = sides(folder)
        costs = measure(chosen, arguments.rounds)
    print_table(chosen, costs)
    held = goals(costs, lstm_bytes)
    for goal, numbers in held.items():
        verdict = "holds" if numbers["measured"] <= numbers["at_most"] else "MISSED"
        print(f"{goal}: {numbers['measured']:.3g}, at most {numbers['at_most']:.3g}: {verdict}")
    if arguments.json:
        results = {name: cost._asdict() for name, cost in costs.items()}
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({**found, "goals": held, "results": results}, file, indent=2)
            file.write("\n")


if __name__ == "__main__":
    main()
