"""Expressions from templates: Python text in which names stand for the arguments of an operator.

A template is parsed once, and its names are replaced by the trees of the arguments. Precedence, quoting and
hostile strings are therefore left to :func:`ast.unparse`.
"""

import ast
import copy
import inspect
import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax, nn

from jaxlstm.programs.graph import Argument, Value
from jaxlstm_converters.source.syntax import trees

Expression = Callable[[Argument], ast.expr]
"""Returns the tree of a value or a graph."""

# Python's types are JAX's default dtypes: of 32 bits, or of 64 bits in its 64-bit mode, as the program's.
_DTYPES = {"float32": "float", "int64": "int", "bool": "bool"}

# Defaults of Flax's functions that are not JAX's, and of a keyword for one mode only.
_OTHER_DEFAULTS: dict[str, dict[str, Any]] = {
    "max_pool": {"padding": "VALID"},
    "avg_pool": {"padding": "VALID", "count_include_pad": True},
    "pad": {"constant_values": 0},
}
_POSITIONAL_AXIS = frozenset({"concatenate", "stack", "squeeze", "softmax", "log_softmax", "glu"})


def marked(argument: Argument) -> ast.expr:
    """Return the name that stands for a value until its expression is known."""
    assert isinstance(argument, Value), argument
    return trees.marked(argument.name)


def filled(template: str, arguments: Mapping[str, Any], expression: Expression = marked) -> ast.expr:
    """Return the tree of a template.

    Args:
      template: a Python expression. ``size`` stands for an argument, ``size[0]`` for an item of an argument
        that is a tuple, and ``*size`` among other items for all of them.
      arguments: the arguments by name. A tree stands for itself.
      expression: gives the tree of a value or a graph.
    """
    return _Filler(arguments, expression).visit(copy.deepcopy(_parsed(template)))


@lru_cache(maxsize=4096)
def _parsed(template: str) -> ast.expr:
    return ast.parse(template, mode="eval").body


class _Filler(ast.NodeTransformer):
    """Replace the names of arguments, and drop keywords that equal the default of the called function."""

    def __init__(self, arguments: Mapping[str, Any], expression: Expression) -> None:
        self.arguments, self.expression = arguments, expression

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in self.arguments:
            return tree_of(self.arguments[node.id], self.expression)
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        value = self.arguments.get(node.value.id) if isinstance(node.value, ast.Name) else None
        place = node.slice.value if isinstance(node.slice, ast.Constant) else None
        if isinstance(value, tuple) and isinstance(place, int):
            return tree_of(value[place], self.expression)
        self.generic_visit(node)
        return node

    def visit_List(self, node: ast.List | ast.Tuple) -> ast.expr:
        self.generic_visit(node)
        node.elts = _without_stars(node.elts)
        return node

    def visit_Tuple(self, node: ast.Tuple) -> ast.expr:
        return self.visit_List(node)

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        node.args = _without_stars(node.args)
        name = ast.unparse(node.func).rpartition(".")[2]
        keywords = [keyword for keyword in node.keywords if not _is_default(name, keyword)]
        if name in _POSITIONAL_AXIS:
            node.args += [keyword.value for keyword in keywords if keyword.arg == "axis"]
            keywords = [keyword for keyword in keywords if keyword.arg != "axis"]
        node.keywords = keywords
        return node


def _without_stars(items: list[ast.expr]) -> list[ast.expr]:
    """Return items with a starred tuple replaced by its items."""
    result: list[ast.expr] = []
    for item in items:
        if isinstance(item, ast.Starred) and isinstance(item.value, ast.Tuple):
            result += item.value.elts
        else:
            result.append(item)
    return result


def _is_default(function: str, keyword: ast.keyword) -> bool:
    try:
        value = ast.literal_eval(keyword.value)
    except ValueError:
        return False
    default = _defaults(function).get(keyword.arg, NotImplemented)
    # Some functions of JAX have None for False.
    is_same = value == default and isinstance(value, bool) == isinstance(default, bool)
    return default is not NotImplemented and (
        value is None or is_same or (value is False and default is None)
    )


def parameters_of(function: str) -> list[str]:
    """Return the parameters of a function such as ``"jnp.pad"``, "" for one letter; none for a method."""
    module, _, name = function.rpartition(".")
    found = _signature(name) if module in ("jnp", "lax", "nnx") else {}
    return [parameter if len(parameter) > 1 else "" for parameter in found]


@lru_cache
def _defaults(function: str) -> dict[str | None, Any]:
    """Return the defaults of a function in a template, or of the function with the name of a method."""
    defaults = {name: p.default for name, p in _signature(function).items() if p.default is not p.empty}
    return {**defaults, **_OTHER_DEFAULTS.get(function, {})}


@lru_cache
def _signature(function: str) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a function of JAX. Flax takes its activations from ``jax.nn``."""
    modules = (jnp.fft, jnp, nn, lax)
    found = next((vars(module)[function] for module in modules if function in vars(module)), None)
    return inspect.signature(found).parameters if callable(found) else {}


def tree_of(argument: Any, expression: Expression = marked) -> ast.expr:
    """Return the tree of an argument: a literal, a dtype, or what ``expression`` gives for a value."""
    if isinstance(argument, ast.expr):
        return copy.deepcopy(argument)
    if isinstance(argument, tuple | list):
        kind = ast.Tuple if isinstance(argument, tuple) else ast.List
        return kind([tree_of(item, expression) for item in argument], ast.Load())
    if isinstance(argument, np.dtype):
        return _parsed(_DTYPES.get(argument.name, f"jnp.{argument.name}"))
    if isinstance(argument, int | float) and not isinstance(argument, bool):
        return _number(argument)
    if isinstance(argument, complex):
        return ast.Call(_parsed("complex"), [_number(argument.real), _number(argument.imag)], [])
    if argument is None or isinstance(argument, bool | str):
        return ast.Constant(argument)
    return expression(argument)


def _number(number: float) -> ast.expr:
    """Return the tree of a number. A constant below zero would print without parentheses as a base."""
    if math.isnan(number):
        return _parsed("jnp.nan")
    size = _parsed("jnp.inf") if math.isinf(number) else _magnitude(abs(number))
    return ast.UnaryOp(ast.USub(), size) if math.copysign(1, number) < 0 else size


class _Short(float):
    """A number that prints as people write it: 1e-5 and not 1e-05, 1e9 and not 1000000000.0."""

    def __repr__(self) -> str:
        usual = super().__repr__()
        mantissa, _, exponent = f"{self:.16e}".partition("e") if "e" not in usual else usual.partition("e")
        short = f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
        return short if abs(int(exponent)) > 3 and float(short) == self and len(short) < len(usual) else usual


def _magnitude(number: float) -> ast.expr:
    """Return the tree of a number that is not negative; a root of an integer is written as one."""
    if isinstance(number, int):
        return ast.Constant(number)
    square = round(number * number) if number < 256 and not number.is_integer() else -1
    if square > 0 and math.sqrt(square) == number:
        return _parsed(f"math.sqrt({square})")
    return ast.Constant(_Short(number))
