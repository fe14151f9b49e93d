"""Python's functions of numbers for the code of a model, such as ``int``, which keep symbolic sizes symbolic.

Python's own return numbers, so that an export would fix the size to the example's.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import linecache
import math
import operator
import re
from collections.abc import Callable
from types import FunctionType
from typing import Any, ClassVar

import numpy as np
import torch
from torch._numpy._ndarray import ndarray
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree

from jaxlstm._shared.own_thread import replaced
from jaxlstm_converters.pt2.trace.fixed_values import with_bounds
from jaxlstm_converters.pt2.trace.model_lines import calling_frame, frame_of_model, is_of_model
from jaxlstm_converters.pt2.trace.trace_packed import HostLengths


class _StandIn(type):
    """The type of a class that passes for the first of its kinds."""

    kinds: tuple[type, ...]

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, cls.kinds)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, cls.kinds)

    def __eq__(cls, other: Any) -> bool:
        return other is cls or other is cls.kinds[0]

    def __hash__(cls) -> int:
        return hash(cls.kinds[0])


class _SizeInt(metaclass=_StandIn):
    """``int``, which returns a symbolic integer for a symbolic size."""

    kinds: ClassVar = (int, torch.SymInt)
    dtype = np.dtype(int)  # NumPy takes a class with this attribute as a dtype.

    def __new__(cls, value: Any = 0, *args: Any, **kwargs: Any) -> Any:
        """Return the integer."""
        # A value of a tensor has no hint.
        is_size = isinstance(value, torch.SymInt | torch.SymFloat) and value.node.has_hint()
        return torch.sym_int(value) if is_size else int(value, *args, **kwargs)


class _SymbolicInt(_SizeInt):
    """``int``, which returns a symbolic integer for a size or a value of the trace."""

    def __new__(cls, value: Any = 0, *args: Any, **kwargs: Any) -> Any:
        """Return the integer."""
        value = value.tensor if isinstance(value, ndarray) else value
        if isinstance(value, torch.Tensor):
            return value.long().item()
        is_symbolic = isinstance(value, torch.SymInt | torch.SymFloat)
        return torch.sym_int(value) if is_symbolic else int(value, *args, **kwargs)


class _SymbolicFloat(metaclass=_StandIn):
    """``float``, which returns a symbolic number for a size or a value of the trace."""

    kinds: ClassVar = (float, torch.SymFloat)
    dtype = np.dtype(float)

    def __new__(cls, value: Any = 0.0) -> Any:
        """Return the number."""
        value = value.tensor if isinstance(value, ndarray) else value
        value = value.item() if isinstance(value, torch.Tensor) else value
        is_symbolic = isinstance(value, torch.SymInt | torch.SymFloat)
        return torch.sym_float(value) if is_symbolic else float(value)


def _list_class(as_list: Callable[[Any], Any]) -> type:
    """Return ``list``, whose result is of ``as_list``."""

    class List(metaclass=_StandIn):
        kinds = (list,)
        __class_getitem__ = list.__class_getitem__

        def __new__(cls, value: Any = ()) -> Any:
            return as_list(value)

    return List


def _extreme(original: Any, symbolic: Any, *args: Any, **kwargs: Any) -> Any:
    """Return the largest or smallest of sizes or lengths; a list or an array of lengths has their tensor."""
    if kwargs or not args:
        return original(*args, **kwargs)
    lengths = args[0].tensor if isinstance(args[0], HostLengths | ndarray) else args[0]
    is_tensor = isinstance(lengths, torch.Tensor) and lengths.ndim == 1
    if len(args) == 1 and is_tensor and not lengths.is_floating_point():
        extreme = getattr(lengths, original.__name__)()
        return getattr(args[0], "element", torch.Tensor.item)(extreme) if lengths is not args[0] else extreme
    sizes = args[0] if len(args) == 1 and isinstance(args[0], list | tuple) else args
    are_sizes = all(type(size) in _SizeInt.kinds for size in sizes) and torch.SymInt in map(type, sizes)
    return functools.reduce(symbolic, sizes) if are_sizes else original(*args)


_FUNCTIONS = {
    "int": _SizeInt,
    "min": functools.partial(_extreme, min, torch.sym_min),
    "max": functools.partial(_extreme, max, torch.sym_max),
    "len": lambda x: x.shape[0] if isinstance(x, torch.Tensor) and x.ndim else len(x),
}
# A class that stands for another is another object.
_IDENTITY = re.compile(r"\bis (not )?(int|float|list)\b")


def _rounded(number: Any, digits: int | None = None) -> Any:
    """Return a symbolic number rounded to an integer, half to even: files have no ``round``."""
    if digits is not None:
        return round(float(number), digits)
    down, up = math.ceil(2 * number) // 2, (math.floor(2 * number) + 1) // 2
    return down + (up - down) * (down % 2)


def _xor(one: Any, other: Any) -> Any:
    return (one & torch.sym_not(other)) | (torch.sym_not(one) & other)


def _comparison(name: str, tensors: dict[Any, torch.Tensor]) -> Callable[[Any, Any], Any]:
    """Return a comparison of floats of the trace as tensors: torch writes no assertion about some floats.

    ``tensors`` has the tensor of each symbol. A number that its dtype rounds is compared as a float.
    """
    original, compare = getattr(torch.SymFloat, name), getattr(operator, name)

    def compared(number: torch.SymFloat, other: Any) -> Any:
        one = tensors.get(number.node.expr)
        if isinstance(other, torch.SymFloat):
            other_tensor = tensors.get(other.node.expr)
        else:
            is_exact = isinstance(other, int | float) and other == float(np.float32(other))
            other_tensor = other if is_exact and one is not None and one.dtype in _WIDE else None
        is_known = one is not None and other_tensor is not None
        return compare(one, other_tensor).item() if is_known else original(number, other)

    return compared


_WIDE = torch.float32, torch.float64
_COMPARISONS = ("__lt__", "__le__", "__gt__", "__ge__", "__eq__", "__ne__")


def _sqrt(number: Any) -> Any:
    is_symbolic = isinstance(number, torch.SymInt | torch.SymFloat)
    return torch.sym_sqrt(number) if is_symbolic else _SQRT(number)


_SQRT = math.sqrt


def _linspace(start: Any, end: Any, steps: Any, **settings: Any) -> torch.Tensor:
    """Return evenly spaced numbers, counted from the nearer end as torch does."""
    dtype = settings.pop("dtype", None) or torch.get_default_dtype()
    if not dtype.is_floating_point:
        raise TypeError("torch leaves the rounding of integers to the device")
    step = (end - start) / torch.sym_max(steps - 1, 1)
    places = torch.arange(steps, **settings)
    low, high = start + step * places, end - step * (steps - 1 - places)
    return torch.where(places < torch.sym_max(steps // 2, 1), low, high).to(dtype)


def _window(factors: tuple[float, ...], count: Any, periodic: bool = True, **settings: Any) -> torch.Tensor:
    """Return a window that is a sum of cosines, with alternating signs."""
    dtype = settings.pop("dtype", None) or torch.get_default_dtype()
    places = torch.arange(count, dtype=dtype, **settings)
    angles = places * (2 * math.pi / torch.sym_max(count if periodic else count - 1, 1))
    terms = ((-1) ** k * factor * torch.cos(k * angles) for k, factor in enumerate(factors))
    return torch.where(torch.scalar_tensor(count, device=places.device) == 1, 1.0, sum(terms))


def _pooled(
    reduce: Any, n: int, input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, **settings: Any
) -> Any:
    """Reduce the axes that a window of the size of the tensor covers.

    Raises:
      TypeError: the window is smaller, or there is padding.
    """
    sizes = tuple(kernel_size) if isinstance(kernel_size, tuple | list) else (kernel_size,) * n
    defaults = (("dilation", 1), ("ceil_mode", False), ("return_indices", False), ("divisor_override", None))
    if padding != 0 or any(settings.get(name, default) != default for name, default in defaults):
        raise TypeError
    for axis, size in enumerate(sizes, start=-n):
        if _is_symbolic(size) and statically_known_true(size == input.shape[axis]):
            input = reduce(input, axis)
        elif size != 1 or stride not in (None, 1):
            raise TypeError
    return input


_POOLS = {
    f"{name}_pool{n}d": functools.partial(_pooled, reduce, n)
    for n in (1, 2)
    for name, reduce in (
        # As in pooling, the first of equal elements has the gradient.
        ("max", lambda x, axis: x.max(axis, keepdim=True)[0]),
        ("avg", lambda x, axis: x.mean(axis, keepdim=True)),
    )
}
_OF_FIXED_SIZES = {
    **_POOLS,
    "linspace": _linspace,
    "hann_window": functools.partial(_window, (0.5, 0.5)),
    "hamming_window": functools.partial(_window, (0.54, 0.46)),
    "blackman_window": functools.partial(_window, (0.42, 0.5, 0.08)),
}
"""Functions that torch exports at a fixed size only, made of others; all but pooling, for sizes of values."""


def _is_symbolic(number: Any) -> bool:
    return isinstance(number, torch.SymInt)


def _is_value(number: Any) -> bool:
    return _is_symbolic(number) and not number.node.has_hint()


def _require_strides(tensor: torch.Tensor, memory_format: torch.memory_format | None = None) -> None:
    """Let the sizes of 1 that make a tensor contiguous become conditions: C++ takes sizes to be larger."""
    if memory_format in (torch.channels_last, torch.channels_last_3d):
        tensor = tensor.movedim(1, -1)
    elements: Any = 1
    for size, stride in zip(tensor.shape[::-1], tensor.stride()[::-1], strict=True):
        if stride != elements and size != 1:
            return
        elements = elements * size


class SymbolicSizes(TorchFunctionMode):
    """A mode that replaces Python's functions in the files of a module and in others that call torch.

    With ``values``, ``int`` and ``float`` of a tensor are symbolic too. ``as_list`` stands for ``list``.
    """

    def __init__(
        self, module: torch.nn.Module, *, values: bool, as_list: Callable[[Any], Any] = list
    ) -> None:
        super().__init__()
        self._values = values
        self._functions = {**_FUNCTIONS, "list": _list_class(as_list)}
        if values:
            self._functions |= {"int": _SymbolicInt, "float": _SymbolicFloat}
        self._kinds = {kind for part in module.modules() for kind in type(part).__mro__}
        self._seen: set[str] = set()
        self._tensors: dict[Any, torch.Tensor] = {}  # of floats, by their symbols
        self._replaced = contextlib.ExitStack()

    def __enter__(self) -> SymbolicSizes:
        """Start to replace."""
        for kind, name, function in (
            (torch.SymFloat, "__round__", _rounded),
            (torch.SymBool, "__xor__", _xor),
            (torch.SymBool, "__rxor__", _xor),
            *([(math, "sqrt", _sqrt)] if self._values else []),
            *((torch.SymFloat, name, _comparison(name, self._tensors)) for name in _COMPARISONS),
        ):
            self._replaced.enter_context(replaced(kind, name, function))
        for kind in self._kinds:
            if isinstance(forward := inspect.unwrap(vars(kind).get("forward", kind)), FunctionType):
                for function in (forward, *forward.__globals__.values()):
                    if isinstance(function, FunctionType):
                        self._replace(function.__code__.co_filename, function.__globals__)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        """Restore the files."""
        super().__exit__(*error)
        self._replaced.close()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function of torch."""
        name = getattr(func, "__name__", "")
        # Most attributes are read by torch itself, far from the model.
        if frame := calling_frame() if name == "__get__" else frame_of_model():
            self._replace(frame.f_code.co_filename, frame.f_globals)
        if name == "is_contiguous":
            _require_strides(*args, **kwargs or {})
        if self._values and name in ("__getitem__", "__setitem__"):
            args = (args[0], with_bounds(args[1], torch.Tensor.item), *args[2:])
        if (replacement := _OF_FIXED_SIZES.get(name)) and any(
            map(_is_symbolic if name in _POOLS else _is_value, _pytree.tree_leaves((args, kwargs)))
        ):
            with contextlib.suppress(TypeError):  # It has settings that are not known here.
                return replacement(*args, **kwargs or {})
        result = func(*args, **kwargs or {})
        if name == "item" and isinstance(result, torch.SymFloat):
            self._tensors[result.node.expr] = args[0].detach().clone()  # The model may change it in place.
        return result

    def _replace(self, path: str, names: dict[str, Any]) -> None:
        if path in self._seen or not is_of_model(path):
            return
        self._seen.add(path)
        identical = {match[2] for match in _IDENTITY.finditer("".join(linecache.getlines(path, names)))}
        for name in self._functions.keys() - names.keys() - identical:
            names[name] = self._functions[name]
            self._replaced.callback(names.pop, name)
