"""Other libraries' LSTMs: the only place where they are imported, one file each, when they are asked for.

Each file has ``side(problem, setting)``, a :class:`jaxlstm.bench.side.Side` with the problem's weights. They
are laid out as the library wants them beforehand, since its user would keep them so.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib import metadata
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from jaxlstm.bench.setting import Setting
    from jaxlstm.bench.side import Side
    from jaxlstm.bench.sizes import Problem


class Peer(NamedTuple):
    """The file here that knows a library, the distributions that it needs, and where it runs."""

    module: str
    distributions: tuple[str, ...]
    devices: tuple[str, ...] = ("cpu", "gpu", "tpu")


PEERS = {
    "torch": Peer("torch", ("torch",), ("cpu", "gpu")),
    "torch-compile": Peer("torch_compile", ("torch",), ("cpu", "gpu")),
    "cudnn": Peer("cudnn", ("jax",), ("gpu",)),
    "onnxruntime": Peer("onnxruntime", ("onnxruntime", "onnx"), ("cpu",)),
    "openvino": Peer("openvino", ("openvino", "onnx"), ("cpu",)),
    "flax-nnx": Peer("flax_nnx", ("flax",)),
    "flax-linen": Peer("flax_linen", ("flax",)),
    "equinox": Peer("equinox", ("equinox",)),
    "haiku": Peer("haiku", ("dm-haiku",)),
    "keras": Peer("keras", ("keras",)),
}


def missing(name: str) -> list[str]:
    """The distributions that a peer needs and that are not installed."""
    return [wanted for wanted in PEERS[name].distributions if not _installed(wanted)]


def load(name: str) -> Callable[[Problem, Setting], Side]:
    """What makes a peer's side of a problem in a setting; imports the library."""
    return importlib.import_module(f"{__name__}.{PEERS[name].module}").side


def _installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
