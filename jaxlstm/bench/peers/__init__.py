"""Other libraries' LSTMs: the only place where they are imported, one file each, when they are asked for.

Each file has ``side(problem, threads)``, a :class:`jaxlstm.bench.side.Side` with the problem's weights. They
are laid out as the library wants them beforehand, since its user would keep them so.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib import metadata
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from jaxlstm.bench.side import Side
    from jaxlstm.bench.sizes import Problem


class Peer(NamedTuple):
    """The file here that knows a library, and the distributions that it needs."""

    module: str
    distributions: tuple[str, ...]


PEERS = {
    "torch": Peer("torch", ("torch",)),
    "torch-compile": Peer("torch_compile", ("torch",)),
    "onnxruntime": Peer("onnxruntime", ("onnxruntime", "onnx")),
    "openvino": Peer("openvino", ("openvino", "onnx")),
    "flax-nnx": Peer("flax_nnx", ("flax",)),
    "flax-linen": Peer("flax_linen", ("flax",)),
    "equinox": Peer("equinox", ("equinox",)),
    "haiku": Peer("haiku", ("dm-haiku",)),
    "keras": Peer("keras", ("keras",)),
}


def missing(name: str) -> list[str]:
    """The distributions that a peer needs and that are not installed."""
    return [wanted for wanted in PEERS[name].distributions if not _installed(wanted)]


def load(name: str) -> Callable[[Problem, int], Side]:
    """What makes a peer's side of a problem and a number of threads; imports the library."""
    return importlib.import_module(f"{__name__}.{PEERS[name].module}").side


def _installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
