"""ONNX Runtime on the CPU with weights and activations quantized to 8 bits; it does not train."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
from onnxruntime import quantization
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from benchmarks.implementation import Implementation
from benchmarks.peers import onnx_model
from benchmarks.peers.onnxruntime import session
from benchmarks.problems import Problem
from benchmarks.settings import Settings


def implementation(problem: Problem, settings: Settings) -> Implementation:
    """Run the problem's ONNX model with ``DynamicQuantizeLSTM``."""
    model, inputs = onnx_model.problem_model(problem)
    run = session(_quantized(model), settings.threads)
    return Implementation(lambda: run(inputs)[0], None, arithmetic="int8")


def _quantized(model: bytes) -> bytes:
    proto = onnx.load_model_from_string(model)
    add_pre_process_metadata(proto)  # or it logs advice to optimize the model, which the session does anyway
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "quantized.onnx"
        quantization.quantize_dynamic(proto, path, op_types_to_quantize=["LSTM"])
        return path.read_bytes()
