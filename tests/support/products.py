"""Every matrix product of a program, and how exact it was asked to be."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from jax.extend.core import jaxprs_in_params

NAMES = ("dot_general", "conv_general_dilated", "ragged_dot_general")


class Product(NamedTuple):
    """A primitive that multiplies, and the level of its precision: "HIGHEST", "HIGH", "DEFAULT" or "None"."""

    name: str
    level: str


def products_of(function: Callable[..., Any], *arguments: Any) -> list[Product]:
    """The products that a call is made of, those in loops, branches and derivatives included.

    A kernel is one of them: what is in it, JAX does not see, and its primitive says what it was asked.
    """
    return list(_in(jax.make_jaxpr(function)(*arguments).jaxpr))


def _in(jaxpr: Any) -> Iterator[Product]:
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name in NAMES or "precision" in params:
            yield Product(name, _level(params["precision"]))
        for inner in jaxprs_in_params(params):
            yield from _in(inner)


def _level(precision: Any) -> str:
    """The level of both operands, which must be one."""
    pair = precision if isinstance(precision, tuple) else (precision, precision)
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]} and {pair[1]}"


def levels_for(platform: str, function: Callable[..., Any], *arguments: Any) -> list[str]:
    """The same of the program that goes to a platform's compiler, without that platform at hand."""
    lowered = jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,))
    lines = [line for line in lowered.as_text().splitlines() if "stablehlo.dot_general" in line]
    found = [re.search(r"precision = \[(\w+), \1\]", line) for line in lines]
    return [match[1] if match else "DEFAULT" for match in found]  # which the printer leaves out
