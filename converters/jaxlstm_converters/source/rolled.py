"""Loops over the modules of a list instead of one statement for each."""

from __future__ import annotations

import ast
import copy
from collections.abc import Sequence

from jaxlstm_converters.source import names, trees
from jaxlstm_converters.source.method import Statement


def rolled(statements: Sequence[Statement], lengths: dict[str, int]) -> list[Statement]:
    """Return the statements with a loop for each run over all modules of a list.

    Args:
        statements: the statements of a method.
        lengths: text of the expression of a list -> its number of modules.
    """
    result: list[Statement] = []
    place = 0
    while place < len(statements):
        found = _loop_at(statements, place, lengths)
        if found is None:
            result.append(statements[place])
            place += 1
        else:
            loop, end = found
            result += loop
            place = end
    return result


def _loop_at(
    statements: Sequence[Statement], start: int, lengths: dict[str, int]
) -> tuple[list[Statement], int] | None:
    """Return the loop whose first round starts at a statement, and the place after its last round."""
    for text, count in lengths.items():
        first = _first_use(statements, start, text, 0)
        step = _first_use(statements, first + 1, text, 1) - first
        ends_in_time = start + step * count <= len(statements)
        # The first round may start with statements that use no module of the list.
        if count < 2 or step < 1 or not start <= first < start + step or not ends_in_time:
            continue
        rounds = [statements[start + k * step : start + (k + 1) * step] for k in range(count)]
        body = _common(rounds, text)
        if body is not None:
            return body, start + step * count
    return None


def _first_use(statements: Sequence[Statement], start: int, text: str, number: int) -> int:
    """Return the place of the first statement that uses the module with a number; -1 if there is none."""
    places = range(start, len(statements))
    return next((p for p in places if text in _lists_in(statements[p].tree, number)), -1)


def _common(rounds: Sequence[Sequence[Statement]], text: str) -> list[Statement] | None:
    """Return a loop that is equal to the rounds, or None."""
    used = {name for statement in rounds[0] for name in trees.variables(statement.tree)}
    element = names.unique(names.singular(text.rpartition(".")[2]), used)
    bodies = [
        [_Element(text, number, element).visit(copy.deepcopy(statement.tree)) for statement in statements]
        for number, statements in enumerate(rounds)
    ]
    texts = [[trees.shown(tree) for tree in body] for body in bodies]
    before: list[Statement] = []
    if texts[0] != texts[1]:
        # The first round may read a variable that later rounds have replaced.
        start = _first_source(bodies[0], bodies[1])
        if start is None:
            return None
        source, variable = start
        before = [Statement(trees.assign(trees.name(variable), trees.name(source)), rounds[0][0].line)]
        bodies[0] = [_Renamed(source, variable).visit(tree) for tree in bodies[0]]
        texts[0] = [trees.shown(tree) for tree in bodies[0]]
    if any(other != texts[0] for other in texts[1:]) or any(f"{text}[" in line for line in texts[0]):
        return None
    loop = trees.loop(trees.name(element), trees.parsed(text), bodies[0])
    return [*before, Statement(loop, rounds[0][0].line)]


def _first_source(first: Sequence[ast.AST], second: Sequence[ast.AST]) -> tuple[str, str] | None:
    """Return the only variable that differs between two rounds: in the first one and in the second one."""
    ours = [name for tree in first for name in trees.variables(tree)]
    theirs = [name for tree in second for name in trees.variables(tree)]
    if len(ours) != len(theirs):
        return None
    pairs = {(mine, other) for mine, other in zip(ours, theirs, strict=True) if mine != other}
    if len(pairs) != 1:
        return None
    ((source, variable),) = pairs
    stores = [place for place, tree in enumerate(first) if variable in trees.variables(tree, ast.Store)]
    if not stores or any(source in trees.variables(tree, ast.Store) for tree in first):
        return None
    # The variable must not be read in the first round before it is set.
    early = any(variable in trees.variables(tree, ast.Load) for tree in first[: stores[0] + 1])
    return None if early else (source, variable)


def _lists_in(tree: ast.AST, number: int) -> list[str]:
    """Return the expressions of which a statement uses the item with a number."""
    return [
        trees.shown(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript)
        and isinstance(node.slice, ast.Constant)
        and node.slice.value == number
    ]


class _Element(ast.NodeTransformer):
    """Replaces one module of a list by a variable."""

    def __init__(self, text: str, number: int, element: str) -> None:
        self._text = text
        self._number = number
        self._element = element

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        is_number = isinstance(node.slice, ast.Constant) and node.slice.value == self._number
        if is_number and trees.shown(node.value) == self._text:
            return trees.name(self._element)
        return self.generic_visit(node)


class _Renamed(ast.NodeTransformer):
    """Renames a variable."""

    def __init__(self, old: str, new: str) -> None:
        self._old = old
        self._new = new

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Name(self._new, node.ctx) if node.id == self._old else node
