"""The precision of torch's float32 matrix products: read and set all settings at once.

torch has separate settings for cuDNN's RNN, for cuBLAS and, on a CPU, for oneDNN, which computes in bfloat16
after ``torch.set_float32_matmul_precision("medium")``. A check sets all of them and restores the caller's.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterator
from typing import Any

# The settings that affect an LSTM: owner, name, and the values for products in float32 and in TF32. A CPU has
# no TF32.
_SETTINGS = (
    ("backends.cudnn.rnn", "fp32_precision", "ieee", "tf32"),
    ("backends.cudnn.conv", "fp32_precision", "ieee", "tf32"),
    ("backends.cuda.matmul", "fp32_precision", "ieee", "tf32"),
    ("backends.mkldnn.rnn", "fp32_precision", "ieee", "ieee"),
    ("backends.mkldnn.matmul", "fp32_precision", "ieee", "ieee"),
)
_BEFORE_2_9 = (
    ("backends.cudnn", "allow_tf32", False, True),
    ("backends.cuda.matmul", "allow_tf32", False, True),
)


def in_force() -> dict[str, str]:
    """Return the current value of every setting by its name in torch."""
    import torch

    values = {f"torch.{path}.{name}": str(getattr(_owner(path), name)) for path, name, _, _ in _here()}
    for owner in ("backends.cudnn", "backends.cuda.matmul"):
        old = _read(lambda owner=owner: _owner(owner).allow_tf32)
        values.setdefault(f"torch.{owner}.allow_tf32", old)
    name = "get_float32_matmul_precision"
    return values | {f"torch.{name}()": _read(getattr(torch, name))}


@contextlib.contextmanager
def pinned(*, tf32: bool = False) -> Iterator[None]:
    """Compute products in float32, or on a GPU in TF32, within a context."""
    settings = [
        (_owner(path), name, as_tf32 if tf32 else as_float32) for path, name, as_float32, as_tf32 in _here()
    ]
    before = [getattr(owner, name) for owner, name, _ in settings]
    try:
        for owner, name, value in settings:
            setattr(owner, name, value)
        yield
    finally:
        for (owner, name, _), value in zip(settings, before, strict=True):
            setattr(owner, name, value)


def _here() -> tuple[tuple[str, str, Any, Any], ...]:
    """Return the settings of this version of torch. It rejects a mix of new and old names."""
    import torch

    return _SETTINGS if hasattr(torch.backends.cudnn, "rnn") else _BEFORE_2_9


def _read(read: Callable[[], Any]) -> str:
    """Read a setting of the old interface. torch raises if it cannot express the new settings."""
    try:
        return str(read())
    except RuntimeError:
        return "superseded by the newer settings"


def _owner(path: str) -> Any:
    import torch

    return operator.attrgetter(path)(torch)
