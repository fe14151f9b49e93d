"""The interpreter of the methods of an archive: a walk over their checked syntax trees.

A name of the text is looked up in tables of this package, in local variables, and among the fields that a
class declares. Nothing else of Python can be reached.
"""

from __future__ import annotations

import ast
import math
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from .containers import get_item, make_dict
from .objects import ScriptObject, new_object
from .operators import NumberTensor, call_operator, plain
from .text import ScriptClass, ScriptFunction, ScriptText, UnsupportedValueError, dotted, refused
from .types import has_type, with_type

MAX_STEPS = 10_000_000
"""Statements that one call from Python may run."""
MAX_CALLS = 50
"""Calls of methods and functions inside of each other."""
_NUMBERS = {"inf": math.inf, "nan": math.nan}
_CONVERSIONS = {"int": "Int", "float": "Float", "bool": "Bool", "complex": "Complex", "str": "str"}
_FUNCTIONS = ("sorted", "ord", "chr")
_WITH_NUMBERS = ("add", "sub", "mul", "div")
"""Operators whose second argument TorchScript replaces by a number if it is a constant without axes."""
_CONTEXTS = {
    "__torch__.torch.autograd.grad_mode.no_grad": torch.no_grad,
    "__torch__.torch.autograd.grad_mode.enable_grad": torch.enable_grad,
}


class _Returned(NamedTuple):
    value: Any


class _Uninitialized:
    """The value of a variable before its first assignment, which no operator takes."""


def class_of(value: Any) -> ScriptClass | None:
    """Return the class of a module or object of an archive."""
    is_object = isinstance(value, (torch.nn.Module, ScriptObject))
    return getattr(value, "_jaxlstm_class", None) if is_object else None


class Interpreter:
    """Runs the functions and methods of an archive.

    Attributes:
        text: the classes and functions.
        constants: name -> value of CONSTANTS.
    """

    __slots__ = ("_state", "constants", "text")

    def __init__(self, text: ScriptText, constants: Mapping[str, Any]) -> None:
        self.text, self.constants = text, constants
        self._state = threading.local()

    def run(
        self, function: ScriptFunction, owner: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """Return the result of a function, or of a method of its owner."""
        state = self._state
        depth = getattr(state, "depth", 0)
        if depth == 0:
            state.steps = 0
        if depth >= MAX_CALLS:
            raise refused(function.file, function.node, f"more than {MAX_CALLS} calls inside of each other")
        state.depth = depth + 1
        try:
            names = self._bound(function, args, kwargs, checked=depth == 0)
            if function.is_method:
                names[function.node.args.args[0].arg] = owner
            returned = _Frame(self, function, names).run_statements(function.node.body)
        finally:
            state.depth = depth
        result = returned.value if returned else None
        return _as_tensors(result) if depth == 0 else result

    def count_step(self, function: ScriptFunction, node: ast.stmt) -> None:
        """Count one statement."""
        self._state.steps += 1
        if self._state.steps > MAX_STEPS:
            raise refused(function.file, node, f"a call runs more than {MAX_STEPS} statements")

    def call_method(self, owner: Any, name: str, args: list[Any]) -> Any:
        """Call a method of a module or object. A module runs `forward` through its own call."""
        kind = class_of(owner)
        method = kind.methods.get(name) if kind else None
        if method is None:
            raise UnsupportedValueError(f"{type(owner).__name__} has no method {name!r}")
        is_layer = not hasattr(type(owner), "_jaxlstm_text")  # of torch, whose methods have this text
        if isinstance(owner, torch.nn.Module) and (name == "forward" or (is_layer and "forward__" in name)):
            return owner(*args)
        if is_layer:
            return getattr(owner, name)(*args)
        return self.run(method, owner, tuple(args), {})

    def _bound(
        self, function: ScriptFunction, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, checked: bool
    ) -> dict[str, Any]:
        parameters, given = function.parameters, dict(kwargs)
        if len(args) > len(parameters) or given.keys() - {name for name, *_ in parameters[len(args) :]}:
            raise TypeError(f"{function.node.name} takes {function.signature}, got {len(args)} arguments")
        names: dict[str, Any] = {}
        for index, (name, kind, default) in enumerate(parameters):
            if index < len(args):
                value = args[index]
            elif name in given:
                value = given[name]
            elif default is not None:
                value = self.default(function, default)
            else:
                raise TypeError(f"{function.node.name} needs the argument {name!r}: {function.signature}")
            names[name] = with_type(value, kind, f"{function.node.name}: {name}") if checked else value
        return names

    def default(self, function: ScriptFunction, node: ast.expr) -> Any:
        """Return the value of a default or constant."""
        return _Frame(self, function, {}).value(node)


def _as_tensors(value: Any) -> Any:
    """Return a result with tensors in the place of tensors of one integer."""
    if isinstance(value, NumberTensor):
        return value.tensor()
    if type(value) in (list, tuple):
        return type(value)(_as_tensors(item) for item in value)
    return value


class _Frame:
    """One running function with its local variables."""

    def __init__(self, interpreter: Interpreter, function: ScriptFunction, names: dict[str, Any]) -> None:
        self.interpreter, self.function, self.names = interpreter, function, names

    def run_statements(self, body: list[ast.stmt]) -> _Returned | None:
        """Run statements up to a return."""
        for node in body:
            self.interpreter.count_step(self.function, node)
            try:
                returned = _STATEMENTS[type(node)](self, node)
            except UnsupportedValueError as error:
                raise refused(self.function.file, node, str(error)) from error
            if returned is not None:
                return returned
        return None

    def value(self, node: ast.expr) -> Any:
        """Return the value of an expression."""
        return _EXPRESSIONS[type(node)](self, node)

    def _assign(self, node: Any) -> None:
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        if node.value is not None:
            self._store(target, self.value(node.value))

    def _store(self, target: ast.expr, value: Any) -> None:
        if isinstance(target, ast.Name):
            self.names[target.id] = value
        elif isinstance(target, ast.Tuple):
            if not isinstance(value, (list, tuple)) or len(value) != len(target.elts):
                raise UnsupportedValueError(f"{len(target.elts)} values are expected")
            for part, item in zip(target.elts, value, strict=True):
                self._store(part, item)
        elif isinstance(target, ast.Attribute):
            self._set_attribute(self.value(target.value), target.attr, value)
        else:
            raise refused(self.function.file, target)

    def _set_attribute(self, owner: Any, name: str, value: Any) -> None:
        kind = class_of(owner)
        if kind is None or name not in kind.fields:
            raise UnsupportedValueError(f"{type(owner).__name__} has no attribute {name!r}")
        setattr(owner, name, plain([value])[0])

    def _expression(self, node: ast.Expr) -> None:
        self.value(node.value)

    def _return(self, node: ast.Return) -> _Returned:
        return _Returned(None if node.value is None else self.value(node.value))

    def _if(self, node: ast.If) -> _Returned | None:
        return self.run_statements(node.body if self.value(node.test) else node.orelse)

    def _while(self, node: ast.While) -> _Returned | None:
        while self.value(node.test):
            if (returned := self.run_statements(node.body)) is not None:
                return returned
            self.interpreter.count_step(self.function, node)
        return None

    def _for(self, node: ast.For) -> _Returned | None:
        call = node.iter
        if not isinstance(call, ast.Call) or dotted(call.func) != "range" or len(call.args) != 1:
            raise refused(self.function.file, node, "a loop that is not over range(n) is not supported")
        for index in range(self.value(call.args[0])):
            self._store(node.target, index)
            if (returned := self.run_statements(node.body)) is not None:
                return returned
            self.interpreter.count_step(self.function, node)
        return None

    def _with(self, node: ast.With) -> _Returned | None:
        if len(node.items) != 1 or node.items[0].optional_vars is not None:
            raise refused(self.function.file, node, "this form of `with` is not supported")
        context = self.value(node.items[0].context_expr)
        if not isinstance(context, tuple(_CONTEXTS.values())):
            raise refused(self.function.file, node, f"`with` of a {type(context).__name__} is not supported")
        with context:
            return self.run_statements(node.body)

    def _constant(self, node: ast.Constant) -> Any:
        return node.value

    def _name(self, node: ast.Name) -> Any:
        if node.id in self.names:
            return self.names[node.id]
        if node.id in _NUMBERS:
            return _NUMBERS[node.id]
        raise refused(self.function.file, node, f"the name {node.id!r} is not defined")

    def _attribute(self, node: ast.Attribute) -> Any:
        name = dotted(node)
        if name.startswith("CONSTANTS."):
            if node.attr not in self.interpreter.constants:
                raise refused(self.function.file, node, f"the constant {node.attr!r} is not in the archive")
            return self.interpreter.constants[node.attr]
        if name in self.interpreter.text.functions:
            return self.interpreter.text.functions[name]
        return self._get_attribute(self.value(node.value), node.attr)

    def _get_attribute(self, owner: Any, name: str) -> Any:
        if isinstance(owner, tuple) and name in getattr(owner, "_fields", ()):
            return get_item(owner, owner._fields.index(name))  # type: ignore[attr-defined]
        kind = class_of(owner)
        if kind is None or (name not in kind.fields and name not in kind.constants):
            raise UnsupportedValueError(f"{type(owner).__name__} has no attribute {name!r}")
        return getattr(owner, name)

    def _call(self, node: ast.Call) -> Any:
        name = dotted(node.func)
        root, _, rest = name.partition(".")
        if name and root not in self.names:
            if root not in ("torch", "ops", "__torch__"):
                return self._call_form(node, name)
            if name.endswith(".__new__"):
                return self._new(node, name.removesuffix(".__new__"))
            args = [self.value(arg) for arg in node.args]
            kwargs = {str(keyword.arg): self.value(keyword.value) for keyword in node.keywords}
            if root == "torch":
                if rest in _WITH_NUMBERS and len(args) > 1:
                    args[1] = self._as_number(node.args[1], args[1])
                return call_operator("aten", rest, args, kwargs)
            if root == "ops":
                return call_operator(*_two(rest), args, kwargs)
            return self._call_defined(node, name, args)
        args = [self.value(arg) for arg in node.args]
        if node.keywords:
            raise refused(self.function.file, node, "keyword arguments of a method are not supported")
        if isinstance(node.func, ast.Attribute):
            owner = self.value(node.func.value)
            if isinstance(owner, tuple(_CONTEXTS.values())) and node.func.attr == "__init__":
                return None
            return self.interpreter.call_method(owner, node.func.attr, args)
        function = self.value(node.func)
        if not isinstance(function, ScriptFunction):
            raise refused(self.function.file, node, f"a {type(function).__name__} is not a function")
        return self.interpreter.run(function, None, tuple(args), {})

    def _as_number(self, node: ast.expr, value: Any) -> Any:
        """Return the number of a constant without axes: TorchScript takes it for one in types of results."""
        is_constant = dotted(node).startswith("CONSTANTS.") and isinstance(value, torch.Tensor)
        return value.item() if is_constant and not value.dim() else value

    def _new(self, node: ast.Call, name: str) -> Any:
        """Return an object of a class of the archive before its `__init__`."""
        kind = self.interpreter.text.classes.get(name)
        if kind is None or kind.base:
            raise refused(self.function.file, node, f"{name} is not a class of the archive")
        return _CONTEXTS[name]() if name in _CONTEXTS else ScriptObject(kind)

    def _call_defined(self, node: ast.Call, name: str, args: list[Any]) -> Any:
        """Call a function of the archive, or make a named tuple."""
        text = self.interpreter.text
        if name in text.functions:
            return self.interpreter.run(text.functions[name], None, tuple(args), {})
        if name not in text.classes:
            raise refused(self.function.file, node, f"{name} is not in the archive")
        return new_object(text.classes[name], args)

    def _call_form(self, node: ast.Call, name: str) -> Any:
        """Return the value of one of TorchScript's forms, whose arguments may be types."""
        args = node.args
        if name in ("annotate", "unchecked_cast") and len(args) == 2:
            value = self.value(args[1])
            is_tensor = isinstance(value, (torch.Tensor, NumberTensor))
            implicit = {"int": "IntImplicit", "float": "FloatImplicit", "number": "ScalarImplicit"}
            if is_tensor and (operator := implicit.get(dotted(args[0]))):
                return call_operator("aten", operator, [value], {})
            return value
        if name == "uninitialized":
            return _Uninitialized()
        if name in ("getattr", "setattr") and len(args) >= 2 and isinstance(args[1], ast.Constant):
            owner = self.value(args[0])
            if name == "getattr":
                return self._get_attribute(owner, str(args[1].value))
            return self._set_attribute(owner, str(args[1].value), self.value(args[2]))
        if name == "isinstance" and len(args) == 2:
            kinds = args[1].elts if isinstance(args[1], (ast.List, ast.Tuple)) else [args[1]]
            value = plain([self.value(args[0])])[0]
            return any(has_type(value, kind) for kind in kinds)
        if name == "print":
            return None
        if (operator := _CONVERSIONS.get(name) or (name if name in _FUNCTIONS else None)) is None:
            raise refused(self.function.file, node, f"the function {name!r} is not defined")
        values = [self.value(arg) for arg in args]
        return call_operator("aten", operator, values, {})

    def _list(self, node: ast.List) -> list[Any]:
        return plain([self.value(item) for item in node.elts])

    def _tuple(self, node: ast.Tuple) -> tuple[Any, ...]:
        return tuple(self.value(item) for item in node.elts)

    def _dict(self, node: ast.Dict) -> dict[Any, Any]:
        pairs = zip(node.keys, node.values, strict=True)
        return make_dict((self.value(key), self.value(value)) for key, value in pairs if key is not None)

    def _subscript(self, node: ast.Subscript) -> Any:
        value = self.value(node.value)
        if isinstance(node.slice, ast.Slice):
            parts = (node.slice.lower, node.slice.upper, node.slice.step)
            return get_item(value, slice(*(None if part is None else self.value(part) for part in parts)))
        return get_item(value, self.value(node.slice))

    def _negative(self, node: ast.UnaryOp) -> Any:
        value = self.value(node.operand)
        if type(value) not in (int, float, complex):
            raise refused(self.function.file, node)
        return -value


def _two(name: str) -> tuple[str, str]:
    namespace, _, operator = name.partition(".")
    return namespace, operator


_STATEMENTS: dict[type, Callable[[_Frame, Any], _Returned | None]] = {
    ast.Assign: _Frame._assign,
    ast.AnnAssign: _Frame._assign,
    ast.Expr: _Frame._expression,
    ast.Return: _Frame._return,
    ast.If: _Frame._if,
    ast.While: _Frame._while,
    ast.For: _Frame._for,
    ast.With: _Frame._with,
    ast.Pass: lambda frame, node: None,
}
_EXPRESSIONS: dict[type, Callable[[_Frame, Any], Any]] = {
    ast.Constant: _Frame._constant,
    ast.Name: _Frame._name,
    ast.Attribute: _Frame._attribute,
    ast.Call: _Frame._call,
    ast.List: _Frame._list,
    ast.Tuple: _Frame._tuple,
    ast.Dict: _Frame._dict,
    ast.Subscript: _Frame._subscript,
    ast.UnaryOp: _Frame._negative,
}
