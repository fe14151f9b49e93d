"""Templates of convolutions with computed weights, pooling and padding.

Convolutions and pools are spelled with the channels last, as the graph has them.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from jaxlstm.programs.graph import same_size
from jaxlstm.programs.operators.axes import repeated
from jaxlstm_converters.source.spelling.typed_node import Rule, TypedNode, only_if

_AXES = {1: "W", 2: "HW", 3: "DHW"}


def compact(values: Sequence[Any]) -> Any:
    """Return one value for all spatial axes if they are equal, else all of them."""
    return values[0] if len(set(values)) == 1 else tuple(values)


def conv_padding(operation: TypedNode, sizes: Sequence[int]) -> Any:
    """Return the padding of a convolution as Flax takes it."""
    padding = operation["padding"]
    if isinstance(padding, str):
        return padding.upper()
    pads = repeated(padding, len(sizes))
    return compact(pads) if any(pads) else "VALID"


def _convolved(operation: TypedNode, transposed: bool = False) -> str | None:
    """Return ``lax.conv_general_dilated``: if transposed, of an image with zeros between its elements."""
    weight, image = operation.type("weight"), operation.type("input")
    if weight is None or image is None or operation.is_half() or not operation.channels_last:
        return None
    kernel, groups = [size for size in weight.shape[2:] if isinstance(size, int)], operation["groups"]
    n, is_depthwise = len(kernel), weight.shape[:2] == (groups, 1)
    if len(image.shape) != n + 2 or (transposed and groups > 1 and not is_depthwise):
        return None
    dilations, images = repeated(operation["dilation"], n), f"N{_AXES[n]}C"
    operation.extra.update(
        strides=repeated(operation["stride"], n),
        dilations=None if set(dilations) == {1} else dilations,
        order=(images, f"{'IO' if transposed and groups == 1 else 'OI'}{_AXES[n]}", images),
    )
    if transposed:
        pads: Any = transposed_pads(operation, kernel)
        operation.extra.update(axes=tuple(range(2, n + 2)), ones=(1,) * n)
        arguments = "jnp.flip(weight, axes), ones, pads, lhs_dilation=strides"
    else:
        padding = conv_padding(operation, kernel)
        pads = padding if isinstance(padding, str) else tuple((p, p) for p in repeated(padding, n))
        arguments = "weight, strides, pads"
    operation.extra["pads"] = pads
    settings = "rhs_dilation=dilations, dimension_numbers=order, feature_group_count=groups"
    template = f"lax.conv_general_dilated(input, {arguments}, {settings})"
    return template if operation["bias"] is None else f"{template} + bias"


def transposed_pads(operation: TypedNode, kernel: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Return the paddings with which JAX's transposed convolution gives torch's result."""
    names = ("dilation", "padding", "output_padding")
    settings = (repeated(operation[name], len(kernel)) for name in names)
    return tuple(
        (d * (k - 1) - p, d * (k - 1) - p + extra) for k, d, p, extra in zip(kernel, *settings, strict=True)
    )


def _pooled(kind: str, n: int, operation: TypedNode) -> str | None:
    """Return ``nnx.max_pool`` or ``nnx.avg_pool``."""
    if not operation.is_float() or operation["ceil_mode"] or not operation.channels_last:
        return None
    settings = [operation.arguments.get(name) for name in ("kernel_size", "stride", "padding", "dilation")]
    kernel = repeated(settings[0], n)
    stride, pads = repeated(settings[1], n, default=kernel), repeated(settings[2], n)
    if set(repeated(settings[3], n, default=1)) != {1} or operation.arguments.get("divisor_override"):
        return None
    padding = tuple((p, p) for p in pads) if any(pads) else "VALID"
    operation.extra.update(window=kernel, strides=stride, pads=padding)
    count = "" if kind == "max" else ", count_include_pad=count_include_pad"
    return f"nnx.{kind}_pool(self, window, strides=strides, padding=pads{count})"


def _adaptive(operation: TypedNode) -> str | None:
    """Return the mean over the axes of which one element is left."""
    own, result = operation.type("self"), operation.result
    if own is None or result is None or not operation.is_float():
        return None
    n = len(operation["output_size"])
    first = len(own.shape) - n - operation.channels_last
    places = [place for place in range(first, first + n) if not same_size(own, place, result, place)]
    if not places:
        return "self"
    if all(result.shape[place] == 1 for place in places):
        operation.extra["place"] = tuple(places) if len(places) > 1 else places[0]
        return "self.mean(axis=place, keepdims=True)"
    return None


_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def _padded(mode: str | None, operation: TypedNode) -> str | None:
    """Return ``jnp.pad``; negative widths crop, which it does not do."""
    widths = operation.arguments.get("pad") or operation.arguments.get("padding") or ()
    if any(isinstance(width, int) and width < 0 for width in widths):
        return None
    if not any(widths):
        return "self"
    mode = mode or _MODES[operation.arguments.get("mode") or "constant"]
    pairs = list(zip(widths[::2], widths[1::2], strict=True))[::-1]
    operation.extra.update(
        widths=((0, 0),) * (operation.ndim() - len(pairs)) + tuple(pairs),
        mode=mode,
        filling=operation.arguments.get("value") or 0,
    )
    return f"jnp.pad(self, widths, mode=mode{', constant_values=filling' if mode == 'constant' else ''})"


def _enlarged(n: int, operation: TypedNode) -> str | None:
    """Return the repetition of each element, if the factors are small integers."""
    name = "input" if "input" in operation.arguments else "self"
    own, result = operation.type(name), operation.result
    if own is None or result is None:
        return None
    first = len(own.shape) - n - operation.channels_last
    sizes = list(zip(result.shape, own.shape, strict=True))[first : first + n]
    ratios = [a / b if isinstance(a, int) and isinstance(b, int) else 0.5 for a, b in sizes]
    factors = operation.arguments.get("scale_factors") or ratios
    template = name
    for place, factor in enumerate(factors, start=first):
        if factor not in range(1, 9):
            return None
        if factor > 1:
            template = f"jnp.repeat({template}, {int(factor)}, axis={place})"
    return template


def _weight_norm(operation: TypedNode) -> str:
    dim, ndim = operation["dim"], operation.ndim("v")
    kept = () if dim == -1 else (dim % ndim,)
    others = tuple(place for place in range(ndim) if place not in kept)
    operation.extra["others"] = others[0] if len(others) == 1 else others
    over = "axis=others, keepdims=True" if kept else ""
    return f"v * (g / jnp.sqrt(jnp.square(v).sum({over})))"


RULES: dict[str, Rule] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolved),
    **{f"conv_transpose{n}d": partial(_convolved, transposed=True) for n in (1, 2, 3)},
    **{f"max_pool{n}d": partial(_pooled, "max", n) for n in (1, 2, 3)},
    **{f"avg_pool{n}d": partial(_pooled, "avg", n) for n in (1, 2, 3)},
    **{f"adaptive_avg_pool{n}d": _adaptive for n in (1, 2, 3)},
    "pad": partial(_padded, None),
    "constant_pad_nd": partial(_padded, "constant"),
    **{f"reflection_pad{n}d": partial(_padded, "reflect") for n in (1, 2, 3)},
    **{f"replication_pad{n}d": partial(_padded, "edge") for n in (1, 2, 3)},
    **{f"upsample_nearest{n}d": partial(_enlarged, n) for n in (1, 2, 3)},
    "_weight_norm": only_if(lambda op: op.is_float() and op.ndim("v"), _weight_norm),
}
