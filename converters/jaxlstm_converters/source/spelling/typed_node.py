"""An operator with its arguments, as the rules of the tables see it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlstm.programs.graph import Node, TensorType, Value, places_of, same_sizes, values_in
from jaxlstm.programs.operators.dtypes import category
from jaxlstm.programs.operators.registry import IGNORED, find_operator, functional_name

CHANNELS_LAST = "channels_last."
ZEROS = ("aten.zeros.default", "aten.new_zeros.default", "aten.zeros_like.default")


@dataclass(frozen=True)
class TypedNode:
    """A node, with the arguments that it omits.

    Attributes:
      node: the call.
      types: the types of the tensors, by name of value. Other values are sizes.
      extra: further names that a rule may put into its template.
      producers: the node that makes a value, by name of the value, to recognize initial states of zeros
        and indices that are in range.
    """

    node: Node
    types: Mapping[str, TensorType]
    extra: dict[str, Any] = field(default_factory=dict)
    producers: Mapping[str, Node] = field(default_factory=dict)

    @cached_property
    def name(self) -> str:
        """The operator's functional form in torch, for example ``"aten.conv2d.default"``."""
        return functional_name(self.node.op.replace(CHANNELS_LAST, "aten."))

    @property
    def channels_last(self) -> bool:
        """True if channels are the last axis of the operator's tensors."""
        return self.node.op.startswith(CHANNELS_LAST)

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """The arguments under the names of the registered function, with their defaults.

        Arguments without a meaning in JAX are dropped. Arguments without names are called a, b, c and d.
        """
        operator = find_operator(self.node.op) or find_operator(self.name)
        if self.node.args or operator is None:
            kwargs = {key: value for key, value in self.node.kwargs.items() if key not in IGNORED}
            return dict(zip("abcd", self.node.args, strict=False)) | kwargs
        given = operator.arguments(self.node.kwargs)
        defaults = {
            name: None if parameter.default is parameter.empty else parameter.default
            for name, parameter in operator.signature.parameters.items()
            if name != "options" and parameter.kind is not parameter.VAR_KEYWORD
        }
        return {**defaults, **given}

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def type(self, name: str) -> TensorType | None:
        """Return the type of an argument that is a tensor; None for numbers and None."""
        value = self.arguments.get(name)
        return self.types.get(value.name) if isinstance(value, Value) else None

    def tensors(self, *names: str) -> list[TensorType]:
        """Return the types of those arguments, or of all, that are tensors."""
        given = tuple(self.arguments.get(name) for name in names or self.arguments)
        return [self.types[name] for name in values_in(given) if name in self.types]

    def zeros(self, name: str) -> tuple[str, ...]:
        """Return the names of the tensors in an argument if all of them are made of zeros, else none."""
        names = tuple(values_in(self[name]))
        made = (self.producers.get(value) for value in names)
        return names if all(node is not None and node.op in ZEROS for node in made) else ()

    def ndim(self, name: str = "self") -> int:
        """Return the number of axes of a tensor."""
        type_ = self.type(name)
        return 0 if type_ is None else len(type_.shape)

    def axis(self, dim: int) -> int:
        """Return a non-negative axis of ``self``."""
        return dim % max(self.ndim(), 1)

    def short_axis(self) -> int:
        """Return the argument ``dim`` as an axis of ``self``, -1 for the last."""
        dim = self["dim"]
        return -1 if self.axis(dim) == self.ndim() - 1 else dim

    @cached_property
    def results(self) -> list[TensorType | None]:
        """The types of the results; a list is replaced by its elements."""
        names = places_of(self.node)
        return [None if name is None else self.types.get(name) or self.node.types.get(name) for name in names]

    @property
    def result(self) -> TensorType | None:
        """The type of the first result that is used."""
        return next((result for result in self.results if result is not None), None)

    def same_shape(self) -> bool:
        """Return True if the result is known to have the shape of ``self``."""
        own, result = self.type("self"), self.result
        return own is not None and result is not None and same_sizes(own, result)

    def is_float(self, *names: str) -> bool:
        """Return True if those arguments that are tensors, or all, are float32 or float64."""
        return all(type_.dtype in (np.float32, np.float64) for type_ in self.tensors(*names))

    def is_half(self) -> bool:
        """Return True if an argument is float16 or bfloat16, which torch computes in float32."""
        return any(type_.dtype.name in ("float16", "bfloat16") for type_ in self.tensors())

    def promotes(self, *names: str) -> bool:
        """Return True if JAX gives torch's dtype to an elementwise operator of those arguments.

        torch prefers the dtypes of tensors with axes, and wraps numbers into unsigned integers.
        """
        values = [self.arguments[name] for name in names]
        numbers = [value for value in values if isinstance(value, bool | int | float)]
        types = self.tensors(*names)
        return all(_fits(number, types) for number in numbers) and _agree(types)


Rule = str | Callable[[TypedNode], str | None]
"""A template, or a function that returns one, or None where no template equals the operator."""


def only_if(condition: Callable[[TypedNode], object], rule: Rule) -> Rule:
    """Return the rule for the nodes of which a condition is true."""

    def guarded(operation: TypedNode) -> str | None:
        if not condition(operation):
            return None
        return rule if isinstance(rule, str) else rule(operation)

    return guarded


of_floats = partial(only_if, TypedNode.is_float)
with_axes = partial(only_if, TypedNode.ndim)


def _fits(number: float, types: list[TensorType]) -> bool:
    if isinstance(number, float):
        return all(type_.dtype.kind != "c" for type_ in types)
    kinds = {type_.dtype.kind for type_ in types}
    limits = [np.iinfo(np.int32)]
    if kinds <= {"i", "u"}:
        limits += [np.iinfo(type_.dtype) for type_ in types]
    return max(int(limit.min) for limit in limits) <= number <= min(int(limit.max) for limit in limits)


def _agree(types: list[TensorType]) -> bool:
    with_axes = {type_.dtype for type_ in types if type_.shape}
    without = {type_.dtype for type_ in types if not type_.shape}
    if not with_axes or not without:
        return True
    return all(category(a) != category(b) or jnp.promote_types(a, b) == a for a in with_axes for b in without)


def cast(name: str, old: np.dtype[Any], new: np.dtype[Any], to: str) -> str | None:
    """Return a value of one dtype in another, whose expression is ``to``; None if JAX gives other numbers."""
    if old == new:
        return name
    if new.kind in "iu" and new.itemsize < 4 and old.kind not in "biu":
        # torch wraps numbers that are out of range.
        return f"(jnp.trunc({name}) % 256).astype({to})" if new == np.uint8 else None
    return None if old.kind == "c" else f"{name}.astype({to})"
