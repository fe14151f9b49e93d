"""Time and peak memory to read a 20 MB LSTM from a 2 GB checkpoint, measured over whole processes.

``python -m benchmarks.checkpoint [--json FILE]`` prints a markdown table. It writes one state dict with
torch.save and as safetensors to a temporary directory: 118 float32 matrices of 2048 x 2048, and between them
``lstm.``, two layers, 512 to 576. Each row is a process from the start of the interpreter to its exit, so
imports count. The rows take turns, and the files are in the page cache. ``jaxlstm convert`` also writes the
LSTM, syncs it to disk, reads it back and compares; the other rows only read.

Peak memory is the resident set of the process, including the interpreter and pages of mapped files. A child
starts as a copy of this process, so this module imports neither numpy nor torch.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import machine

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


class Row(NamedTuple):
    """A process to measure, and the row whose time its own is divided by."""

    name: str
    arguments: list[str]
    baseline: str = ""


class Cost(NamedTuple):
    """Time and memory of one process."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int


def rows(folder: Path) -> list[Row]:
    """Return every row in the order of the table."""
    pt, st = str(folder / "big.pt"), str(folder / "big.safetensors")
    convert = ["-m", "jaxlstm", "convert", "-o", str(folder / "lstm.safetensors")]
    mapped = "torch.load(mmap=True), .pt"
    names = "names by torch.load(mmap=True), .pt"
    return [
        Row("an idle interpreter", ["-c", "pass"]),
        Row("import numpy", ["-c", "import numpy"]),
        Row("import torch", ["-c", "import torch"]),
        Row("jaxlstm inspect, .pt", ["-m", "jaxlstm", "inspect", pt], names),
        Row("jaxlstm inspect, .safetensors", ["-m", "jaxlstm", "inspect", st], names),
        Row(names, ["-c", NAMES_BY_TORCH, pt]),
        Row("names by safe_open, .safetensors", ["-c", NAMES_BY_SAFETENSORS, st], names),
        Row("jaxlstm convert, .pt", [*convert, pt], mapped),
        Row("jaxlstm convert, .safetensors", [*convert, st], mapped),
        Row("jaxlstm.read_checkpoint, .pt", ["-c", READ_CHECKPOINT, pt], mapped),
        Row("jaxlstm.read_checkpoint, .safetensors", ["-c", READ_CHECKPOINT, st], mapped),
        Row("jaxlstm.load to JAX arrays, .pt", ["-c", LOAD, pt], mapped),
        Row("torch.load, .pt", ["-c", TORCH_LOAD.format(mmap=False), pt], mapped),
        Row(mapped, ["-c", TORCH_LOAD.format(mmap=True), pt]),
        Row("safe_open to torch, .safetensors", ["-c", SAFE_OPEN.format(framework="pt"), st], mapped),
        Row("safe_open to numpy, .safetensors", ["-c", SAFE_OPEN.format(framework="np"), st], mapped),
    ]  # fmt: skip


def run(arguments: list[str]) -> Cost:
    """Run one process from start to exit."""
    start = time.perf_counter()
    child = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{arguments} exited with status {child.returncode}")
    return Cost(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)


def measure(table: list[Row], rounds: int) -> dict[str, Cost]:
    """Return the medians over the rounds. The rows take turns."""
    for row in table:
        run(row.arguments)  # untimed: loads the files into the page cache
    costs: dict[str, list[Cost]] = {row.name: [] for row in table}
    for _ in range(rounds):
        for row in table:
            costs[row.name].append(run(row.arguments))
    return {
        name: Cost(*(statistics.median(column) for column in zip(*taken, strict=True)))
        for name, taken in costs.items()
    }


def goals(costs: dict[str, Cost], lstm_bytes: int) -> dict[str, dict[str, float]]:
    """Return each goal's measured value and its limit."""
    idle, inspect = costs["an idle interpreter"], costs["jaxlstm inspect, .pt"]
    convert, mapped = costs["jaxlstm convert, .pt"], costs["torch.load(mmap=True), .pt"]
    values = {
        "time of convert / torch.load(mmap=True)": (convert.seconds / mapped.seconds, 0.5),
        "peak MiB of convert": (convert.peak_bytes / MIB, 64 + 2 * lstm_bytes / MIB),
        "seconds of inspect beyond an idle interpreter": (inspect.seconds - idle.seconds, 0.5),
    }
    return {name: {"measured": a, "at_most": b} for name, (a, b) in values.items()}


def print_table(table: list[Row], costs: dict[str, Cost]) -> None:
    print("\n| process | s | CPU s | ratio to | ratio | peak MiB |\n|---|---|---|---|---|---|")
    for row in table:
        cost, baseline = costs[row.name], costs.get(row.baseline)
        ratio = f"{cost.seconds / baseline.seconds:.2f}" if baseline else ""
        print(
            f"| {row.name} | {cost.seconds:.2f} | {cost.cpu_seconds:.2f} | {row.baseline} "
            f"| {ratio} | {cost.peak_bytes / MIB:.0f} |"
        )
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="per median (default 9)")
    parser.add_argument("--matrices", type=int, default=MATRICES, help="of 16 MiB each")
    parser.add_argument("--folder", help="where to write the files, 4 GB")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write results and settings")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        make = [sys.executable, "-c", MAKE, str(folder / "big"), str(args.matrices)]
        lstm_bytes = int(subprocess.run(make, stdout=subprocess.PIPE, check=True).stdout)
        about: dict[str, Any] = {
            "versions": machine.versions(("numpy", "torch", "safetensors", "jax")),
            "device": machine.cpu_name(),
            "cores": os.cpu_count(),
            "rounds": args.rounds,
            "lstm_bytes": lstm_bytes,
            "file_bytes": (folder / "big.pt").stat().st_size,
        }
        print(about, flush=True)
        table = rows(folder)
        costs = measure(table, args.rounds)
    print_table(table, costs)
    results = goals(costs, lstm_bytes)
    for goal, numbers in results.items():
        verdict = "holds" if numbers["measured"] <= numbers["at_most"] else "MISSED"
        print(f"{goal}: {numbers['measured']:.3g}, at most {numbers['at_most']:.3g}: {verdict}")
    if args.json:
        # Imported after the measurements, because it imports numpy.
        from benchmarks.report import write_json

        by_name = {name: cost._asdict() for name, cost in costs.items()}
        write_json(args.json, {**about, "goals": results, "results": by_name})


if __name__ == "__main__":
    main()
