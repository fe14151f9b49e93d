"""Convolutions and transposed convolutions in one, two and three dimensions."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array, lax

from jaxlstm.layer import precision as precision_
from jaxlstm.layer.convolution import Form, Geometry, Pads, convolve
from jaxlstm.programs.operators.axes import repeated
from jaxlstm.programs.operators.registry import Options, register_layouts

Ints = int | Sequence[int]
_AXES = {1: "W", 2: "HW", 3: "DHW"}


@register_layouts(*(f"aten.conv{n}d.{overload}" for n in (1, 2, 3) for overload in ("default", "padding")))
def conv(
    last: bool,
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    options: Options,
) -> Array:
    """Convolve (N, C, *size) or (C, *size) with (O, C / groups, *kernel)."""
    n = weight.ndim - 2
    dilations = repeated(dilation, n)
    pads = pads_of(padding, weight.shape[2:], dilations)
    return _convolve(
        last, input, weight, bias, pads, repeated(stride, n), (1,) * n, dilations, groups, options
    )


@register_layouts(
    "aten.conv_transpose1d.default", "aten.conv_transpose2d.input", "aten.conv_transpose3d.input"
)
def conv_transpose(
    last: bool,
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    *,
    options: Options,
) -> Array:
    """Apply the transpose of a convolution: (N, C, *size) with (C, O / groups, *kernel)."""
    n = weight.ndim - 2
    dilations = repeated(dilation, n)
    pads = [
        (d * (k - 1) - p, d * (k - 1) - p + extra)
        for k, d, p, extra in zip(
            weight.shape[2:], dilations, repeated(padding, n), repeated(output_padding, n), strict=True
        )
    ]
    # (g * c, o, *k) -> (g * o, c, *k), with the kernel reversed
    per_group = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    kernel = jnp.swapaxes(per_group, 1, 2).reshape(-1, weight.shape[0] // groups, *weight.shape[2:])
    kernel = jnp.flip(kernel, range(2, kernel.ndim))
    return _convolve(
        last, input, kernel, bias, pads, (1,) * n, repeated(stride, n), dilations, groups, options
    )


@register_layouts("aten.convolution.default")
def convolution(
    last: bool,
    input: Array,
    weight: Array,
    bias: Array | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    transposed: bool,
    output_padding: Ints,
    groups: int,
    *,
    options: Options,
) -> Array:
    """Convolve, or apply the transpose: the operator of a decomposed graph."""
    if transposed:
        return conv_transpose(
            last, input, weight, bias, stride, padding, output_padding, groups, dilation, options=options
        )
    return conv(last, input, weight, bias, stride, padding, dilation, groups, options=options)


def pads_of(padding: Ints | str, kernel: Sequence[int], dilations: Sequence[int]) -> Pads:
    """Return the padding (before, after) of each spatial axis."""
    if padding == "valid":
        padding = 0
    if padding == "same":
        totals = [d * (k - 1) for k, d in zip(kernel, dilations, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    assert not isinstance(padding, str), padding
    return [(p, p) for p in repeated(padding, len(kernel))]


def _convolve(
    last: bool,
    x: Array,
    weight: Array,
    bias: Array | None,
    pads: Pads,
    stride: Sequence[int],
    input_dilation: Sequence[int],
    kernel_dilation: Sequence[int],
    groups: int,
    options: Options,
) -> Array:
    space = _AXES[weight.ndim - 2]
    images = f"N{space}C" if last else f"NC{space}"
    precision = precision_.resolve(options.precision)
    batched = x.ndim == weight.ndim

    def plain(groups: int) -> Form:
        return lambda x, weight: lax.conv_general_dilated(
            x,
            weight,
            stride,
            pads,
            input_dilation,
            kernel_dilation,
            (images, f"OI{space}", images),
            groups,
            precision=precision,
        )

    x = x if batched else x[None]
    if last and max(input_dilation) == 1:
        y = convolve(x, weight, Geometry(stride, pads, kernel_dilation), groups, precision, plain)
    else:
        y = plain(groups)(x, weight)
    if bias is not None:
        y = y + (bias if last else bias.reshape(-1, *((1,) * len(space))))
    return y if batched else y[0]
