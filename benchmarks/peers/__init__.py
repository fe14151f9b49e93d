"""Adapters for other libraries' LSTMs, one file per library; nothing else here imports those libraries.

Each file defines ``implementation(problem, settings)``. Weights are converted to the library's layout once,
outside the timed calls. Files of libraries with a stateful session also define ``step(problem, settings)``,
used by `benchmarks.streams`.
"""

import importlib
from importlib import metadata
from typing import Any

PEERS = {
    "torch": ("torch",),
    "onnxruntime": ("onnxruntime", "onnx"),
    "openvino": ("openvino", "onnx"),
    "flax-nnx": ("flax",),
}
"""The distributions that each adapter needs."""


def missing(name: str) -> list[str]:
    """Return the distributions that a peer needs and that are not installed."""
    return [name for name in PEERS[name] if version(name) is None]


def version(distribution: str) -> str | None:
    """Return the installed version of a distribution, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def load(name: str) -> Any:
    """Import the adapter of a peer, and with it the library."""
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
