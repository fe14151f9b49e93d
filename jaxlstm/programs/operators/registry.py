"""The registry of operators: torch's name with its overload -> a JAX function.

A function has the parameters of torch's schema, under their names. Arguments without meaning in JAX (layout,
device, pin_memory, memory_format, non_blocking) are dropped before the call. Tensors are ``Array``, dtypes
``numpy.dtype``, lists are tuples, and symbolic sizes are Python integers, so an operator computes shapes with
ordinary arithmetic. An operator that depends on the settings of the call declares a parameter ``options``.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypedDict, TypeVar

import jax
from jax import Array

from jaxlstm.layer import precision as precision_
from jaxlstm.layer.precision import Precision
from jaxlstm.programs.errors import ProgramError

Function = TypeVar("Function", bound=Callable[..., Any])
# the arguments of an operator by name, without the first
Kwargs = Mapping[str, Any]
# (base, view, index of the view among the results, kwargs) -> the base with the view written into it
WriteBack = Callable[[Array, Array, int, Kwargs], Array]

Form = tuple[tuple[str, type, str], ...]

IGNORED = frozenset({"layout", "device", "pin_memory", "memory_format", "non_blocking"})


@dataclass(frozen=True)
class Options:
    """The settings of one call of a program that operators may use.

    Attributes:
      precision, backend, guards: see :meth:`jaxlstm.programs.program.Program.with_options`.
      seq_lengths: number of valid steps of each sequence for the LSTMs, (batch,), or None.
      opaque_layers: trace each LSTM, GRU or RNN as one call of the name "recurrent_layer".
      sizes: name of a free axis -> its size in this call.
      exact_sizes: refuse sizes under ``jit`` that depend on values, so that results never end with NaN.
    """

    precision: Precision = precision_.DEFAULT
    backend: str = "auto"
    guards: bool = True
    seq_lengths: Any = None
    opaque_layers: bool = False
    sizes: Mapping[str, int] = field(default_factory=dict)
    exact_sizes: bool = False

    def of_module(self, path: str) -> Options:
        """Return the options for a module, if ``seq_lengths`` is a dict by module path."""
        if isinstance(self.seq_lengths, Mapping):
            return replace(self, seq_lengths=self.seq_lengths.get(path))
        return self


class OptionChanges(TypedDict, total=False):
    """The settings of :meth:`jaxlstm.programs.program.Program.with_options`."""

    precision: Precision
    backend: str
    guards: bool


@dataclass(frozen=True)
class Operator:
    """A registered operator.

    Attributes:
      name: torch's name, for example ``"aten.add.Tensor"``.
      function: the implementation.
      write_back, may_alias, creates, in_training, schema_names, layout: see :func:`register_operator`.
    """

    name: str
    function: Callable[..., Any]
    write_back: WriteBack | None = None
    may_alias: bool = False
    creates: bool = False
    in_training: Callable[[Kwargs], bool] | None = None
    schema_names: Mapping[str, str] = field(default_factory=dict)
    layout: str = ""
    _compiled: dict[Form, Callable[..., Any]] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def signature(self) -> inspect.Signature:
        """The signature of the function."""
        return inspect.signature(self.function)

    @cached_property
    def takes_options(self) -> bool:
        """True if the function has a parameter ``options``."""
        return "options" in self.signature.parameters

    @cached_property
    def first_parameter(self) -> str:
        """The name of the first parameter, with which a view shares memory; "" without parameters."""
        return next(iter(self.signature.parameters), "")

    def arguments(self, kwargs: Kwargs) -> dict[str, Any]:
        """Return torch's keyword arguments that have a meaning in JAX, under the function's names."""
        return {
            self.schema_names.get(name, name): value
            for name, value in kwargs.items()
            if name not in IGNORED or name in self.signature.parameters
        }

    def compiled(self, constants: Kwargs) -> Callable[..., Any]:
        """Return the function with some of its arguments, compiled, for plain arrays as the others."""
        form = form_of(constants)
        if form not in self._compiled:
            self._compiled[form] = jax.jit(functools.partial(self.function, **constants))
        return self._compiled[form]


def form_of(constants: Kwargs) -> Form:
    """Return a key that tells constants apart which are equal, such as 1, 1.0 and True, or 0.0 and -0.0."""
    return tuple((name, type(item), repr(item)) for name, item in constants.items())


_OPERATORS: dict[str, Operator] = {}
_REFUSED: dict[str, str] = {}
_WITHOUT_OVERLOAD = ("_operator.", "higher_order.", "math.", "torch.")


def same(base: Array, view: Array, index: int, kwargs: Kwargs) -> Array:
    """Return the view: the ``write_back`` of an operator that returns its argument."""
    return view


def same_values(base: Array, view: Array, index: int, kwargs: Kwargs) -> Array:
    """Return the view with the gradient of the base: the ``write_back`` of ``detach``."""
    return with_values(base, view)


@jax.custom_jvp
def with_values(base: Array, values: Array) -> Array:
    """Return the values with the gradient of the base."""
    return values


@with_values.defjvp
def _with_values_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    return primals[1], tangents[0]


def shares_elements(target: str) -> ProgramError:
    """Return the error of a write to a view whose elements share memory."""
    return ProgramError(
        "unsupported-alias",
        f"it writes to {target}, whose elements share memory. Insert .clone() before it, and export again",
    )


def register_operator(
    *names: str,
    write_back: WriteBack | None = None,
    may_alias: bool = False,
    creates: bool = False,
    in_training: Callable[[Kwargs], bool] | None = None,
    schema_names: Mapping[str, str] | None = None,
    layout: str = "",
) -> Callable[[Function], Function]:
    """Register the decorated function as the implementation of operators.

    Register before the program is loaded. A later registration of a name replaces the earlier one. The
    in-place form of an operator (``"aten.relu_.default"``) needs no registration: it is derived from
    ``"aten.relu.default"``.

    Args:
      names: torch's names with overload: ``"aten.add.Tensor"``, or ``"mylib.scale.default"`` for
        ``torch.ops.mylib.scale``. The function takes the arguments of torch's schema under their names.
      write_back: if torch returns a view of ``self``: a function (base, view, index, kwargs) that returns
        ``base`` with ``view`` written into it. ``index`` is the number of the view among the results, and
        ``kwargs`` holds the other arguments.
      may_alias: torch returns a view for some memory layouts and a copy for others.
      creates: the result has torch's default dtype unless the argument ``dtype`` is given.
      in_training: takes the arguments and returns True if they show that the model was exported in training
        mode. Such a program is refused. The default is the rule of an earlier registration of the name.
      schema_names: torch's name of an argument -> name of the parameter, where overloads differ in names.
      layout: how the operator depends on the order of the axes, for
        :mod:`jaxlstm.programs.passes.channels_last`: "elementwise" if it does not; by default, it needs
        torch's order. An elementwise function may be compiled, so it must not read values in Python.

    >>> @jaxlstm.programs.register_operator("mylib.scale.default")  # doctest: +SKIP
    ... def scale(x, factor=2.0):
    ...     return x * factor
    """
    if not names:
        raise ValueError('register_operator needs a name, for example "mylib.scale.default"')
    for name in names:
        if name.count(".") != (1 if name.startswith(_WITHOUT_OVERLOAD) else 2):
            raise ValueError(f'names must have the form "namespace.name.overload", got "{name}"')

    def register(function: Function) -> Function:
        for name in names:
            refuses = in_training or (_OPERATORS[name].in_training if name in _OPERATORS else None)
            _OPERATORS[name] = Operator(
                name, function, write_back, may_alias, creates, refuses, schema_names or {}, layout
            )
        return function

    return register


register_operator("jaxlstm.with_values.default")(with_values)


@register_operator("jaxlstm.put_back.default")
def put_back(base: Array, view: Array, of: str, place: int, **kwargs: Any) -> Array:
    """Return ``base`` with result number ``place`` of the operator ``of`` written into it."""
    operator = _operator_of_views(of)
    assert operator.write_back is not None
    return operator.write_back(base, view, place, operator.arguments(kwargs))


@register_operator("jaxlstm.view.default")
def view(of: str, place: int, **kwargs: Any) -> Array:
    """Return result number ``place`` of the operator ``of``."""
    operator = _operator_of_views(of)
    return operator.function(**operator.arguments(kwargs))[place]


def _operator_of_views(name: str) -> Operator:
    operator = find_operator(name)
    if operator is None or operator.write_back is None:
        raise ValueError(f"of must be the name of an operator that returns views, got {name!r}")
    return operator


CHANNELS_LAST, INFERENCE = "channels_last.", "inference."
"""Namespaces of operators that only rewritten graphs have."""


def register_layouts(*names: str, **declared: Any) -> Callable[[Function], Function]:
    """Register the decorated function as operators of torch and as their forms with channels last.

    The first argument is False for torch's operator, with images of shape (N, C, *size), and True for the
    operator of the same name in the namespace ``channels_last``, with images of shape (N, *size, C).
    """

    def register(function: Function) -> Function:
        register_operator(*names, **declared, layout="channels")(functools.partial(function, False))
        channels_last_names = [name.replace("aten.", CHANNELS_LAST) for name in names]
        register_operator(*channels_last_names, **declared)(functools.partial(function, True))
        return function

    return register


def register_family(
    form: Callable[..., Any], functions: Mapping[str, Any], overloads: str = "default", **declared: Any
) -> None:
    """Register operators of torch that differ in one argument of a form.

    Args:
      form: a function whose first argument selects the operator; the others are torch's.
      functions: names without overload, separated by spaces -> the first argument of ``form``.
      overloads: the overloads of each name, separated by spaces.
      declared: keywords of :func:`register_operator`.

    >>> register_family(lambda function, self: function(self), {"abs absolute": jnp.abs})  # doctest: +SKIP
    """
    for bases, function in functions.items():
        names = [f"aten.{base}.{overload}" for base in bases.split() for overload in overloads.split()]
        register_operator(*names, **declared)(functools.partial(form, function))


def refuse_operators(reason: str, *bases: str) -> None:
    """Declare the reason why operators of torch, by their names without overload, are not supported."""
    _REFUSED.update(dict.fromkeys(bases, reason))


def refusal(name: str) -> str:
    """Return the declared reason why an operator or its in-place form is not supported, or ""."""
    return _REFUSED.get(functional_name(name).removeprefix("aten.").partition(".")[0], "")


def find_operator(name: str) -> Operator | None:
    """Return a registered operator, or the functional form of an in-place operator, or None."""
    return _OPERATORS.get(name) or _OPERATORS.get(functional_name(name))


def functional_name(name: str) -> str:
    """Return ``"aten.relu.default"`` for ``"aten.relu_.default"``; any other name unchanged."""
    namespace, _, qualname = name.partition(".")
    base, dot, overload = qualname.partition(".")
    if base.startswith("__i") and base.endswith("__"):  # aten.__iand__.Tensor
        return f"{namespace}.__{base[3:]}{dot}{overload}"
    # Python's operator.or_ has no overload.
    if dot and base.endswith("_") and not base.endswith("__"):
        return f"{namespace}.{base[:-1]}{dot}{overload}"
    return name


def is_in_place(name: str) -> bool:
    """Return True if an operator writes to its argument ``self``."""
    return name not in _OPERATORS and functional_name(name) != name and not changes_shape(name)


def changes_shape(name: str) -> bool:
    """Return True for ``transpose_`` and the like, which change the shape of ``self`` but no element."""
    if name in _OPERATORS or functional_name(name) == name:
        return False
    operator = find_operator(name)
    return operator is not None and operator.write_back not in (None, same, same_values)


def operator_names() -> list[str]:
    """Return the names of all registered operators of torch, sorted."""
    return sorted(name for name in _OPERATORS if not name.startswith((CHANNELS_LAST, INFERENCE)))
