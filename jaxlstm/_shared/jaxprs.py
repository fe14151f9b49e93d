"""The equations of a traced function."""

from collections.abc import Iterator
from typing import Any

from jax.extend.core import jaxprs_in_params


def equations(jaxpr: Any) -> Iterator[Any]:
    """Yield the equations of a function; inner functions come before the equation that calls them."""
    for equation in jaxpr.eqns:
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)
        yield equation
