"""Operations of a torch module, and the variants that a wrong port may compute."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_WINDOW = ("input", "kernel_size", "stride", "padding")
_CONV = ("input", "weight", "bias", "stride", "padding")
_INPLACE = ("relu", "silu", "hardsigmoid", "hardswish", "relu6")
_RECURRENT = ("hx", "params", "has_biases", "num_layers", "dropout", "train", "bidirectional")
ARGUMENT_NAMES = {
    **dict.fromkeys(_INPLACE, ("input", "inplace")),
    **dict.fromkeys(("tanh", "sigmoid"), ("input",)),
    "softplus": ("input", "beta", "threshold"),
    "leaky_relu": ("input", "negative_slope", "inplace"),
    "elu": ("input", "alpha", "inplace"),
    "indexing": ("input", "index"),
    "linear": ("input", "weight", "bias"),
    **{f"conv{n}d": (*_CONV, "dilation", "groups") for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": (*_CONV, "output_padding", "groups", "dilation") for n in (1, 2, 3)},
    **{f"max_pool{n}d": (*_WINDOW, "dilation", "ceil_mode", "return_indices") for n in (1, 2, 3)},
    **{f"avg_pool{n}d": (*_WINDOW, "ceil_mode", "count_include_pad", "divisor_override") for n in (1, 2, 3)},
    "flatten": ("input", "start_dim", "end_dim"),
    "gelu": ("input",),
    "masked_fill": ("input", "mask", "value"),
    "cat": ("tensors", "dim"),
    "softmax": ("input", "dim"),
    "log_softmax": ("input", "dim"),
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), ("input", *_RECURRENT, "batch_first")),
    "pack_padded_sequence": ("input", "lengths", "batch_first"),
    **dict.fromkeys(("add", "sub", "rsub", "mul", "div", "rdiv", "matmul", "mm", "bmm"), ("input", "other")),
    **dict.fromkeys(("gt", "ge", "lt", "le"), ("input", "other")),
    **dict.fromkeys(("mean", "sum", "amax"), ("input", "dim", "keepdim")),
    **dict.fromkeys(("exp", "sqrt", "rsqrt", "neg", "abs", "square"), ("input",)),
    "clamp": ("input", "min", "max"),
    "pow": ("input", "exponent"),
    "chunk": ("input", "chunks", "dim"),
    "split": ("input", "split_size", "dim"),
    "unbind": ("input", "dim"),
    "stack": ("tensors", "dim"),
    "where": ("condition", "input", "other"),
    "lerp": ("input", "end", "weight"),
}
"""The arguments of builtin functions, which have no signature."""

_PACKED = ("input", "batch_sizes", *_RECURRENT)
"""The arguments of ``torch.lstm``, ``torch.gru`` and the like over packed sequences."""

RENAMED = {
    "concat": "cat",
    "concatenate": "cat",
    "relu_": "relu",
    "__getitem__": "indexing",
    "__rsub__": "rsub",
    "__rdiv__": "rdiv",
    "_pack_padded_sequence": "pack_padded_sequence",
}
"""Names of one operation under its usual name."""


@dataclass(frozen=True)
class Operation:
    """One call of a torch function.

    Attributes:
      name: the function's name without underscores, such as "conv2d".
      path: the path of the innermost module that is running, empty at the root.
      arguments: its arguments by name; ``input`` is the tensor of a method.
      order: the names of the arguments that a builtin takes by position.
      positional: the positional arguments of a function whose arguments have no names here.
      line: the line of the user's code that calls it, such as "cell.py:12".
      latest: by site, the last operation there and its result, if the run is traced.
    """

    name: str
    path: str
    function: Callable[..., Any]
    arguments: Mapping[str, Any]
    order: tuple[str, ...] = ()
    positional: tuple[Any, ...] = ()
    line: str = ""
    latest: Mapping[Any, tuple[Operation, Any]] = field(default_factory=dict)

    def origin(self, tensor: Any) -> tuple[Operation, int] | None:
        """Return the operation that made a tensor, and its position among several results."""
        for operation, result in self.latest.values():
            results = result if isinstance(result, (tuple, list)) else (result,)
            for position, part in enumerate(results):
                if part is tensor:
                    return operation, position
        return None

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
        # A method and a builtin name their arguments differently; both take them in this order.
        names = list(itertools.takewhile(arguments.__contains__, self.order))
        args = [arguments.pop(name) for name in names]
        return self.function(*self.positional, *args, **arguments)


Replacement = Callable[[Operation], Any]


@dataclass(frozen=True)
class Variant:
    """An operation as a wrong port may compute it.

    Attributes:
      cause: completes the sentence "the model matches torch's in which ..."; ``{where}`` is the place.
      apply: computes the wrong result, or the right one if the operation cannot have the fault.
      traced: ``apply`` reads ``latest``.
    """

    cause: str
    apply: Replacement
    traced: bool = False


Variants = Callable[[Operation], Iterator[Variant]]
"""Yields the faults of an operation."""

FAULTS: dict[str, list[Variants]] = {}
"""The faults of an operation by its name. The other modules of this package register them."""


def faults_of(*names: str) -> Callable[[Variants], Variants]:
    """Register a generator of the faults of the operations with some names."""

    def register(variants: Variants) -> Variants:
        for name in names:
            FAULTS.setdefault(name, []).append(variants)
        return variants

    return register


def changed(cause: str, **arguments: Any) -> Variant:
    """Return the fault of an operation with other arguments."""
    return Variant(cause, lambda op: op.run(**arguments))


def missing() -> Variant:
    """Return the fault of an operation that is left out."""
    return Variant("{where} is missing", lambda op: op.get("input"))


def other_values(
    operation: Operation, name: str, values: Iterable[Any], words: str, default: Any = None
) -> Iterator[Variant]:
    """Yield the faults of an operation with other values of one argument, ``words`` with {new} and {old}."""
    old = _written(operation.get(name, default))
    for value in values:
        cause = words.replace("{new}", _written(value)).replace("{old}", old)
        yield changed(cause, **{name: value})


def _written(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def name_of(function: Any) -> str:
    """Return the usual name of a torch function."""
    name = getattr(function, "__name__", "")
    return RENAMED.get(name, name)


def operation_of(
    name: str, path: str, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Operation:
    """Return the operation of a call, its arguments by name if they have names."""
    names = ARGUMENT_NAMES.get(name, ())
    # Over packed sequences, the weights are the fourth argument.
    if "has_biases" in names and any(isinstance(weights, (list, tuple)) for weights in args[3:4]):
        names = _PACKED
    if names and len(args) <= len(names):
        return Operation(name, path, function, {**dict(zip(names, args, strict=False)), **kwargs}, names)
    try:
        arguments = inspect.signature(function).bind(*args, **kwargs).arguments
    except (TypeError, ValueError):  # A builtin without a signature.
        return Operation(name, path, function, dict(kwargs), positional=args)
    return Operation(name, path, function, arguments)
