"""The catalogue of faults by operation."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from jaxlstm.check.reference.torch_faults import (
    activations,
    arithmetic,
    attention,
    layers,
    pooling,
    precision,
    recurrent,
    selection,
    shapes,
)
from jaxlstm.check.reference.torch_faults.operation import Operation, Variant

_DIMENSIONS = ("1d", "2d", "3d")
_CONVOLUTIONS = tuple(f"{kind}{n}" for kind in ("conv", "conv_transpose") for n in _DIMENSIONS)
_PRODUCTS = ("linear", *_CONVOLUTIONS, "lstm")

_VARIANTS: dict[str, tuple[Callable[[Operation], Iterator[Variant]], ...]] = {
    "linear": (layers.weighted,),
    **dict.fromkeys(_CONVOLUTIONS, (layers.convolution,)),
    "batch_norm": (layers.batch_norm,),
    **dict.fromkeys(("layer_norm", "group_norm", "instance_norm", "rms_norm"), (layers.normalization,)),
    "embedding": (layers.embedding,),
    **{f"{kind}_pool{n}": (pooling.pooling,) for kind in ("max", "avg") for n in _DIMENSIONS},
    **dict.fromkeys(activations.NAMES, (activations.activation,)),
    **dict.fromkeys(("softmax", "log_softmax"), (activations.softmax,)),
    "dropout": (activations.dropout,),
    **dict.fromkeys(("flatten", "view", "reshape"), (shapes.reshaping,)),
    "cat": (shapes.concatenation,),
    "add": (shapes.addition,),
    **dict.fromkeys(selection.REDUCTIONS, (selection.reduction,)),
    "indexing": (selection.indexing,),
    **dict.fromkeys(("mul", "div"), (arithmetic.scaling,)),
    "interpolate": (arithmetic.resampling,),
    "masked_fill": (attention.mask_of("mask"),),
    "where": (attention.mask_of("condition"),),
    "scaled_dot_product_attention": (attention.dot_product,),
    "multi_head_attention_forward": (attention.multi_head,),
    "lstm": (recurrent.recurrent,),
    "pack_padded_sequence": (recurrent.packing,),
}

KNOWN = frozenset(_VARIANTS)
"""The names of the operations that have faults."""


def variants(operation: Operation, *, rounding: bool = False) -> Iterator[Variant]:
    """Yield the faults of an operation; if ``rounding`` is true, its faults of precision."""
    if rounding:
        if operation.name in _PRODUCTS:
            yield from precision.product(operation)
        return
    for make in _VARIANTS[operation.name]:
        yield from make(operation)
