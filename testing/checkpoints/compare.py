"""Bit-for-bit comparison of our tensors with torch's, and random tensors of every supported dtype."""

from typing import Any

import numpy as np
import torch

from jaxlstm_converters.checkpoint import Checkpoint, Tensor


def assert_same_bits(ours: Tensor, theirs: Any) -> None:
    """Assert equal shape, dtype and bits."""
    tensor = theirs.detach() if isinstance(theirs, torch.Tensor) else torch.from_numpy(theirs)
    dtype = str(tensor.dtype).removeprefix("torch.")
    array = np.asarray(ours)
    assert (ours.dtype.name, array.dtype.name) == (dtype, dtype)
    assert ours.shape == array.shape == tuple(tensor.shape)
    assert array.flags.writeable
    assert array.flags.c_contiguous
    assert array.dtype.isnative
    dense = tensor.contiguous().reshape(-1)
    expected = dense.view(torch.uint8).numpy() if dense.numel() else np.empty(0, np.uint8)
    np.testing.assert_array_equal(array.reshape(-1).view(np.uint8), expected)


def assert_same_checkpoint(ours: Checkpoint, theirs: dict[str, Any]) -> None:
    """Assert equal names in the same order and equal bits."""
    assert list(ours) == list(theirs)
    for name, tensor in theirs.items():
        assert_same_bits(ours[name], tensor)


def flattened(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested dicts, lists and tuples to dotted names, independently of the reader."""
    if isinstance(tree, torch.Tensor | np.ndarray):
        return {prefix: tree}
    if isinstance(tree, dict):
        members = list(tree.items())
    elif isinstance(tree, list | tuple):
        members = list(enumerate(tree))
    else:
        return {}
    named = {}
    for key, member in members:
        named |= flattened(member, f"{prefix}.{key}" if prefix else str(key))
    return named


DTYPES = [
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float8_e4m3fn", "float8_e5m2"),
]


def random_tensor(dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return a tensor of random bits (random values for bool)."""
    generator = torch.Generator().manual_seed(0)
    if dtype == "bool":
        return torch.randint(0, 2, shape, generator=generator).bool()
    width = torch.empty((), dtype=getattr(torch, dtype)).element_size()
    raw = torch.randint(0, 256, (*shape, width), dtype=torch.uint8, generator=generator)
    return raw.view(getattr(torch, dtype)).reshape(shape)
