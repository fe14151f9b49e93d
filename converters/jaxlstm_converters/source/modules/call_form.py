"""The form in which a parent calls a module: the expression, and the names of the results."""

import ast
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

# The names of the results of a call, as Python unpacks them; None where a result is not used.
Pattern: TypeAlias = "str | tuple[Pattern, ...] | None"


class Called(NamedTuple):
    """How a parent calls a module: an expression with marked values, and the pattern of its results.

    ``returned`` holds the results as the module returns them: in the order of the user's forward if
    ``is_whole``.
    """

    expression: ast.expr
    results: Pattern
    returned: Sequence[ast.expr] = ()
    is_whole: bool = False


def places_in(pattern: Pattern) -> list[str | None]:
    """Return the values in a pattern; None stands for an unused value."""
    return [name for part in pattern for name in places_in(part)] if isinstance(pattern, tuple) else [pattern]


def names_in(pattern: Pattern) -> list[str]:
    """Return the values in a pattern that are used."""
    return [name for name in places_in(pattern) if name]
