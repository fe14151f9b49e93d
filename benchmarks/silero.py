"""Time a window of Silero VAD: the program of its TorchScript file beside ONNX Runtime on its ONNX file.

``python -m benchmarks.silero silero_vad/data`` takes the folder of the package. Leave the machine idle.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import onnxruntime
import torch

import jaxlstm

ROUNDS, CALLS = 50, 20


def main(folder: Path) -> None:
    """Print the median times of a call in alternating bursts, after a comparison of the results."""
    model: Any = jaxlstm.load_torchscript(folder / "silero_vad.jit").eval()
    example = torch.randn(2, 576), torch.zeros(2, 2, 128)
    program = jaxlstm.from_module(model._model, example)
    run, compiled = jax.jit(program), jaxlstm.inference.compile(program)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / "silero_vad.onnx", options)
    x, state = (
        np.random.default_rng(0).normal(size=(2, 576)).astype(np.float32),
        np.zeros((2, 2, 128), np.float32),
    )
    feed = {"input": x, "state": state, "sr": np.array(16000)}
    calls: dict[str, Callable[[], Any]] = {
        "jax.jit": lambda: jax.block_until_ready(run(program.params, x, state)),
        "inference.compile": lambda: jax.block_until_ready(compiled(x, state)),
        "ONNX Runtime": lambda: session.run(None, feed),
    }
    expected: Any = session.run(None, feed)[0]
    for name, call in calls.items():
        np.testing.assert_allclose(call()[0], expected, rtol=0, atol=1e-5, err_msg=name)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(CALLS):
                call()
            times[name].append((time.perf_counter() - start) / CALLS)
    for name, values in times.items():
        ratio = statistics.median(np.divide(values, times["ONNX Runtime"]))
        print(f"{name}: {1e6 * statistics.median(values):.0f} us for two streams, {ratio:.2f} of ONNX's")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
