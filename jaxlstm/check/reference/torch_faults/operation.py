"""Operations of a torch module, and runs of the module in which some of them are replaced.

``torch.overrides.TorchFunctionMode`` sees every call of a torch function, whether a module or the user's
``forward`` makes it. A run counts the calls that the catalogue knows. A site is the number of such a call.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlstm.check.exceptions import PORT_EXCEPTIONS
from jaxlstm.check.model.layers import LayerRecord
from jaxlstm.check.model.results import ModelCase
from jaxlstm.check.reference.torch_faults.arguments import ARGUMENT_NAMES, RENAMED
from jaxlstm.check.reference.torch_layers import recording
from jaxlstm.check.reference.torch_model import TorchModel, arrays_of, pinned, tensors_of

if TYPE_CHECKING:
    import torch

Array = np.ndarray


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
      rounding: True for faults of precision.
    """

    cause: str
    apply: Replacement
    rounding: bool = False


@dataclass
class Planted:
    """A run of a module with some operations replaced.

    Attributes:
      outputs: the outputs by name, or None if the module raised.
      operations: the operations before their replacement, by site.
      layers: the calls of submodules, if they were recorded.
    """

    outputs: dict[str, Array] | None = None
    operations: list[Operation] = field(default_factory=list)
    layers: list[LayerRecord] = field(default_factory=list)


def run_planted(
    model: TorchModel,
    case: ModelCase,
    dtype: Any,
    known: Container[str],
    replacements: Mapping[int, Replacement],
    *,
    record: bool = False,
) -> Planted:
    """Run a module with the operations at some sites replaced.

    A replacement may not fit, so that the module raises. The run then ends there.

    Args:
      model: the module.
      case: the arguments.
      dtype: the module's own dtype or float64.
      known: the names of the operations that are sites.
      replacements: by site, the function that computes the result of the operation.
      record: if true, record the calls of submodules.
    """
    import torch

    module, planted = model.module(dtype), Planted()
    args, kwargs, _ = tensors_of(case.astype(dtype))
    recorded = recording(module, planted.layers) if record else contextlib.nullcontext()
    with recorded, _module_paths(module) as stack, pinned(dtype), torch.no_grad():
        with _mode(stack, known, replacements, planted.operations):
            try:
                returned = module(*args, **kwargs)
            except PORT_EXCEPTIONS:
                return planted
        planted.outputs = arrays_of(returned)
    return planted


def _mode(
    stack: list[str],
    known: Container[str],
    replacements: Mapping[int, Replacement],
    operations: list[Operation],
) -> Any:
    """Return a context that replaces operations and lists them."""
    from torch.overrides import TorchFunctionMode

    class Mode(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            name, kwargs = _name_of(func), kwargs or {}
            if name not in known:
                return func(*args, **kwargs)
            site = len(operations)
            operations.append(_operation(name, stack[-1], func, args, kwargs))
            if site in replacements:
                return replacements[site](operations[site])
            return func(*args, **kwargs)

    return Mode()


def _name_of(function: Any) -> str:
    name = getattr(function, "__name__", "")
    return RENAMED.get(name, name)


def _operation(
    name: str, path: str, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Operation:
    if name in ARGUMENT_NAMES and len(args) <= len(ARGUMENT_NAMES[name]):
        return Operation(
            name, path, function, dict(zip(ARGUMENT_NAMES[name], args, strict=False)) | dict(kwargs)
        )
    try:
        bound = inspect.signature(function).bind(*args, **kwargs).arguments
    except (TypeError, ValueError):  # A builtin without a signature.
        return Operation(name, path, function, dict(kwargs), args)
    return Operation(name, path, function, bound)


@contextlib.contextmanager
def _module_paths(module: torch.nn.Module) -> Iterator[list[str]]:
    """Keep a stack of the paths of the running modules."""
    stack, handles = [""], []
    for path, submodule in module.named_modules():
        if path:
            handles += [
                submodule.register_forward_pre_hook(lambda *_, path=path: stack.append(path)),
                submodule.register_forward_hook(lambda *_: stack.pop() and None, always_call=True),
            ]
    try:
        yield stack
    finally:
        for handle in handles:
            handle.remove()
