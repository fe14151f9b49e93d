"""Layers of torch in the place of interpreted ones, where the archive has the code of the installed torch.

A layer is made from the constants of its class in the archive, scripted, and its text compared with the
archive's: with the same text, torch's own class computes the same values.
"""

from __future__ import annotations

import ast
import functools
import inspect
import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..checkpoint.errors import CheckpointError
from ..checkpoint.io.files import MemoryFile
from .archive import ScriptArchive, read_archive
from .normal_lines import normal_lines
from .text import ScriptClass, ScriptText, dotted, plain_name

_CONTAINERS = ("Sequential", "ModuleList", "ModuleDict")
_OF_PARTS = ("transformer", "adaptive")
"""Modules of torch.nn.modules whose layers consist of others."""


def script_archive(script: Any) -> ScriptArchive:
    """Return the archive that torch writes of a ScriptModule."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(script, buffer)
    return read_archive(
        MemoryFile(buffer.getvalue(), f"<{getattr(script, 'original_name', 'ScriptModule')}>")
    )


def make_layer(text: ScriptText, kind: ScriptClass, values: Mapping[str, Any]) -> torch.nn.Module | None:
    """Return a layer of torch with the constants of a class, or None if its text differs from torch's."""
    name = plain_name(kind.name)
    layer_class = getattr(torch.nn, name.rpartition(".")[2], None)
    if not isinstance(layer_class, type) or f"{layer_class.__module__}.{layer_class.__name__}" != name:
        return None
    children = tuple(part for part, item in values.items() if isinstance(item, torch.nn.Module))
    # Another layer with parts may read more of them than their results, and may make any number of them.
    is_simple = layer_class.__name__ in _CONTAINERS if children else name.split(".")[2] not in _OF_PARTS
    if not is_simple or not issubclass(layer_class, torch.nn.Module):
        return None
    arguments = {} if children else _arguments(layer_class, kind, values)
    if arguments.get("num_layers", 0) > len(values):
        return None
    made = _made(layer_class, tuple(arguments.items()), children)
    if made is None:
        return None
    lines = _normal(text, kind)
    is_same = lines == _normal(*made[1:]) and not any("CONSTANTS" in line for line in lines)
    return _new(layer_class, arguments, children) if is_same and _has_values(made[0], kind, values) else None


def _arguments(layer_class: type, kind: ScriptClass, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the constructor's arguments among the constants and attributes of a layer."""
    settings = {**values, "bias": values.get("bias") is not None}
    for name, node in kind.constants.items():
        parts = node.elts if isinstance(node, ast.Tuple) else [node]
        if all(isinstance(part, ast.Constant) for part in parts):
            found = tuple(part.value for part in parts if isinstance(part, ast.Constant))
            settings[name] = found if isinstance(node, ast.Tuple) else found[0]
    if settings.get("mode") in ("RNN_TANH", "RNN_RELU"):
        settings["nonlinearity"] = settings["mode"][4:].lower()
    names = set(inspect.signature(layer_class).parameters)
    if issubclass(layer_class, torch.nn.RNNBase):  # whose own signature is (*args, **kwargs)
        names = set(inspect.signature(torch.nn.RNNBase).parameters) | {"nonlinearity"}
        names -= {"mode"} if settings.get("proj_size") else {"mode", "proj_size"}
    tensors = (torch.Tensor, torch.nn.Module)
    given = {name: _as_tuples(settings[name]) for name in sorted(names & settings.keys())}
    return {name: value for name, value in given.items() if not isinstance(value, tensors)}


def _new(layer_class: type, arguments: Mapping[str, Any], children: Sequence[str]) -> torch.nn.Module:
    """Return a layer whose parameters and buffers have no memory."""
    with torch.device("meta"):
        layer = layer_class(**arguments)
    for name in children:
        layer.add_module(name, torch.nn.Identity())
    for name, tensor in {**layer._parameters, **layer._buffers}.items():
        if tensor is not None:
            empty = torch.empty(0, dtype=tensor.dtype)
            setattr(layer, name, torch.nn.Parameter(empty) if name in layer._parameters else empty)
    return layer.eval()


@functools.lru_cache(maxsize=256)
def _made(
    layer_class: type, arguments: tuple[tuple[str, Any], ...], children: tuple[str, ...]
) -> tuple[torch.nn.Module, ScriptText, ScriptClass] | None:
    """Return a layer with its scripted text; None if torch does not make or script it."""
    try:
        layer = _new(layer_class, dict(arguments), children)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            archive = script_archive(torch.jit.script(layer))
    except (RuntimeError, TypeError, ValueError, CheckpointError):
        return None
    kind = archive.class_of(archive.root)
    return None if kind is None else (layer, archive.text, kind)


def _has_values(layer: torch.nn.Module, kind: ScriptClass, values: Mapping[str, Any]) -> bool:
    """Return True if a layer has the plain attributes of an archive, with the same values."""
    tensors = {name for names in kind.names.values() for name in names}
    return all(
        _as_tuples(getattr(layer, name, None)) == _as_tuples(value)
        for name, value in values.items()
        if name not in tensors and name != "training" and _is_plain(value)
    )


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, (list, tuple)) else value


def _normal(text: ScriptText, kind: ScriptClass) -> list[str]:
    """Return the text of a class and of the functions that it calls, with numbered local names."""
    functions = [kind.methods[name] for name in sorted(kind.methods)]
    fields = [
        f"{name}: {_type(node)}" for name, node in kind.fields.items() if "__torch__" not in _type(node)
    ]
    constants = [f"{name} = {ast.unparse(node)}" for name, node in kind.constants.items()]
    lines = [*sorted(fields), *sorted(constants), str(sorted(kind.names.items()))]
    seen: set[str] = set()
    while functions:
        function = functions.pop()
        lines += normal_lines(function)
        for node in ast.walk(function.node):
            name = dotted(node) if isinstance(node, ast.Attribute) else ""
            if name in text.functions and name not in seen:
                seen.add(name)
                functions.append(text.functions[name])
    return lines


def _type(node: ast.expr) -> str:
    name = ast.unparse(node)
    return "NoneType" if name == "Optional[bool]" else name  # of _is_full_backward_hook
