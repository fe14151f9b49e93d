"""Faults of attention and of masks: inverted or missing masks, scale, heads, and swapped projections."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from jaxlstm.check.reference.torch_faults.operation import Operation, Variant, changed, faults_of, missing

Parts = list[Any]
"""The three parts of a packed projection: those of query, key and value."""


@faults_of("masked_fill", "where", "scaled_dot_product_attention", "multi_head_attention_forward")
def masks(operation: Operation) -> Iterator[Variant]:
    """Yield the faults of the arguments that are masks."""
    for name in ("mask", "condition", "key_padding_mask", "attn_mask"):
        if not hasattr(operation.get(name), "dtype"):
            continue
        cause = f"the {name} of {{where}} is inverted"
        yield Variant(cause, lambda op, name=name: op.run(**{name: _inverted(op.get(name))}))
        if name in ("attn_mask", "key_padding_mask"):
            yield changed(f"{{where}} has no {name}", **{name: None})
        elif operation.name == "masked_fill":
            yield missing()


def _inverted(mask: Any) -> Any:
    """Invert a mask of bools, or one of zeros and minus infinity that is added to the scores.

    The result for scores is finite, as in Flax: a row that is masked everywhere then gives a mean.
    """
    import torch

    if mask.dtype == torch.bool:
        return ~mask
    return torch.zeros_like(mask).masked_fill(mask == 0, torch.finfo(mask.dtype).min)


@faults_of("scaled_dot_product_attention")
def dot_product(operation: Operation) -> Iterator[Variant]:
    """Yield faults of ``scaled_dot_product_attention``."""
    yield changed("{where} does not scale the scores", scale=1.0)
    if operation.get("attn_mask") is None:
        causal = operation.get("is_causal", False)
        words = "is not causal" if causal else "is causal"
        yield changed(f"{{where}} {words}", is_causal=not causal)


@faults_of("multi_head_attention_forward")
def multi_head(operation: Operation) -> Iterator[Variant]:
    """Yield faults of ``multi_head_attention_forward``."""
    heads, rows = operation.get("num_heads"), operation.get("embed_dim_to_check")
    if operation.get("in_proj_bias") is not None:
        yield changed("the projections of {where} have no bias", in_proj_bias=None)
        no_bias = operation.get("out_proj_bias") * 0
        yield changed("the output of {where} has no bias", out_proj_bias=no_bias)
    if operation.get("in_proj_weight") is None:
        return
    scale = (rows // heads) ** 0.5
    yield Variant(
        "{where} does not scale the scores",
        partial(_projected, change=lambda parts: [parts[0] * scale, *parts[1:]]),
    )
    heads_last = [d * heads + h for h, d in itertools.product(range(heads), range(rows // heads))]
    yield Variant(
        "{where} has its heads as (size, heads) instead of (heads, size)",
        lambda op: _projected(
            op,
            lambda parts: [part[heads_last] for part in parts],
            out_proj_weight=op.get("out_proj_weight")[:, heads_last],
        ),
    )
    for order, words in (
        ((1, 0, 2), "query and key"),
        ((0, 2, 1), "key and value"),
        ((2, 1, 0), "query and value"),
    ):
        yield Variant(
            f"the {words} projections of {{where}} are swapped",
            partial(_projected, change=lambda parts, order=order: [parts[k] for k in order]),
        )
    if heads > 1:
        yield changed("{where} has one head", num_heads=1)


def _projected(operation: Operation, change: Callable[[Parts], Parts], **changes: Any) -> Any:
    """Run the attention with another packed weight and bias of its projections."""
    import torch

    for name in ("in_proj_weight", "in_proj_bias"):
        if (packed := operation.get(name)) is not None:
            changes[name] = torch.cat(change(packed.chunk(3)))
    return operation.run(**changes)
