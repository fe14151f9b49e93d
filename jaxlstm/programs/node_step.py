"""``NodeStep``: a node of a graph, bound to its operator and to the places of its arguments."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod
from typing import Any

import jax
import jax.export
import numpy as np
from jax.core import Tracer

from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.graph import Argument, Node, Value, named_results, place_of, values_in
from jaxlstm.programs.operators.dtypes import doubles_by_default, held
from jaxlstm.programs.operators.registry import Form, Operator, Options, form_of
from jaxlstm.programs.sizes.guards import UNDECIDED
from jaxlstm.programs.sizes.prefix import (
    SIZE_OF,
    Prefix,
    UnprovenError,
    is_among,
    is_unknown,
    without_padding,
)
from jaxlstm.programs.sizes.prefix_rules import run_unknown
from jaxlstm.programs.sizes.selections import selected

# The exceptions of JAX where Python needs the value of a traced array, such as a size.
_UNKNOWN = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
    UnprovenError,
)

# The exceptions of an operator on arguments that it cannot take, or whose result does not fit into memory.
_FAILURES = (
    *(TypeError, ValueError, IndexError, ArithmeticError, NotImplementedError),
    *(MemoryError, jax.errors.JaxRuntimeError, UNDECIDED),
)

_MOST_ELEMENTS = 4096
"""Number of elements of a result that is computed while a program is traced."""

_OF_SIZES = ("full_like", "new_full", "new_ones", "new_zeros", "ones_like", "zeros_like")
"""Operators whose results depend on the sizes of their tensors, and not on the values."""

# Given the options of a call, returns the function that runs a graph among the arguments of a node.
MakeFunction = Callable[[Options], Callable[..., tuple[Any, ...]]]


class Values(dict[str, Any]):
    """The values of a run by name.

    Attributes:
      irregular: True if there may be values with sizes that ``jit`` does not know.
      is_traced: True if there may be values that ``jit`` does not know.
      counting: the nodes whose results would differ if an array of unknown size kept all its elements.
    """

    irregular = is_traced = False
    counting: tuple[str, ...] = ()


class NodeStep:
    """A node, bound to its operator.

    Attributes:
      node: the node.
      operator: its operator.
    """

    def __init__(
        self,
        node: Node,
        operator: Operator,
        functions: Mapping[int, MakeFunction] | None = None,
        compared: tuple[str, ...] = (),
        is_read: bool = False,
    ) -> None:
        """Bind a node.

        Args:
          node: the node.
          operator: its operator.
          functions: place of an argument that is a graph -> what makes its function.
          compared: of an assertion, the names of the values that its condition compares.
          is_read: a size or an assertion may depend on the values of its results, which are then computed
            under ``jit`` too if they follow from constants and sizes.
        """
        self.node, self.operator, self._is_read = node, operator, is_read
        self._functions, self._compared = functions or {}, compared
        self._function: Callable[..., Any] = operator.function
        if any(type_.dtype.char in "dD" for type_ in node.types.values()):
            self._function = doubles_by_default(True)(operator.function)
        kwargs = operator.arguments(node.kwargs)
        self._constants = {name: item for name, item in kwargs.items() if not any(values_in(item))}
        self._values = [(name, item.name) for name, item in kwargs.items() if isinstance(item, Value)]
        self._lists = [
            (name, item)
            for name, item in kwargs.items()
            if name not in self._constants and not isinstance(item, Value)
        ]
        self._compiled: Callable[..., Any] | None = None

    @property
    def form(self) -> Form | None:
        """The constants with which the operator can be compiled; None if it cannot."""
        is_plain = self.operator.layout == "elementwise" and not self.operator.takes_options
        is_plain &= self._function is self.operator.function and not self._lists
        return form_of(self._constants) if is_plain else None

    def compile(self) -> None:
        """Run the compiled operator where the node is called outside of ``jit``."""
        self._compiled = self.operator.compiled(self._constants)

    def run(self, values: Values, options: Options) -> Any:
        """Run the node, store its results among the values, and return them."""
        node, irregular = self.node, values.irregular
        args, kwargs = self._arguments(values, options)
        is_irregular = counts = irregular and is_among((args, kwargs))
        try:
            if is_irregular and not self._functions:
                result, counts = run_unknown(node.op, functools.partial(self._apply, options), args, kwargs)
            elif self.operator.takes_options:
                result = self._function(*args, **kwargs, options=options.of_module(node.module_path))
            elif self._is_read and values.is_traced and self._is_known(kwargs, options):
                with jax.ensure_compile_time_eval():
                    result = self._function(*args, **kwargs)
            elif self._compiled and all(_is_plain(kwargs[name]) for name, _ in self._values):
                result = self._compiled(**{name: kwargs[name] for name, _ in self._values})
            else:
                result = self._function(*args, **kwargs)
        except (ProgramError, *_UNKNOWN, *_FAILURES) as error:
            traceback = error.__traceback__ and error.__traceback__.tb_next
            result = self._recovered(error.with_traceback(traceback), args, kwargs, values, options)
        if counts:
            values.counting += (node.name,)
        if not node.with_gradient:
            result = jax.tree.map(_without_gradient, result)
        self._store(result, values, options)
        return result

    def _is_known(self, kwargs: Mapping[str, Any], options: Options) -> bool:
        """Return True if small results follow from sizes and from arrays that ``jit`` does not hide."""
        shape: Any = [n for type_ in self.node.types.values() for n in type_.shape]
        sizes = [options.sizes.get(n, n) for n in shape]
        if self._functions or any(type(n) is not int for n in sizes) or prod(sizes) > _MOST_ELEMENTS:
            return False
        hidden = Prefix if self.node.op.split(".")[1] in _OF_SIZES else (Prefix, Tracer)
        leaves = jax.tree.leaves(kwargs)
        return not any(isinstance(x, hidden) or jax.export.is_symbolic_dim(x) for x in leaves)

    def _arguments(self, values: Values, options: Options) -> tuple[list[Any], dict[str, Any]]:
        args = [resolve(item, values) for item in self.node.args]
        for place, function in self._functions.items():
            args[place] = function(options)
        kwargs = {**self._constants}
        for name, value in self._values:
            kwargs[name] = values[value]
        for name, items in self._lists:
            kwargs[name] = resolve(items, values)
        if not self.node.with_gradient:
            # Some operators have no derivative, such as while_loop.
            args, kwargs = jax.tree.map(_without_gradient, (args, kwargs))
        return args, kwargs

    def _apply(
        self, options: Options, /, *args: Any, opaque: bool = False, seq_lengths: Any = None, **kwargs: Any
    ) -> Any:
        """Apply the operator for the proof of a result whose size is unknown."""
        if not self.operator.takes_options:
            return self._function(*args, **kwargs)
        settings = replace(options, opaque_layers=True, backend="scan") if opaque else options
        if settings.seq_lengths is None:
            settings = replace(settings, seq_lengths=seq_lengths)
        return self._function(*args, **kwargs, options=settings.of_module(self.node.module_path))

    def _recovered(
        self, error: Exception, args: list[Any], kwargs: dict[str, Any], values: Values, options: Options
    ) -> Any:
        """Return a result of unknown size, for which the operator failed, or raise the error of the node."""
        is_unknown_value = isinstance(error, _UNKNOWN)
        try:
            if not options.exact_sizes and (whole := without_padding((args, kwargs))):
                (args, kwargs), are_whole = whole
                for place, is_whole in enumerate(are_whole):
                    values[f"{SIZE_OF}argument {place} of {self.node.name}"] = is_whole
                return self._apply(options, *args, **kwargs)
            is_exact = options.exact_sizes and self.node.op != "jaxlstm.pack_padded.default"
            if is_unknown_value and not is_exact and not is_among((args, kwargs)):
                result = selected(self.node.op, kwargs)
                if result is not None:
                    return result
        except (ProgramError, *_FAILURES) as other:
            error, is_unknown_value = other, isinstance(other, _UNKNOWN)
        title = title_of(self.node)
        if isinstance(error, ProgramError) and self._functions:
            raise error  # It names the node of a function.
        if isinstance(error, ProgramError):
            compared = (str(np.asarray(values[name]).tolist())[:100] for name in self._compared)
            got = f"; got {' and '.join(compared)}" if self._compared else ""
            raise ProgramError(error.code, f"node {title}: {error.message}{got}") from None
        if is_unknown_value or _is_unknown_shape(error):
            raise ProgramError(
                "node-failed",
                f"node {title} depends on the value of a tensor, which is unknown under jax.jit. Call the "
                "program outside of jit",
            ) from error
        shapes = ", ".join(f"{name} {_shown(value)}" for name, value in kwargs.items() if value is not None)
        raise ProgramError(
            "node-failed",
            f"node {title} with {shapes} failed: {error}. Do the inputs have other sizes than at "
            f"export? {_free_axes(options)}",
        ) from error

    def _store(self, result: Any, values: Values, options: Options) -> None:
        """Store results under their names, with the sizes that the graph asserts."""
        for name, value in named_results(self.node, result):
            values[name] = value
            values.irregular |= is_unknown(value)
        for name, type_ in self.node.types.items():
            if name in values:
                shape = tuple(options.sizes.get(n) if isinstance(n, str) else n for n in type_.shape)
                value = values[name]
                sizes = [shape[axis] for axis in value.axes] if isinstance(value, Prefix) else []
                size = next((size for size in sizes if size is not None), None)
                if isinstance(value, Prefix) and size is not None:
                    values[SIZE_OF + name] = value.count.number() == size
                    values[name] = value = value.at_size(size)
                if isinstance(value, jax.Array):
                    self._require_type(value, type_.dtype, shape, options)

    def _require_type(
        self, value: jax.Array, dtype: np.dtype, shape: tuple[Any, ...], options: Options
    ) -> None:
        """Raise if a result contradicts the file: its static sizes would give wrong numbers downstream."""
        if value.shape != shape:
            self._require_shape(value.shape, shape, options)
        if value.dtype != dtype and value.dtype != held(dtype):
            raise ProgramError(
                "node-dtype",
                f"node {title_of(self.node)} has dtype {value.dtype} here, and {dtype} in the file",
            )

    def _require_shape(self, shape: tuple[Any, ...], expected: tuple[Any, ...], options: Options) -> None:
        title = title_of(self.node)
        if len(expected) != len(shape):
            raise ProgramError(
                "static-shape", f"node {title} has {len(shape)} axes here, and {len(expected)} in the file"
            )
        for place, (size, actual) in enumerate(zip(expected, shape, strict=True)):
            if size is None or size == actual:
                continue
            prefix = f"node {title}: axis {place} of its result has size"
            if jax.export.is_symbolic_dim(actual):
                raise ProgramError(
                    "static-shape",
                    f"{prefix} {size} in the file, and {actual} for the free axes of the artifact, which "
                    "differ for some sizes. Export the axis with a range in which they are equal, such as "
                    "dynamic_shapes={'x': {1: torch.export.Dim('time', min=3)}}, or with a fixed size",
                )
            advice = (
                "The export fixed the length of the longest sequence. Cut the inputs after it: under jit, "
                "where lengths are unknown, a packed batch is as long as its padding"
                if self.node.op == "jaxlstm.pack_padded.default"
                else f"The export fixed a size that these inputs change. {_free_axes(options)}"
            )
            raise ProgramError(
                "static-shape", f"{prefix} {actual} for these inputs, and {size} in the file. {advice}"
            )


def resolve(argument: Argument, values: Mapping[str, Any]) -> Any:
    """Return an argument in which each name of a value is replaced by the value."""
    if isinstance(argument, Value):
        return values[argument.name]
    if isinstance(argument, tuple):
        return tuple([resolve(item, values) for item in argument])
    return argument


def title_of(node: Node) -> str:
    """Return the name, operator, module and line of a node for a message."""
    line = node.calls[-1].line[:120] if node.calls else ""
    return f"{node.name} ({node.op}, {place_of(node)}{line and f': {line}'})"


def _is_plain(value: Any) -> bool:
    return isinstance(value, jax.Array) and not isinstance(value, Tracer)


def _is_unknown_shape(error: Exception) -> bool:
    return isinstance(error, TypeError) and "concrete values" in str(error)


def _without_gradient(leaf: Any) -> Any:
    return jax.lax.stop_gradient(leaf) if isinstance(leaf, Tracer) else leaf


def _free_axes(options: Options) -> str:
    free = ", ".join(f"{name} = {size}" for name, size in options.sizes.items()) or "none"
    return f"Free axes of this program: {free}. jaxlstm.from_module frees as many as the model allows"


def _shown(value: Any) -> str:
    if isinstance(value, jax.Array):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, tuple) and any(isinstance(item, jax.Array) for item in value):
        return "[" + ", ".join(_shown(item) for item in value[:8]) + (", ...]" if len(value) > 8 else "]")
    return repr(value)[:80]
