"""One side of a comparison: what a library does to be timed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Unsupported(Exception):  # noqa: N818, it is no fault
    """A side cannot do this; the message says why, and the rest goes on without it."""


class Side(NamedTuple):
    """Two calls, each of which returns when its work is done.

    ``infer()`` gives the outputs (T, B, D*h_size), zero behind each sequence's end. ``train()`` gives the
    gradients of the sum of the squared outputs: by the inputs, and by the weights, as a dict under torch's
    names or as the library's own tree. It is None where a library does not train.
    """

    infer: Callable[[], Any]
    train: Callable[[], tuple[Any, Any]] | None
