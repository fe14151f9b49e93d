"""ONNX Runtime on the CPU; it does not train."""

import functools

import onnxruntime

from benchmarks.peers import onnx_model
from benchmarks.problems import Unsupported


def session(model: bytes, threads: int, dtype: str = "float32") -> onnx_model.Run:
    """Load a model; the result runs it."""
    if dtype != "float32":
        raise Unsupported(f"has no LSTM in {dtype}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs)


implementation = functools.partial(onnx_model.implementation, session)
step = functools.partial(onnx_model.step, session)
