"""List the matrix products of a program with their requested precision."""

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from jaxlstm._shared.jaxprs import equations

NAMES = ("dot_general", "conv_general_dilated", "ragged_dot_general")


class Product(NamedTuple):
    """A primitive that multiplies matrices and its precision: "HIGHEST", "HIGH", "DEFAULT" or "None"."""

    name: str
    level: str


def products_of(function: Callable[..., Any], *arguments: Any) -> list[Product]:
    """Return the products in the jaxpr of a call, including loops, branches and derivatives.

    A kernel counts as one product: its primitive carries the precision, its contents are opaque to
    JAX.
    """
    return list(_products(jax.make_jaxpr(function)(*arguments).jaxpr))


def _products(jaxpr: Any) -> Iterator[Product]:
    for equation in equations(jaxpr):
        name, params = equation.primitive.name, equation.params
        if name in NAMES or "precision" in params:
            yield Product(name, _level(params["precision"]))


def _level(precision: Any) -> str:
    """Return the precision of both operands; two different ones are joined by "and"."""
    pair = precision if isinstance(precision, tuple) else (precision, precision)
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]} and {pair[1]}"


def levels_for(platform: str, function: Callable[..., Any], *arguments: Any) -> list[str]:
    """Return the precision of each product in the program lowered for ``platform``.

    The platform need not be present.
    """
    lowered = jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,))
    lines = [line for line in lowered.as_text().splitlines() if "stablehlo.dot_general" in line]
    found = [re.search(r"precision = \[(\w+), \1\]", line) for line in lines]
    # The printer omits the default precision.
    return [match[1] if match else "DEFAULT" for match in found]
