"""Whole programs beside PyTorch, and the time to load a file.

A text recogniser, a tagger and a voice detector run as jitted programs, in eager PyTorch and under
``torch.compile``. Then processes load a program of 50 MB: the time of whole processes, and of only the load,
where JAX is already imported and torch is not.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from torch._dynamo.exc import TorchDynamoException

import jaxlstm
from benchmarks.program_models import MODELS, Large
from benchmarks.settings import Settings
from benchmarks.timing import interleaved, printed_row, process_rows, spreads

LOAD = {
    "jaxlstm": """
import sys, jax, jaxlstm
jax.block_until_ready(jaxlstm.load_program(sys.argv[1]).params)
""",
    "torch": """
import sys, torch
torch.export.load(sys.argv[1]).module()
""",
}
# The same in a process that runs JAX; each prints its seconds.
LOAD_BESIDE_JAX = {
    "jaxlstm": """
import sys, time, jax, jaxlstm
start = time.perf_counter()
jax.block_until_ready(jaxlstm.load_program(sys.argv[1]).params)
print(time.perf_counter() - start)
""",
    "torch": """
import sys, time, jax
start = time.perf_counter()
import torch
torch.export.load(sys.argv[1]).module()
print(time.perf_counter() - start)
""",
}


def run(settings: Settings) -> Iterator[dict[str, Any]]:
    """Time each model, then processes that load a program."""
    torch.set_num_threads(settings.threads)
    for name in list(MODELS)[-1:] if settings.tiny else MODELS:
        yield row(name, settings)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt2"
        jaxlstm.from_module(Large().eval(), (torch.randn(2, 3, 640),)).save(path)
        sides = {name: ["-c", code, str(path)] for name, code in LOAD.items()}
        yield process_rows("a process that loads a program of 50 MB", sides, settings.rounds)[0]
        sides = {name: ["-c", code, str(path)] for name, code in LOAD_BESIDE_JAX.items()}
        yield printed_row("only the load, after import jax", sides, settings.rounds)


def row(name: str, settings: Settings) -> dict[str, Any]:
    """Time the implementations of a model on one input, after a check that they agree."""
    make, inputs = MODELS[name]
    torch.manual_seed(0)
    module, args = make().eval(), inputs()
    program = jaxlstm.from_module(module, args)
    compiled = jax.jit(program)
    arrays = [jax.numpy.asarray(arg.numpy()) for arg in args]

    def ours() -> Any:
        return jax.block_until_ready(compiled(program.params, *arrays))

    def in_torch(module: Callable[..., Any]) -> Callable[[], Any]:
        def call() -> Any:
            with torch.inference_mode():
                return module(*args)

        return call

    sides = {"jaxlstm": ours, "torch": in_torch(module), "torch-compile": in_torch(torch.compile(module))}
    expected = jax.tree.leaves(sides["torch"]())
    for actual, theirs in zip(jax.tree.leaves(ours()), expected, strict=True):
        np.testing.assert_allclose(actual, theirs, rtol=0, atol=1e-4)
    left_out = {}
    if reason := _fault(sides["torch-compile"]):
        del sides["torch-compile"]
        left_out["torch-compile"] = reason
    values = spreads(interleaved(sides, settings.rounds))
    return {"case": name, "unit": "ms", "values": values, "left_out": left_out}


def _fault(call: Callable[[], Any]) -> str:
    """Compile; return the reason if that fails, for example without a C++ compiler."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call()
    except TorchDynamoException as error:
        return str(error).splitlines()[0]
    return ""
