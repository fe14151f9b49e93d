"""Three torch models and their Flax ports, right or with one of the planted faults of ``FAULTS``.

Each function takes the name of a fault, or "" for the right port, and returns torch's model, the port, the
arguments, and the ``call`` of ``verify_model``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from testing.model_ports import crnn as _crnn
from testing.model_ports import hybrid as _hybrid
from testing.model_ports import tagger as _tagger

MODELS: dict[str, Callable[[str], tuple[Any, Any, tuple[Any, ...], Any]]] = {
    "crnn": _crnn.crnn,
    "tagger": _tagger.tagger,
    "hybrid": _hybrid.hybrid,
}
FAULTS = {
    (part.__name__.rpartition(".")[2], fault): cause
    for part in (_crnn, _tagger, _hybrid)
    for fault, cause in part.FAULTS.items()
}
"""The cause that the report must name, by model and fault."""
