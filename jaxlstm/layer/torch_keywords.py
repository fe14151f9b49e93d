"""Advice for keywords of torch that have another name here."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def torch_keywords(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make the error for a keyword of torch name the argument that replaces it.

    Args:
      **names: torch's keyword -> the argument here, such as ``hx="initial_state"``.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for torch_name in names.keys() & kwargs.keys():
                raise TypeError(
                    f"{function.__qualname__} got torch's keyword {torch_name}; "
                    f"pass it as {names[torch_name]} instead"
                )
            return function(*args, **kwargs)

        return call

    return decorate
