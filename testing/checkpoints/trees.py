"""Values to save, one for each kind of content that a container must support."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def state_dict() -> Any:
    """Return an LSTM's state dict: an OrderedDict with `_metadata`."""
    torch.manual_seed(0)
    return torch.nn.LSTM(5, 4, 2, bidirectional=True, proj_size=3).state_dict()


def training() -> Any:
    """Return a nested training checkpoint with an optimizer and values that are not tensors."""
    module = torch.nn.LSTM(2, 3)
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.randn(4, 2))[0].sum().backward()
    optimizer.step()
    return {
        "epoch": 3,
        "history": [0.5, float("inf"), -(1 << 70)],
        "model": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "pair": (torch.arange(3), {"ünï": torch.arange(2.0)}),
        "bytes": b"\x00\xff",
        "set": {1, 2},
        "size": torch.Size([1, 2]),
        "device": torch.device("cpu"),
        "dtype": torch.float32,
        "none": None,
        "rng": np.arange(4, dtype=np.uint32),
        "scalar": np.float64(2.5),
    }


def views() -> Any:
    """Return views of one storage: contiguous or not, expanded, overlapping, empty, scalar."""
    torch.manual_seed(1)
    base = torch.randn(6, 8, 4)
    return {
        "whole": base,
        "transposed": base.permute(2, 0, 1),
        "row": base[3],
        "column": base[:, 2, 1],
        "strided": base[1::2, ::3],
        "expanded": base[0, 0, :1].expand(5, 3, 1),
        "windows": base.reshape(-1).unfold(0, 5, 2),
        "empty": base[:0],
        "scalar": base[1, 2, 3],
        "size one": base[2:3, :, 1:2],
    }


def parameters() -> Any:
    """Return parameters, buffers, tensors with attributes and tied tensors."""
    torch.manual_seed(2)
    plain = torch.nn.Parameter(torch.randn(3))
    marked = torch.nn.Parameter(torch.randn(3), requires_grad=False)
    marked.is_special = True  # type: ignore[attr-defined]
    tensor = torch.randn(2)
    tensor.note = "hello"  # type: ignore[attr-defined]
    buffer = torch.nn.Buffer(torch.randn(4))
    return {"p": plain, "m": marked, "t": tensor, "b": buffer, "tied": plain, "half": plain[1:]}


def keys() -> Any:
    """Return dicts with integer keys, which become decimal names."""
    return {0: {-12: torch.arange(2)}, 7: torch.arange(3)}


def bare() -> Any:
    """Return a tensor, whose name is empty."""
    return torch.arange(6.0).reshape(2, 3)


TREES = {f.__name__: f for f in (state_dict, training, views, parameters, keys, bare)}
