"""ONNX Runtime on the CPU; it does not train."""

from typing import Any

import onnxruntime

from benchmarks.parts import Settings
from benchmarks.peers import onnx_model
from benchmarks.problems import Implementation, Problem, Unsupported


def implementation(problem: Problem, settings: Settings) -> Implementation:
    """Run the problem's ONNX model in a session."""
    if problem.dtype != "float32":
        raise Unsupported(f"has no LSTM in {problem.dtype}")
    model, inputs = onnx_model.problem_model(problem)
    run = session(model, settings.threads)
    return Implementation(lambda: run(inputs)[0], None)


def carrying(params: Any, config: Any, threads: int) -> Any:
    """Return ``call(inputs, state) -> (outputs, state)`` for one sequence of any length."""
    model = onnx_model.onnx_model(params, config, "time", 1, stateful=True)
    return onnx_model.carrying(session(model, threads), config)


def session(model: bytes, threads: int) -> onnx_model.Run:
    """Load a model; the result runs it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs)
