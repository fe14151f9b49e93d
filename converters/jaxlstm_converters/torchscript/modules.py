"""From the objects of an archive to a tree of torch modules."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from jaxlstm._shared.torch_tensors import numpy_to_tensor

from ..checkpoint.errors import CheckpointError, describe
from ..checkpoint.io.tensor import Tensor
from ..checkpoint.pickle.values import GlobalName, Placeholder, UnsupportedTensor
from .archive import ScriptArchive
from .containers import to_bytes
from .interpreter import Interpreter
from .layers import make_layer
from .objects import ScriptObject
from .text import ScriptClass, ScriptFunction, plain_name

_INTERNAL = frozenset(vars(torch.nn.Module())) - {"training", "_is_full_backward_hook"}
_SPECIAL = ("forward", "__len__", "__getitem__", "__contains__")
MAX_DEPTH = 100
_LISTS = (f"build_{kind}list" for kind in ("int", "double", "bool", "tensor", "complex"))
_PICKLED = frozenset({*_LISTS, "restore_type_tag"})
"""Functions of torch.jit._pickle that return their first argument."""


class ScriptedModule(torch.nn.Module):
    """A module of an archive whose methods are interpreted. Each class of an archive is a subclass."""

    _jaxlstm_class: ScriptClass
    _jaxlstm_text = True


class ModuleTree:
    """The modules of an archive as they are made. A value that occurs twice is one object."""

    def __init__(self, archive: ScriptArchive) -> None:
        self.archive = archive
        self._tensors: dict[Any, torch.Tensor] = {}
        self._values: dict[int, Any] = {}
        self._kinds: dict[str, type[ScriptedModule]] = {}
        constants = {f"c{i}": self._value(value, 0) for i, value in enumerate(archive.constants)}
        self.interpreter = Interpreter(archive.text, constants, archive.version)

    def root(self) -> torch.nn.Module:
        """Return the root module."""
        kind = self.archive.class_of(self.archive.root)
        if kind is None or kind.base != "Module":
            raise _unsupported("the root of the archive is not a module")
        self._make_parameters(self.archive.root)
        return self._value(self.archive.root, 0)

    def _make_parameters(self, root: Placeholder) -> None:
        """Make the parameters of all modules, before lists with the same tensors."""
        stack, seen = [root], set[int]()
        while stack:
            value = stack.pop()
            kind = self.archive.class_of(value)
            if kind is None or id(value) in seen:
                continue
            seen.add(id(value))
            stack += [item for item in value.state.values() if isinstance(item, Placeholder)]
            for name in kind.names.get("__parameters__", ()):
                item = value.state.get(name)
                if isinstance(item, Tensor):
                    tensor = self._tensor(item)
                    is_float = tensor.is_floating_point() or tensor.is_complex()
                    self._tensors[item.identity] = torch.nn.Parameter(tensor, requires_grad=is_float)

    def _tensor(self, tensor: Tensor) -> torch.Tensor:
        if tensor.identity not in self._tensors:
            self._tensors[tensor.identity] = numpy_to_tensor(tensor.read())
        return self._tensors[tensor.identity]

    def _value(self, value: Any, depth: int) -> Any:
        """Return a value of a pickle for torch."""
        if value is None or type(value) in (bool, int, float, str):
            return to_bytes(value)
        if isinstance(value, Tensor):
            return self._tensor(value)
        if depth > MAX_DEPTH:
            raise CheckpointError("too-deep", f"values are nested more than {MAX_DEPTH} levels deep")
        if id(value) not in self._values:
            self._values[id(value)] = self  # Until it is made.
            self._values[id(value)] = self._made(value, depth + 1)
        if self._values[id(value)] is self:
            raise CheckpointError("cycle", f"{describe(value)} contains itself")
        return self._values[id(value)]

    def _made(self, value: Any, depth: int) -> Any:
        if isinstance(value, UnsupportedTensor):
            raise CheckpointError("unsupported-tensor", f"the archive has a {value.kind}")
        if type(value) in (list, tuple):
            return type(value)(self._value(item, depth) for item in value)
        if isinstance(value, dict):
            return {to_bytes(key): self._value(item, depth) for key, item in value.items()}
        if not isinstance(value, Placeholder):
            raise _unsupported(f"{describe(value)} is not supported")
        if value.packed_class or ".quantized." in value.cls.module:
            packed = value.packed_class or str(value.cls)
            raise _unsupported(f"quantized models are not supported: the archive has a {packed}")
        if value.cls.module == "torch.jit._pickle" and value.cls.name in _PICKLED and value.args:
            return self._value(value.args[0], depth)
        if value.cls == GlobalName("torch", "device"):
            return torch.device("cpu")
        if value.cls == GlobalName("builtins", "complex") and len(value.args) == 2:
            return complex(*value.args)
        kind = self.archive.class_of(value)
        if kind is None:
            raise _unsupported(f"an object of {value.cls} is not supported")
        values = {name: self._value(item, depth) for name, item in _fields(kind, value.state).items()}
        if kind.base == "Module":
            return self._module(kind, values)
        result = ScriptObject(kind)
        vars(result).update(values)
        return result

    def _module(self, kind: ScriptClass, values: dict[str, Any]) -> torch.nn.Module:
        if kind.names.get("__forward_hooks__") or kind.names.get("__forward_pre_hooks__"):
            raise _unsupported(f"{plain_name(kind.name)} has hooks, which are not supported")
        module: Any = make_layer(self.archive.text, kind, values)
        is_layer = module is not None
        module = module if is_layer else self._class(kind)()
        vars(module)["_jaxlstm_class"] = kind
        for name, item in values.items():
            if isinstance(item, torch.nn.Module):
                module._modules[name] = item
            elif name in kind.names.get("__parameters__", ()):
                module._parameters[name] = item
            elif name in kind.names.get("__buffers__", ()):
                module._buffers[name] = item
            elif not is_layer or name == "training":
                vars(module)[name] = item
        if is_layer and isinstance(module, torch.nn.RNNBase):
            module._flat_weights = [module._parameters[name] for name in module._flat_weights_names]  # type: ignore[assignment]
        return module

    def _class(self, kind: ScriptClass) -> type[ScriptedModule]:
        if kind.name not in self._kinds:
            module, _, name = plain_name(kind.name).rpartition(".")
            methods = {
                name: _method(self.interpreter, function)
                for name, function in kind.methods.items()
                if name in _SPECIAL or not hasattr(torch.nn.Module, name)
            }
            evaluate = partial(self.interpreter.default, ScriptFunction(kind.name, kind.file, _NO_CODE))
            constants = {
                name: evaluate(node)
                for name, node in kind.constants.items()
                if not hasattr(torch.nn.Module, name) and name not in _INTERNAL and name not in methods
            }
            namespace = {**constants, **methods, "__module__": module or "__torch__"}
            self._kinds[kind.name] = type(name, (ScriptedModule,), namespace)
        return self._kinds[kind.name]


_NO_CODE: Any = ast.parse("def f(): pass").body[0]


def _unsupported(problem: str) -> CheckpointError:
    return CheckpointError("torchscript-unsupported", problem)


def _fields(kind: ScriptClass, state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the values of the fields of a class, all of which the class must declare."""
    for name in state:
        if name not in kind.fields or name in _INTERNAL or name.startswith("__"):
            raise _unsupported(f"the attribute {describe(name)} of {plain_name(kind.name)} is not supported")
    if missing := kind.fields.keys() - state.keys():
        raise _unsupported(f"{plain_name(kind.name)} lacks the attribute {describe(min(missing))}")
    return state


def _method(interpreter: Interpreter, function: ScriptFunction) -> Any:
    """Return a method that interprets the text of a function."""

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return interpreter.run(function, args, kwargs, self)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    names = [("self", None), *((name, default) for name, _, default in function.parameters)]
    parameters = [
        inspect.Parameter(name, kind, default=inspect.Parameter.empty if default is None else ...)
        for name, default in names
    ]
    method.__name__ = method.__qualname__ = function.node.name
    method.__doc__ = function.signature
    method.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return method
