"""Operations of a torch module, and the variants that a wrong port may compute."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxlstm.check.reference.torch_faults.argument_names import ARGUMENT_NAMES, RENAMED


@dataclass(frozen=True)
class Operation:
    """One call of a torch function.

    Attributes:
      name: the function's name without underscores, such as "conv2d".
      path: the path of the innermost module that is running, empty at the root.
      function: the function.
      arguments: its arguments by name; ``input`` is the tensor of a method.
      positional: the positional arguments of a function whose arguments have no names here.
    """

    name: str
    path: str
    function: Callable[..., Any]
    arguments: Mapping[str, Any]
    positional: tuple[Any, ...] = ()

    @property
    def where(self) -> str:
        """The path and the name, for reports."""
        return f"{self.path} ({self.name})" if self.path else f"{self.name} in forward"

    def get(self, name: str, default: Any = None) -> Any:
        """Return an argument, or ``default`` if it was not passed."""
        return self.arguments.get(name, default)

    def run(self, **changes: Any) -> Any:
        """Call the function with some of its arguments replaced."""
        arguments = {**self.arguments, **changes}
        if self.positional or self.name not in ARGUMENT_NAMES:
            return self.function(*self.positional, **arguments)
        # A method and a builtin name their arguments differently; both take them in this order.
        args = []
        for name in ARGUMENT_NAMES[self.name]:
            if name not in arguments:
                break
            args.append(arguments.pop(name))
        return self.function(*args, **arguments)


Replacement = Callable[[Operation], Any]


@dataclass(frozen=True)
class Variant:
    """An operation as a wrong port may compute it.

    Attributes:
      cause: completes the sentence "the model matches torch's in which ..."; ``{where}`` is the place.
      apply: computes the wrong result.
    """

    cause: str
    apply: Replacement


def name_of(function: Any) -> str:
    """Return the usual name of a torch function."""
    name = getattr(function, "__name__", "")
    return RENAMED.get(name, name)


def operation_of(
    name: str, path: str, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Operation:
    """Return the operation of a call, its arguments by name if they have names."""
    if name in ARGUMENT_NAMES and len(args) <= len(ARGUMENT_NAMES[name]):
        return Operation(
            name, path, function, dict(zip(ARGUMENT_NAMES[name], args, strict=False)) | dict(kwargs)
        )
    try:
        bound = inspect.signature(function).bind(*args, **kwargs).arguments
    except (TypeError, ValueError):  # A builtin without a signature.
        return Operation(name, path, function, dict(kwargs), args)
    return Operation(name, path, function, bound)
