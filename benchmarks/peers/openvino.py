"""OpenVINO on the CPU; it does not train."""

import io
import sys
from typing import Any

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # no usage reports

import openvino  # noqa: E402

from benchmarks.parts import Settings  # noqa: E402
from benchmarks.peers import onnx_model  # noqa: E402
from benchmarks.problems import Implementation, Problem, Unsupported  # noqa: E402


def implementation(problem: Problem, settings: Settings) -> Implementation:
    """Run the problem's ONNX model as a compiled model."""
    model, inputs = onnx_model.problem_model(problem)
    request = _request(model, settings.threads, problem.dtype)

    def infer() -> Any:
        return request.infer(inputs, share_inputs=True, share_outputs=True)["y"]

    return Implementation(infer, None)


def carrying(params: Any, config: Any, threads: int) -> Any:
    """Return ``call(inputs, state) -> (outputs, state)`` for one sequence of any length."""
    request = _request(onnx_model.onnx_model(params, config, "time", 1, stateful=True), threads)
    names = ["y", *(f"{name}_n" for name in onnx_model.state_names(config))]

    def run(inputs: Any) -> list[Any]:
        outputs = request.infer(inputs, share_inputs=True)
        return [outputs[name] for name in names]

    return onnx_model.carrying(run, config)


def session(model: bytes, threads: int) -> onnx_model.Run:
    """Load a model; the result runs it."""
    request = _request(model, threads)
    return lambda inputs: [*request.infer(inputs, share_inputs=True, share_outputs=True).values()]


def _request(model: bytes, threads: int, dtype: str = "float32") -> Any:
    """Compile a model with float32 inputs and outputs that computes in ``dtype``."""
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
    return core.compile_model(core.read_model(io.BytesIO(model)), "CPU", settings).create_infer_request()
