"""OpenVINO on the CPU."""

from __future__ import annotations

import io
import sys
from typing import Any

# A process that would tell OpenVINO's makers of each use; without it openvino takes a stub of its own.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino  # noqa: E402

from jaxlstm.bench.peers.onnx_model import onnx_model  # noqa: E402
from jaxlstm.bench.setting import Setting  # noqa: E402
from jaxlstm.bench.side import Side  # noqa: E402
from jaxlstm.bench.sizes import Problem  # noqa: E402


def side(problem: Problem, setting: Setting) -> Side:
    """A compiled model in float32, which is not its default on every CPU; it does not train."""
    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": setting.threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    model = core.read_model(io.BytesIO(onnx_model(problem)))
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    feed = {"x": problem.inputs}
    if problem.lengths is not None:
        feed["lengths"] = problem.lengths

    def infer() -> Any:
        return request.infer(feed, share_inputs=True, share_outputs=True)["y"]

    return Side(infer, None)
