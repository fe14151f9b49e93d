"""The text of a function in a form that does not depend on how torch prints it.

torch names local variables by their place in a file, and prints an expression inside of another one if the
line stays short.
"""

from __future__ import annotations

import ast
from collections import Counter

from .text import ScriptFunction, dotted, plain_name


def normal_lines(function: ScriptFunction) -> list[str]:
    """Return a line for each operation of a function, in the order in which it runs, with numbered names."""
    stored = [node for node in ast.walk(function.node) if isinstance(node, ast.Name | ast.arg)]
    counts = Counter(n.arg if isinstance(n, ast.arg) else n.id for n in stored if not _is_read(n))
    lines = _Lines(counts)
    for name, _, default in function.parameters:
        lines.add(f"parameter {name} {'' if default is None else lines.atom(default)}")
    lines.statements(function.node.body, 1)
    return [f"def {function.node.name}", *lines.found]


def _is_read(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)


class _Lines:
    """The lines of a function. A variable that is assigned once is its value; others have a number."""

    def __init__(self, counts: Counter[str]) -> None:
        self.counts, self.found = counts, list[str]()
        self.names: dict[str, str] = {}
        self.numbered: dict[str, str] = {}
        self.indent = 0

    def add(self, line: str) -> None:
        self.found.append(" " * self.indent + line)

    def atom(self, node: ast.expr) -> str:
        """Return a name or constant with the value of an expression, after the lines that compute it."""
        if isinstance(node, ast.Constant):
            return repr(node.value)
        if isinstance(node, ast.Name):
            return self.names.get(node.id, node.id)
        if (name := dotted(node)) and name.split(".")[0] in ("torch", "ops", "__torch__", "CONSTANTS"):
            return plain_name(name)
        if isinstance(node, ast.Tuple):
            return f"({', '.join(map(self.atom, node.elts))})"
        parts = [self.atom(part) for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr)]
        parts += [f"{part.arg}={self.atom(part.value)}" for part in getattr(node, "keywords", ())]
        attribute = node.attr if isinstance(node, ast.Attribute) else ""
        self.add(f"{len(self.found)} = {type(node).__name__} {attribute} {parts}")
        return f"%{len(self.found) - 1}"

    def statements(self, body: list[ast.stmt], indent: int) -> None:
        """Add the lines of statements."""
        for node in body:
            self.indent = indent
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                self._store(node.targets[0] if isinstance(node, ast.Assign) else node.target, node.value)
                continue
            value = getattr(node, "test", None) or getattr(node, "iter", None) or getattr(node, "value", None)
            target = f" {self._numbered(node.target.id)}" if isinstance(node, ast.For) else ""  # type: ignore[attr-defined]
            shown = "" if value is None else self.atom(value)
            if not isinstance(node, ast.Expr | ast.Pass):
                self.add(f"{type(node).__name__}{target} {shown}")
            for part in ("body", "orelse"):
                if inner := getattr(node, part, None):
                    self.indent = indent
                    self.add(part)
                    self.statements(inner, indent + 1)

    def _store(self, target: ast.expr, value: ast.expr) -> None:
        shown = self.atom(value)
        if isinstance(target, ast.Name) and self.counts[target.id] == 1 and not shown.startswith("$"):
            self.names[target.id] = shown
        elif isinstance(target, ast.Name):
            self.add(f"{self._numbered(target.id)} = {shown}")
        elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            self.add(f"at once {shown}")
            for part, item in zip(target.elts, value.elts, strict=False):
                self._store(part, item)
        elif isinstance(target, ast.Tuple):
            names = [self._numbered(part.id) for part in target.elts if isinstance(part, ast.Name)]
            self.add(f"{names} = {shown}")
        else:
            self.add(f"{ast.unparse(target)} = {shown}")

    def _numbered(self, name: str) -> str:
        number = self.numbered.setdefault(name, f"${len(self.numbered)}")
        return self.names.setdefault(name, number)
