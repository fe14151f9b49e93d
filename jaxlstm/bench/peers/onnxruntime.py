"""ONNX Runtime on the CPU."""

from __future__ import annotations

import onnxruntime

from jaxlstm.bench.peers.onnx_model import onnx_model
from jaxlstm.bench.setting import Setting
from jaxlstm.bench.side import Side
from jaxlstm.bench.sizes import Problem


def side(problem: Problem, setting: Setting) -> Side:
    """A session over the problem's ONNX model; it does not train."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = setting.threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        onnx_model(problem), options, providers=["CPUExecutionProvider"]
    )
    feed = {"x": problem.inputs}
    if problem.lengths is not None:
        feed["lengths"] = problem.lengths
    return Side(lambda: session.run(None, feed)[0], None)
