"""The mutants of a file: copies that differ from it in one place, made by mutmut's operators."""

from __future__ import annotations

import ast
import contextlib
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.file_mutation import MutationVisitor
from mutmut.mutation.mutators import mutation_operators, operator_string
from mutmut.mutation.pragma_handling import IgnoredCode


@dataclass(frozen=True)
class Mutant:
    """One changed copy of a file; `lines` are those of the statement that was changed."""

    file: str
    line: int
    lines: range
    before: str
    after: str
    source: str

    def __str__(self) -> str:
        before, after = (" ".join(text.split()) for text in (self.before, self.after))
        return f"{self.file}:{self.line}: {before} -> {after}"


def _names_only(node: cst.BaseString) -> Iterator[cst.BaseString]:
    """A string that is a name or a key, once; the wording of prose is nobody's contract."""
    if " " not in getattr(node, "value", " "):
        yield from list(operator_string(node))[:1]


OPERATORS = [
    (kind, _names_only if operator is operator_string else operator)
    for kind, operator in mutation_operators
]


class _Visitor(MutationVisitor):
    """mutmut's own visitor; that one leaves decorated functions out, its trampolines being in the way."""

    def _skip_node_and_children(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.FunctionDef):
            return False
        if isinstance(node, cst.If) and isinstance(node.test, cst.Name):
            return node.test.value == "TYPE_CHECKING"
        return super()._skip_node_and_children(node)


def sample(root: Path, file: str, count: int, seed: int) -> tuple[int, list[Mutant]]:
    """How many mutants a file has, and `count` of them chosen at random, all different; 0 means all."""
    text = (root / file).read_text()
    wrapper = MetadataWrapper(cst.parse_module(text))
    visitor = _Visitor(OPERATORS, IgnoredCode(set(), set(), set()))
    module = wrapper.visit(visitor)
    positions = wrapper.resolve(PositionProvider)
    statements = _statements(text)
    seen = {ast.dump(ast.parse(text))}
    changes = [m for m in visitor.mutations if m.original_node in positions]
    found: list[Mutant] = []
    for change in random.Random(seed).sample(changes, len(changes)):
        old, new = change.original_node, change.mutated_node
        source = cst.ensure_type(module.deep_replace(old, new), cst.Module).code
        with contextlib.suppress(SyntaxError):
            tree = ast.dump(ast.parse(source))
            if tree not in seen:
                seen.add(tree)
                line = positions[old].start.line
                before, after = module.code_for_node(old), module.code_for_node(new)
                lines = _around(statements, line)
                found.append(Mutant(file, line, lines, before, after, source))
        if len(found) == count:
            break
    return len(changes), found


def _statements(text: str) -> list[range]:
    """The lines of each statement; of one that holds others, those of its head."""
    nodes = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.stmt))
    return [range(node.lineno, _last_line(node) + 1) for node in nodes]


def _last_line(node: ast.stmt) -> int:
    body = getattr(node, "body", None) or getattr(node, "cases", None)
    if not body:
        return node.end_lineno or node.lineno
    first = body[0].pattern if isinstance(body[0], ast.match_case) else body[0]
    return max(node.lineno, first.lineno - 1)


def _around(statements: Iterable[range], line: int) -> range:
    holding = [lines for lines in statements if line in lines]
    return min(holding, key=len, default=range(line, line + 1))
