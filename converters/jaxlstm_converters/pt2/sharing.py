"""`shared_tensors`: the tensors of a program that share memory."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby

from jaxlstm_converters.checkpoint.io.tensor import Tensor


def shared_tensors(tensors: Mapping[str, Tensor]) -> tuple[tuple[str, ...], ...]:
    """Return groups of names of tensors whose ranges of bytes overlap."""
    ranges = sorted((id(tensor.storage), *tensor.byte_range, name) for name, tensor in tensors.items())
    groups: list[list[str]] = []
    for _, of_storage in groupby(ranges, key=lambda item: item[0]):
        reached = -1
        for _, start, end, name in of_storage:
            if start < reached:
                groups[-1].append(name)
            else:
                groups.append([name])
            reached = max(reached, end)
    return tuple(tuple(group) for group in groups if len(group) > 1)
