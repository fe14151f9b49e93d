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
    **{("crnn", fault): cause for fault, cause in _crnn.FAULTS.items()},
    **{("tagger", fault): cause for fault, cause in _tagger.FAULTS.items()},
    **{("hybrid", fault): cause for fault, cause in _hybrid.FAULTS.items()},
}
"""The cause that the report must name, by model and fault."""
