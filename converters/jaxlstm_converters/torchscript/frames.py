"""One running function of an archive: a walk over its checked syntax tree.

A name of the text is looked up in tables of this package, in local variables, and among the fields that a
class declares. Nothing else of Python can be reached.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import torch

from .containers import get_item, make_dict
from .objects import ScriptObject, class_of, new_object
from .operators import call_operator, is_floating
from .sizes import NumberTensor, plain
from .text import ScriptFunction, ScriptText, UnsupportedValueError, dotted, refused
from .types import has_type

_NUMBERS = {"inf": math.inf, "nan": math.nan}
_FUNCTIONS = {"int": "Int", "float": "Float", "bool": "Bool", "complex": "Complex"} | {
    name: name for name in ("str", "sorted", "ord", "chr")
}
"""Function of the text -> operator."""
_IMPLICIT = {"int": "IntImplicit", "float": "FloatImplicit", "number": "ScalarImplicit"}
"""Type of a number -> operator that makes one of a tensor."""
_WITH_NUMBERS = ("add", "sub", "mul", "div")
"""Operators whose second argument TorchScript replaces by a number if it is a constant without axes."""
_CONTEXTS = {
    "__torch__.torch.autograd.grad_mode.no_grad": torch.no_grad,
    "__torch__.torch.autograd.grad_mode.enable_grad": torch.enable_grad,
}


class FunctionRunner(Protocol):
    """The interpreter, as a running function sees it."""

    text: ScriptText
    constants: Mapping[str, Any]
    version: int
    run: Callable[..., Any]
    count_step: Callable[[ScriptFunction, ast.stmt], None]


class _Returned(NamedTuple):
    value: Any


class _Uninitialized:
    """The value of a variable before its first assignment, which no operator takes."""


class Frame:
    """One running function with its local variables."""

    def __init__(self, interpreter: FunctionRunner, function: ScriptFunction, names: dict[str, Any]) -> None:
        self.interpreter, self.function, self.names = interpreter, function, names

    def run_statements(self, body: list[ast.stmt]) -> _Returned | None:
        """Run statements up to a return."""
        for node in body:
            self.interpreter.count_step(self.function, node)
            try:
                returned = _STATEMENTS[type(node)](self, node)
            except UnsupportedValueError as error:
                raise self.refused(node, str(error)) from error
            if returned is not None:
                return returned
        return None

    def refused(self, node: ast.AST, problem: str = "") -> Exception:
        """Return the error for a statement or expression of the function."""
        return refused(self.function.file, node, problem)

    def value(self, node: ast.expr) -> Any:
        """Return the value of an expression."""
        return _EXPRESSIONS[type(node)](self, node)

    def values(self, nodes: list[ast.expr]) -> list[Any]:
        """Return the values of expressions."""
        return [self.value(node) for node in nodes]

    def expression(self, node: ast.Expr) -> None:
        """Run a call for its effect."""
        self.value(node.value)

    def assign(self, node: Any) -> None:
        """Run `x = value`, `x : type = value` or `x : type`."""
        if node.value is not None:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            self._store(target, self.value(node.value))

    def _store(self, target: ast.expr, value: Any) -> None:
        if isinstance(target, ast.Name):
            self.names[target.id] = value
        elif isinstance(target, ast.Attribute):
            self._set_attribute(self.value(target.value), target.attr, value)
        elif isinstance(target, ast.Tuple):
            if not isinstance(value, (list, tuple)) or len(value) != len(target.elts):
                raise UnsupportedValueError(f"{len(target.elts)} values are expected")
            for part, item in zip(target.elts, value, strict=True):
                self._store(part, item)
        else:
            raise self.refused(target)

    def _set_attribute(self, owner: Any, name: str, value: Any) -> None:
        kind = class_of(owner)
        if kind is None or name not in kind.fields:
            raise UnsupportedValueError(f"{type(owner).__name__} has no attribute {name!r}")
        setattr(owner, name, plain([value])[0])

    def _get_attribute(self, owner: Any, name: str) -> Any:
        if isinstance(owner, tuple) and name in getattr(owner, "_fields", ()):
            return owner[owner._fields.index(name)]  # type: ignore[attr-defined]
        kind = class_of(owner)
        if kind is None or (name not in kind.fields and name not in kind.constants):
            raise UnsupportedValueError(f"{type(owner).__name__} has no attribute {name!r}")
        return getattr(owner, name)

    def repeat(self, node: ast.While | ast.For) -> _Returned | None:
        """Run `while test:` or `for index in range(count):`."""
        rounds: Any = iter(int, 1)  # without an end
        if isinstance(node, ast.For):
            call = node.iter
            if not isinstance(call, ast.Call) or dotted(call.func) != "range" or len(call.args) != 1:
                raise self.refused(node, "a loop that is not over range(n) is not supported")
            rounds = range(self.value(call.args[0]))
        for index in rounds:
            if isinstance(node, ast.For):
                self._store(node.target, index)
            elif not self.value(node.test):
                break
            if (returned := self.run_statements(node.body)) is not None:
                return returned
            self.interpreter.count_step(self.function, node)
        return None

    def within(self, node: ast.With) -> _Returned | None:
        """Run `with context:`."""
        context = self.value(node.items[0].context_expr)
        is_known = isinstance(context, tuple(_CONTEXTS.values()))
        if not is_known or len(node.items) != 1 or node.items[0].optional_vars is not None:
            raise self.refused(node, f"`with` of a {type(context).__name__} is not supported")
        with context:
            return self.run_statements(node.body)

    def name(self, node: ast.Name) -> Any:
        """Return a local variable or constant."""
        found = self.names if node.id in self.names else _NUMBERS
        if node.id not in found:
            raise self.refused(node, f"the name {node.id!r} is not defined")
        return found[node.id]

    def attribute(self, node: ast.Attribute) -> Any:
        """Return an attribute, a constant of the archive or a function of it."""
        name = dotted(node)
        if name.startswith("CONSTANTS."):
            if node.attr not in self.interpreter.constants:
                raise self.refused(node, f"the constant {node.attr!r} is not in the archive")
            return self.interpreter.constants[node.attr]
        if name in self.interpreter.text.functions:
            return self.interpreter.text.functions[name]
        return self._get_attribute(self.value(node.value), node.attr)

    def call(self, node: ast.Call) -> Any:
        """Return the result of a call of an operator, function, method or form of TorchScript."""
        name = dotted(node.func)
        root, _, rest = name.partition(".")
        if name and root not in self.names:
            if root in ("torch", "ops"):
                return self._call_operator(node, root, rest)
            return self._call_defined(node, name) if root == "__torch__" else self._call_form(node, name)
        args = tuple(self.values(node.args))
        if node.keywords:
            raise self.refused(node, "keyword arguments of a method are not supported")
        if isinstance(node.func, ast.Attribute):
            return self._call_method(self.value(node.func.value), node.func.attr, args)
        function = self.value(node.func)
        if not isinstance(function, ScriptFunction):
            raise self.refused(node, f"a {type(function).__name__} is not a function")
        return self.interpreter.run(function, args, {})

    def _call_operator(self, node: ast.Call, root: str, name: str) -> Any:
        args = self.values(node.args)
        kwargs = {str(keyword.arg): self.value(keyword.value) for keyword in node.keywords}
        if root == "ops":
            namespace, _, name = name.partition(".")
            return call_operator(namespace, name, args, kwargs)
        if (
            name.rstrip("_") in _WITH_NUMBERS
            and len(args) > 1
            and dotted(node.args[1]).startswith("CONSTANTS.")
        ):
            is_number = isinstance(args[1], torch.Tensor) and not args[1].dim()
            args[1] = args[1].item() if is_number else args[1]
        if self.interpreter.version < 4 and name in ("div", "div_"):
            is_integer = isinstance(args[0], (torch.Tensor, NumberTensor)) and not any(map(is_floating, args))
            kwargs |= {"rounding_mode": "trunc"} if is_integer else {}
        if self.interpreter.version < 5 and name == "full" and kwargs.get("dtype") is None:
            args[1] = torch.sym_float(args[1])
        return call_operator("aten", name, args, kwargs)

    def _call_method(self, owner: Any, name: str, args: tuple[Any, ...]) -> Any:
        """Call a method of a module or object. A module runs `forward` through its own call."""
        if isinstance(owner, tuple(_CONTEXTS.values())) and name == "__init__":
            return None
        kind = class_of(owner)
        if kind is None or name not in kind.methods:
            raise UnsupportedValueError(f"{type(owner).__name__} has no method {name!r}")
        is_layer = not hasattr(type(owner), "_jaxlstm_text")  # of torch, whose methods have this text
        if isinstance(owner, torch.nn.Module) and (name == "forward" or (is_layer and "forward__" in name)):
            return owner(*args)
        if is_layer:
            return getattr(owner, name)(*args)
        return self.interpreter.run(kind.methods[name], args, {}, owner)

    def _call_defined(self, node: ast.Call, name: str) -> Any:
        """Call a function of the archive, or make an object of a class."""
        text = self.interpreter.text
        if name in text.functions:
            return self.interpreter.run(text.functions[name], tuple(self.values(node.args)), {})
        kind = text.classes.get(name.removesuffix(".__new__"))
        if kind is None:
            raise self.refused(node, f"{name} is not in the archive")
        if not name.endswith(".__new__"):
            return new_object(kind, plain(self.values(node.args)))
        return _CONTEXTS[kind.name]() if kind.name in _CONTEXTS else ScriptObject(kind)

    def _call_form(self, node: ast.Call, name: str) -> Any:
        """Return the value of one of TorchScript's forms, whose arguments may be types."""
        args = node.args
        if name == "uninitialized":
            return _Uninitialized()
        if name == "print":
            return None
        if name in ("annotate", "unchecked_cast") and len(args) == 2:
            value, operator = self.value(args[1]), _IMPLICIT.get(dotted(args[0]))
            is_number = operator and isinstance(value, (torch.Tensor, NumberTensor))
            return call_operator("aten", str(operator), [value], {}) if is_number else value
        if name in ("getattr", "setattr") and len(args) >= 2 and isinstance(args[1], ast.Constant):
            owner, attribute = self.value(args[0]), str(args[1].value)
            if name == "getattr":
                return self._get_attribute(owner, attribute)
            return self._set_attribute(owner, attribute, self.value(args[2]))
        if name == "isinstance" and len(args) == 2:
            kinds = args[1].elts if isinstance(args[1], (ast.List, ast.Tuple)) else [args[1]]
            value = self.value(args[0])
            return any(has_type(value, kind) for kind in kinds)
        if name not in _FUNCTIONS:
            raise self.refused(node, f"the function {name!r} is not defined")
        return call_operator("aten", _FUNCTIONS[name], self.values(args), {})

    def dict(self, node: ast.Dict) -> dict[Any, Any]:
        """Return a dict."""
        keys = self.values([key for key in node.keys if key is not None])
        return make_dict(zip(keys, plain(self.values(node.values)), strict=True))

    def subscript(self, node: ast.Subscript) -> Any:
        """Return an item, or a slice of a tuple."""
        if not isinstance(node.slice, ast.Slice):
            return get_item(self.value(node.value), self.value(node.slice))
        parts = (node.slice.lower, node.slice.upper, node.slice.step)
        return get_item(self.value(node.value), slice(*(part and self.value(part) for part in parts)))

    def negative(self, node: ast.UnaryOp) -> Any:
        """Return a negative constant."""
        value = self.value(node.operand)
        if type(value) not in (int, float, complex):
            raise self.refused(node)
        return -value


_STATEMENTS: dict[type, Callable[[Frame, Any], _Returned | None]] = {
    ast.Assign: Frame.assign,
    ast.AnnAssign: Frame.assign,
    ast.Expr: Frame.expression,
    ast.Return: lambda frame, node: _Returned(node.value and frame.value(node.value)),
    ast.If: lambda frame, node: frame.run_statements(node.body if frame.value(node.test) else node.orelse),
    ast.While: Frame.repeat,
    ast.For: Frame.repeat,
    ast.With: Frame.within,
    ast.Pass: lambda frame, node: None,
}
_EXPRESSIONS: dict[type, Callable[[Frame, Any], Any]] = {
    ast.Constant: lambda frame, node: node.value,
    ast.Name: Frame.name,
    ast.Attribute: Frame.attribute,
    ast.Call: Frame.call,
    ast.List: lambda frame, node: plain(frame.values(node.elts)),
    ast.Tuple: lambda frame, node: tuple(frame.values(node.elts)),
    ast.Dict: Frame.dict,
    ast.Subscript: Frame.subscript,
    ast.UnaryOp: Frame.negative,
}
