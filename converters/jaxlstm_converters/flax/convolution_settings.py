"""Settings of a convolution that the shapes of its tensors do not show, compared with torch's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
from flax import nnx

CONVOLUTIONS = (nnx.Conv, nn.Conv, nnx.ConvTranspose, nn.ConvTranspose)
_TRANSPOSED = (nnx.ConvTranspose, nn.ConvTranspose)

SETTINGS = ("stride", "dilation", "padding", "padding_mode", "transposed")
"""The attributes of torch's convolutions that are compared."""

Pads = tuple[tuple[int, int], ...]


def check_convolution(module: Any, theirs: Mapping[str, Any]) -> Iterator[str]:
    """Yield one line for each setting that differs from torch's, if the source records them."""
    if not set(SETTINGS) <= theirs.keys() or len(theirs["stride"]) != len(_each(module.kernel_size, 1)):
        return
    transposed = isinstance(module, _TRANSPOSED)
    if theirs["transposed"] != transposed:
        kinds = ("transposed convolution", "convolution")[:: 1 if transposed else -1]
        yield f"the layer is a {kinds[0]}, but the torch layer is a {kinds[1]}"
        return
    dims = len(theirs["stride"])
    ours = {"strides": _each(module.strides, dims), "kernel_dilation": _each(module.kernel_dilation, dims)}
    for name, other in (("strides", "stride"), ("kernel_dilation", "dilation")):
        if ours[name] != tuple(theirs[other]):
            yield f"{name}={ours[name]}, but the torch layer has {other}={tuple(theirs[other])}"
    if not transposed:
        kernel = _each(module.kernel_size, dims)
        extents = [d * (k - 1) for d, k in zip(theirs["dilation"], kernel, strict=True)]
        yield from _check_padding(module.padding, theirs, extents)


def _check_padding(padding: Any, theirs: Mapping[str, Any], extents: list[int]) -> Iterator[str]:
    """Compare what both pad. A kernel reaches ``extents`` further than its first element."""
    mode, name = theirs["padding_mode"], str(padding).upper()
    reads_around = name if name in ("CIRCULAR", "REFLECT") else "zeros"
    if reads_around.lower() != mode:
        yield f"padding={padding!r} pads with {reads_around}, but the torch layer has padding_mode={mode!r}"
        return
    torch_pads = _torch_pads(theirs["padding"], extents)
    if name == "CAUSAL":  # torch has no such padding: the model pads elsewhere
        return
    if name == "SAME" and any(s > 1 and extent for s, extent in zip(theirs["stride"], extents, strict=True)):
        yield (
            f"padding={padding!r} with strides above 1 depends on the size of the input, and the torch layer "
            f"pads {_listed(torch_pads)}: pass padding={torch_pads}"
        )
    elif (pads := _flax_pads(padding, extents)) != torch_pads:
        yield (
            f"padding={padding!r} pads {_listed(pads)}, but the torch layer {_listed(torch_pads)}: pass "
            f"padding={torch_pads}, unless the model pads elsewhere"
        )


def _torch_pads(padding: Any, extents: list[int]) -> Pads:
    if isinstance(padding, str):
        return _flax_pads(padding, extents)
    return tuple((p, p) for p in padding)


def _flax_pads(padding: Any, extents: list[int]) -> Pads:
    """Return the numbers of elements before and after each axis, for strides of 1."""
    if isinstance(padding, str):
        if padding.upper() == "VALID":
            return ((0, 0),) * len(extents)
        return tuple((extent // 2, extent - extent // 2) for extent in extents)
    each = (padding,) * len(extents) if isinstance(padding, int) else padding
    return tuple((p, p) if isinstance(p, int) else (int(p[0]), int(p[1])) for p in each)


def _each(value: Any, dims: int) -> tuple[int, ...]:
    value = 1 if value is None else value
    return (value,) * dims if isinstance(value, int) else tuple(value)


def _listed(pads: Pads) -> str:
    return ", ".join(f"{before} and {after}" for before, after in pads)
