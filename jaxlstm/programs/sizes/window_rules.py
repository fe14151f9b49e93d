"""Rules of operators on windows along an axis of unknown size: convolutions and pooling."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from jaxlstm.programs.operators.axes import repeated
from jaxlstm.programs.operators.registry import CHANNELS_LAST
from jaxlstm.programs.sizes.prefix import Apply, Prefix, is_among
from jaxlstm.programs.sizes.reduction_rules import masked, scaled


def _convolution(
    last: bool,
    n: int,
    apply: Apply,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Prefix | None:
    """Convolve with zeros after the end, as torch pads."""
    place = _place(last, n, input)
    if place is None or is_among((weight, bias)):
        return None
    reach = repeated(dilation, n)[place] * (weight.shape[2 + place] - 1)
    pads = (
        {"same": reach, "valid": 0}[padding] if isinstance(padding, str) else 2 * repeated(padding, n)[place]
    )
    array = apply(masked(input, 0, input.axes), weight, bias, stride, padding, dilation, groups)
    return input.unless_empty(_windows(input, array, pads - reach, repeated(stride, n)[place]))


def _pooling(fill: float, last: bool, n: int, apply: Apply, self: Any, **settings: Any) -> Any:
    """Pool windows that end before the end."""
    place = _place(last, n, self)
    if place is None or is_among(settings) or settings.get("ceil_mode"):
        return None
    kernel, stride, pad, spread = (
        repeated(settings.get(name, default), n, default=settings["kernel_size"])[place]
        for name, default in (("kernel_size", None), ("stride", ()), ("padding", 0), ("dilation", 1))
    )
    if fill == 0 and pad:  # The number of elements of a window depends on its place.
        return None
    array = apply(masked(self, fill, self.axes), **settings)
    return _windows(self, array, 2 * pad - spread * (kernel - 1), stride)


def _adaptive(fill: float, last: bool, n: int, apply: Apply, self: Any, output_size: Any) -> Any:
    is_whole = n == 1 and _place(last, n, self) is not None and tuple(output_size) == (1,)
    if not is_whole:
        return None
    result = apply(masked(self, fill, self.axes), output_size)
    return result if fill else scaled(result, self.array.shape[self.axis] / self.count.number())


def _place(last: bool, n: int, x: Any) -> int | None:
    """Return which of n spatial axes is unknown; None for another axis, or for several."""
    if not isinstance(x, Prefix) or len(x.axes) > 1:
        return None
    place = x.axis - (x.array.ndim - n - last)
    return place if 0 <= place < n else None


def _windows(self: Prefix, array: Any, gain: int, step: int) -> Prefix:
    """Return windows along the axis: the first at each ``step`` elements, of an axis longer by ``gain``."""
    count, size = self.count, self.array.shape[self.axis]
    numbers = count.number(), size, count.whole * count.times, *(n * count.times for n in count.possible)
    number, most, whole, *possible = ((n + gain - 1) // step + 1 for n in numbers)
    count = replace(count, value=number, size=most, times=1, at_whole=whole, possible=tuple(possible))
    return replace(self, array=array, count=count)


WINDOWS: dict[str, Callable[..., Any]] = {
    f"{space}{name}{n}d.{form}": partial(rule, space == CHANNELS_LAST, n)
    for space in ("aten.", CHANNELS_LAST)
    for n in (1, 2, 3)
    for name, form, rule in (
        ("conv", "default", _convolution),
        ("conv", "padding", _convolution),
        ("max_pool", "default", partial(_pooling, -math.inf)),
        ("avg_pool", "default", partial(_pooling, 0.0)),
        ("adaptive_max_pool", "default", partial(_adaptive, -math.inf)),
        ("adaptive_avg_pool", "default", partial(_adaptive, 0.0)),
    )
}
