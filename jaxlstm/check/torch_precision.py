"""How exactly torch multiplies float32 matrices: what is in force, and one setting for all of it.

torch keeps this in many places: cuDNN's RNN, cuBLAS, and on a CPU oneDNN, whose products
``torch.set_float32_matmul_precision("medium")`` turns to bfloat16. A comparison sets them all, and puts
back what the caller had.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple


class Setting(NamedTuple):
    """An attribute of torch, and what it must be for products in float32 and in TF32."""

    owner: str
    name: str
    float32: Any
    tf32: Any


# What an LSTM's products obey. On a CPU there is no TF32.
_SETTINGS = (
    Setting("backends.cudnn.rnn", "fp32_precision", "ieee", "tf32"),
    Setting("backends.cudnn.conv", "fp32_precision", "ieee", "tf32"),
    Setting("backends.cuda.matmul", "fp32_precision", "ieee", "tf32"),
    Setting("backends.mkldnn.rnn", "fp32_precision", "ieee", "ieee"),
    Setting("backends.mkldnn.matmul", "fp32_precision", "ieee", "ieee"),
)
_BEFORE_2_9 = (
    Setting("backends.cudnn", "allow_tf32", False, True),
    Setting("backends.cuda.matmul", "allow_tf32", False, True),
)


def in_force() -> dict[str, str]:
    """Every setting by its name in torch, as read back from torch now."""
    import torch

    found = {f"torch.{s.owner}.{s.name}": str(getattr(_owner(s.owner), s.name)) for s in _here()}
    for owner in ("backends.cudnn", "backends.cuda.matmul"):
        old = _told(lambda owner=owner: _owner(owner).allow_tf32)
        found.setdefault(f"torch.{owner}.allow_tf32", old)
    name = "get_float32_matmul_precision"
    return found | {f"torch.{name}()": _told(getattr(torch, name))}


@contextlib.contextmanager
def pinned(*, tf32: bool = False) -> Iterator[None]:
    """Products in float32, or on a GPU in TF32, for a while; what was set before is set again behind it."""
    settings = _here()
    before = [getattr(_owner(s.owner), s.name) for s in settings]
    try:
        for s in settings:
            setattr(_owner(s.owner), s.name, s.tf32 if tf32 else s.float32)
        yield
    finally:
        for s, value in zip(settings, before, strict=True):
            setattr(_owner(s.owner), s.name, value)


def _here() -> tuple[Setting, ...]:
    """The settings that this torch has: the new names or the old ones, never both (torch forbids it)."""
    import torch

    return _SETTINGS if hasattr(torch.backends.cudnn, "rnn") else _BEFORE_2_9


def _told(read: Callable[[], Any]) -> str:
    """What an older interface says; torch raises where the newer one set what it has no word for."""
    try:
        return str(read())
    except RuntimeError:
        return "not told: the newer settings say it"


def _owner(path: str) -> Any:
    import torch

    owner: Any = torch
    for name in path.split("."):
        owner = getattr(owner, name)
    return owner
