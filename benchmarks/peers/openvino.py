"""OpenVINO on the CPU; it does not train."""

import functools
import io
import sys

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # no usage reports

import openvino  # noqa: E402

from benchmarks.peers import onnx_model  # noqa: E402
from benchmarks.problems import Unsupported  # noqa: E402


def session(model: bytes, threads: int, dtype: str = "float32", *, copy: bool = False) -> onnx_model.Run:
    """Compile a model with float32 inputs and outputs that computes in ``dtype``; the result runs it.

    Without ``copy``, the next run overwrites the outputs.
    """
    hints = {"float32": ("f32", "FP32"), "bfloat16": ("bf16", "BF16"), "float16": ("f16", "FP16")}
    hint, capability = hints[dtype]
    core = openvino.Core()
    if capability not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise Unsupported(f"does not compute in {dtype} on this CPU")
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": hint,  # the default differs between CPUs
    }
    compiled = core.compile_model(core.read_model(io.BytesIO(model)), "CPU", settings)
    infer = functools.partial(
        compiled.create_infer_request().infer, share_inputs=True, share_outputs=not copy
    )
    return lambda inputs: [*infer(inputs).values()]


implementation = functools.partial(onnx_model.implementation, session)
step = functools.partial(onnx_model.step, functools.partial(session, copy=True))
