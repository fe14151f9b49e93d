"""Speed of whole programs beside PyTorch, and the time to load one.

``python -m benchmarks.programs [--rounds N] [--cpu-time] [--json FILE]`` prints a markdown table for a text
recogniser, a tagger and a voice detector. Each runs as a jitted program, in eager PyTorch and under
``torch.compile`` (where that works), all in one process and in turns, with as many threads as XLA uses. With
``--cpu-time`` the clock is the CPU time of the process, which depends less on other load and counts threads
that spin. Then it times whole processes that load a program of 50 MB.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from torch._dynamo.exc import TorchDynamoException

import jaxlstm
from benchmarks import machine
from benchmarks.program_models import MODELS, Large
from benchmarks.report import write_json
from benchmarks.timing import interleaved

ROUNDS = 15
LOAD_ROUNDS = 5
LOAD = {
    "jaxlstm.load_program": """
import sys, jax, jaxlstm
jax.block_until_ready(jaxlstm.load_program(sys.argv[1]).params)
""",
    "torch.export.load": """
import sys, torch
torch.export.load(sys.argv[1]).module()
""",
}


def calls(name: str) -> dict[str, Callable[[], Any]]:
    """Return the implementations of a model on one input, after a check that they agree."""
    make, inputs = MODELS[name]
    torch.manual_seed(0)
    module, args = make().eval(), inputs()
    program = jaxlstm.from_module(module, args)
    compiled = jax.jit(program)
    arrays = [jax.numpy.asarray(arg.numpy()) for arg in args]
    params = program.params
    faster = torch.compile(module)

    def ours() -> Any:
        return jax.block_until_ready(compiled(params, *arrays))

    def eager() -> Any:
        with torch.inference_mode():
            return module(*args)

    def compiled_by_torch() -> Any:
        with torch.inference_mode():
            return faster(*args)

    expected = jax.tree.leaves(jax.tree.map(np.asarray, eager()))
    for actual, theirs in zip(jax.tree.leaves(ours()), expected, strict=True):
        np.testing.assert_allclose(actual, theirs, rtol=0, atol=1e-4)
    found: dict[str, Callable[[], Any]] = {"jaxlstm": ours, "torch eager": eager}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compiled_by_torch()
    except TorchDynamoException as error:  # without a C++ compiler, for example
        print(f"{name}: torch.compile does not run: {str(error).splitlines()[0]}")
    else:
        found["torch.compile"] = compiled_by_torch
    return found


def ratios(times: dict[str, list[float]]) -> dict[str, float]:
    """Return the median over the rounds of each implementation's time divided by ours."""
    ours = times["jaxlstm"]
    return {
        name: statistics.median(theirs / mine for theirs, mine in zip(column, ours, strict=True))
        for name, column in times.items()
        if name != "jaxlstm"
    }


def load_times(rounds: int) -> dict[str, float]:
    """Return the median seconds of processes that load a program of 50 MB, which take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in LOAD}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt2"
        jaxlstm.from_module(Large().eval(), (torch.randn(2, 3, 640),)).save(path)
        for number in range(rounds + 1):  # the first round loads the file into the page cache
            for name, code in LOAD.items():
                start = time.perf_counter()
                subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True)
                if number:
                    seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(column) for name, column in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"per median (default {ROUNDS})")
    parser.add_argument("--cpu-time", action="store_true", help="measure the CPU time of the process")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write results and settings")
    args = parser.parse_args()
    torch.set_num_threads(machine.threads())
    about = {
        "versions": machine.versions(("jax", "torch", "numpy")),
        "cpu": machine.cpu_name(),
        "threads": machine.threads(),
        "clock": "CPU time" if args.cpu_time else "elapsed time",
        "rounds": args.rounds,
    }
    print(about)
    print("\n| model | implementation | ms | times jaxlstm |\n|---|---|---|---|")
    results = {}
    clock = time.process_time if args.cpu_time else time.perf_counter
    for name in MODELS:
        times = interleaved(calls(name), args.rounds, clock)
        results[name] = {"ms": times, "ratios": ratios(times)}
        for implementation, column in times.items():
            ratio, median = results[name]["ratios"].get(implementation, 1.0), statistics.median(column)
            print(f"| {name} | {implementation} | {median:.2f} | {ratio:.2f} |", flush=True)
    loads = load_times(LOAD_ROUNDS)
    print("\n" + "\n".join(f"{name} of 50 MB: {seconds:.2f} s" for name, seconds in loads.items()))
    if args.json:
        write_json(args.json, {**about, "results": results, "load_seconds": loads})


if __name__ == "__main__":
    main()
