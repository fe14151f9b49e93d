"""The precision of torch's float32 matrix products: read and set all settings at once.

torch has separate settings for cuDNN's RNN, for cuBLAS and, on a CPU, for oneDNN, which computes in bfloat16
after ``torch.set_float32_matmul_precision("medium")``. A check sets all of them and restores the caller's.
"""

import contextlib
import operator
from collections.abc import Iterator
from typing import Any

_PARTS = ("cudnn.rnn", "cudnn.conv", "cuda.matmul", "mkldnn.rnn", "mkldnn.matmul")
_SETTINGS: dict[str, Any] = {f"backends.{part}.fp32_precision": "ieee" for part in _PARTS}
_BEFORE_2_9 = {"backends.cudnn.allow_tf32": False, "backends.cuda.matmul.allow_tf32": False}
"""The values of the settings that affect an LSTM, for products in float32."""


def in_force() -> dict[str, str]:
    """Return the current value of every setting by its name in torch."""
    import torch

    return {f"torch.{setting}": str(operator.attrgetter(setting)(torch)) for setting in _here()}


@contextlib.contextmanager
def pinned() -> Iterator[None]:
    """Compute products in float32 within a context."""
    import torch

    previous = {setting: operator.attrgetter(setting)(torch) for setting in _here()}
    try:
        _set(_here())
        yield
    finally:
        _set(previous)


def _set(values: dict[str, Any]) -> None:
    import torch

    for setting, value in values.items():
        owner, _, name = setting.rpartition(".")
        setattr(operator.attrgetter(owner)(torch), name, value)


def _here() -> dict[str, Any]:
    """Return the settings of this version of torch. It rejects a mix of new and old names."""
    import torch

    return _SETTINGS if hasattr(torch.backends.cudnn, "rnn") else _BEFORE_2_9
