"""The code of a TorchScript archive: parsed by `ast`, checked against lists, never compiled.

torch prints the code of methods in a part of Python's syntax: one class for each type of a module, with
annotated fields, and statements on local variables. Anything else in a file is an error.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from typing import Any

from ..checkpoint.errors import CheckpointError, printable

STATEMENTS = (ast.Assign, ast.AnnAssign, ast.Expr, ast.Return, ast.If, ast.For, ast.While, ast.With, ast.Pass)
EXPRESSIONS = (
    *(ast.Name, ast.Attribute, ast.Call, ast.keyword, ast.Constant, ast.List, ast.Tuple, ast.Dict),
    *(ast.Subscript, ast.Slice, ast.UnaryOp, ast.USub, ast.Load, ast.Store, ast.withitem),
)
_PARTS = (*STATEMENTS, *EXPRESSIONS, ast.FunctionDef, ast.arguments, ast.arg)
_MANGLED = re.compile(r"\.___torch_mangle_\d+")
_ENTRY = re.compile(r"code/(__torch__(?:/\w+)*)\.py", re.ASCII)
MAX_TEXT = 2 << 20
"""Bytes of all texts of an archive. A syntax tree takes up to 260 times the memory of its text."""


class UnsupportedValueError(ValueError):
    """A value or operator that the interpreter does not take. The statement turns it into `refused`."""


@dataclass(frozen=True, eq=False, slots=True)
class ScriptFunction:
    """A function or method of an archive.

    Attributes:
        name: its qualified name, such as "__torch__.model.Net.forward".
        file: the entry of its text.
        is_method: True if its first parameter is the object.
    """

    name: str
    file: str
    node: ast.FunctionDef
    is_method: bool = False

    @property
    def parameters(self) -> list[tuple[str, ast.expr | None, ast.expr | None]]:
        """Name, type and default of each parameter, without the object of a method."""
        args, defaults = self.node.args.args, self.node.args.defaults
        padded = [*[None] * (len(args) - len(defaults)), *defaults]
        named = [(a.arg, a.annotation, default) for a, default in zip(args, padded, strict=True)]
        return named[1:] if self.is_method else named

    @property
    def signature(self) -> str:
        """The signature with types, such as "forward(x: Tensor, sr: int = 16000) -> Tensor"."""
        shown = (
            name
            + f": {type_text(kind)}" * (kind is not None)
            + f" = {type_text(value)}" * (value is not None)
            for name, kind, value in self.parameters
        )
        result = f" -> {type_text(self.node.returns)}" if self.node.returns else ""
        return printable(f"{self.node.name}({', '.join(shown)}){result}", 400)


@dataclass(eq=False, slots=True)
class ScriptClass:
    """A class of an archive.

    Attributes:
        name: its qualified name.
        base: "Module", "NamedTuple", "" or another name.
        fields: name of each attribute of its objects -> type.
        constants: name of each constant -> its text.
        names: the lists in the class by name: "__parameters__" and "__buffers__".
    """

    name: str
    file: str
    base: str
    fields: dict[str, ast.expr] = field(default_factory=dict)
    constants: dict[str, ast.expr] = field(default_factory=dict)
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    methods: dict[str, ScriptFunction] = field(default_factory=dict)

    def __deepcopy__(self, memo: Any) -> ScriptClass:
        """Return the class itself: copies of its objects share it."""
        return self


@dataclass(frozen=True, eq=False, slots=True)
class ScriptText:
    """The classes and functions of an archive by qualified name."""

    classes: dict[str, ScriptClass] = field(default_factory=dict)
    functions: dict[str, ScriptFunction] = field(default_factory=dict)

    def add(self, file: str, text: str) -> None:
        """Parse the text of one entry, such as "code/__torch__/model.py", and add its definitions."""
        matched = _ENTRY.fullmatch(file)
        if matched is None:
            raise CheckpointError("torchscript-text", f"{printable(file)!r} is not a file of TorchScript")
        prefix = matched[1].replace("/", ".")
        for item in _parsed(file, text).body:
            if isinstance(item, ast.ClassDef):
                self.classes[f"{prefix}.{item.name}"] = _read_class(file, prefix, item)
            elif isinstance(item, ast.FunctionDef):
                self.functions[f"{prefix}.{item.name}"] = _read_function(file, prefix, item)
            elif ast.unparse(item) != "op_version_set = 1":  # the first line of files of torch 1.4
                raise refused(file, item)


def line_of(file: str, node: ast.AST) -> str:
    """Return the place and text of a statement: "model.py:7: x0 = torch.relu(x)"."""
    text = ast.unparse(node).partition("\n")[0]
    return printable(f"{file.rpartition('/')[2]}:{getattr(node, 'lineno', 0)}: {text}", 200)


def refused(file: str, node: ast.AST, problem: str = "") -> CheckpointError:
    """Return the error for a statement or expression: its file, line, problem and text."""
    problem = problem or f"{type(node).__name__} is not supported"
    try:
        text = repr(ast.unparse(node).partition("\n")[0]) if isinstance(node, ast.expr | ast.stmt) else ""
    except RecursionError:
        text = "a deep expression"
    place = f"{printable(file)}:{getattr(node, 'lineno', 0)}"
    return CheckpointError("torchscript-unsupported", f"{place}: {problem}, in {printable(text, 200)}")


def type_text(node: ast.expr | None) -> str:
    """Return a type as torch prints it, with the last part of the name of a class."""
    if node is None:
        return "Any"
    text = _MANGLED.sub("", ast.unparse(node))
    return re.sub(r"__torch__\.(\w+\.)*(?=\w)", "", text)


def plain_name(name: str) -> str:
    """Return the qualified name of a class without what torch adds: "model.Net"."""
    return _MANGLED.sub("", name).removeprefix("__torch__.")


def dotted(node: ast.expr) -> str:
    """Return "a.b.c" for a name and its attributes, "" for any other expression."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def _parsed(file: str, text: str) -> ast.Module:
    if not text.isascii():  # torch prints other characters as escapes of bytes
        raise CheckpointError("torchscript-text", f"{printable(file)} has characters that are not ASCII")
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        problem = f"{printable(file)} is not the text of TorchScript: {type(error).__name__}"
        raise CheckpointError("torchscript-text", f"{problem}: {printable(str(error))}") from None


def _read_function(
    file: str, prefix: str, node: ast.FunctionDef, *, is_method: bool = False
) -> ScriptFunction:
    args = node.args
    if node.decorator_list or args.vararg or args.kwarg or args.kwonlyargs or args.posonlyargs:
        raise refused(file, node, "decorators and variable arguments are not supported")
    stack: list[tuple[ast.AST, int]] = [(node, 0)]
    while stack:
        part, depth = stack.pop()
        is_inner = part is not node and isinstance(part, ast.FunctionDef)
        if not isinstance(part, _PARTS) or is_inner or not _is_printed(part):
            raise refused(file, part)
        if depth > 100:
            raise refused(file, part, "the code is nested more than 100 levels deep")
        stack += ((child, depth + 1) for child in ast.iter_child_nodes(part))
    return ScriptFunction(f"{prefix}.{node.name}", file, node, is_method)


def _is_printed(node: Any) -> bool:
    """Return False for forms of a node that torch does not print."""
    if isinstance(node, ast.For | ast.While):
        return not node.orelse
    if isinstance(node, ast.Constant):
        return not isinstance(node.value, bytes | type(...))
    if isinstance(node, ast.Assign):
        return len(node.targets) == 1
    return node.arg is not None if isinstance(node, ast.keyword) else None not in getattr(node, "keys", ())


def _read_class(file: str, prefix: str, node: ast.ClassDef) -> ScriptClass:
    bases = [dotted(base) for base in node.bases]
    if node.decorator_list or node.keywords or len(bases) > 1:
        raise refused(file, node, "decorators and several bases are not supported")
    result = ScriptClass(f"{prefix}.{node.name}", file, bases[0] if bases else "")
    for item in node.body:
        if isinstance(item, ast.FunctionDef):
            if not item.args.args:
                raise refused(file, item, "a method without parameters is not supported")
            result.methods[item.name] = _read_function(file, result.name, item, is_method=True)
        elif not isinstance(item, ast.Pass):
            _read_field(result, item)
    return result


def _read_field(result: ScriptClass, item: ast.stmt) -> None:
    """Add `name : type`, `name : Final[type] = value`, `__annotations__["0"] = type` or `__xs__ = [...]`."""
    if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
        if item.value is not None:
            result.constants[item.target.id] = item.value
        if item.value is None or result.base == "NamedTuple":
            result.fields[item.target.id] = item.annotation
        return
    if isinstance(item, ast.Assign) and len(item.targets) == 1:
        target, value = item.targets[0], item.value
        if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
            if dotted(target.value) == "__annotations__" and type(target.slice.value) is str:
                result.fields[target.slice.value] = value
                return
        elif isinstance(target, ast.Name) and isinstance(value, ast.List):
            names = [part.value for part in value.elts if isinstance(part, ast.Constant)]
            if len(names) == len(value.elts) and all(type(name) is str for name in names):
                result.names[target.id] = tuple(map(str, names))
                return
    raise refused(result.file, item)
