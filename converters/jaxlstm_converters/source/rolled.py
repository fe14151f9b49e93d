"""Loops over the modules of one list, or of several, instead of one statement for each."""

import ast
import copy
from collections.abc import Iterator, Mapping, Sequence

from jaxlstm_converters.source import names, trees
from jaxlstm_converters.source.method import Statement
from jaxlstm_converters.source.trees import Tree


def rolled(statements: Sequence[Statement], lengths: dict[str, int]) -> list[Statement]:
    """Return the statements with a loop for each run over a list; ``lengths`` has the lists by their text."""
    result: list[Statement] = []
    place = 0
    while place < len(statements):
        found, place = _loop_at(statements, place, lengths) or ([statements[place]], place + 1)
        result += found
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
        body = _common(rounds, [other for other, length in lengths.items() if length == count])
        if body is not None:
            return body, start + step * count
    return None


def _first_use(statements: Sequence[Statement], start: int, text: str, number: int) -> int:
    """Return the place of the first statement that uses the module with a number; -1 if there is none."""
    item = f"{text}[{number}]"
    return next((p for p in range(start, len(statements)) if item in trees.shown(statements[p].tree)), -1)


def _common(rounds: Sequence[Sequence[Statement]], lists: Sequence[str]) -> list[Statement] | None:
    """Return a loop over modules of some of the lists that is equal to the rounds, or None."""
    used = {name for statement in rounds[0] for name in trees.variables(statement.tree)}
    elements: dict[str, str] = {}
    for text in (text for text in lists if _first_use(rounds[0], 0, text, 0) >= 0):
        elements[text] = names.unique(names.singular(text.rpartition(".")[2]), {*used, *elements.values()})
    bodies = [
        [with_element(statement.tree, elements, number) for statement in statements]
        for number, statements in enumerate(rounds)
    ]
    texts = [[trees.shown(tree) for tree in body] for body in bodies]
    before: list[Statement] = []
    if texts[0] != texts[1]:
        # The first round may read what later rounds have replaced by a variable.
        start = _first_source(bodies[0], bodies[1])
        if start is None:
            return None
        source, variable = start
        before = [Statement(trees.assign(trees.name(variable), source), rounds[0][0].line)]
        bodies[0] = [_renamed(tree, source, variable) for tree in bodies[0]]
        texts[0] = [trees.shown(tree) for tree in bodies[0]]
    is_left = any(f"{text}[" in line for text in elements for line in texts[0])
    if any(other != texts[0] for other in texts[1:]) or is_left:
        return None
    variables, over = ", ".join(elements.values()), ", ".join(elements)
    over = f"zip({over})" if len(elements) > 1 else over
    loop = ast.For(trees.target(trees.parsed(variables)), trees.parsed(over), bodies[0], [], lineno=1)
    return [*before, Statement(loop, rounds[0][0].line)]


def _first_source(first: Sequence[ast.AST], second: Sequence[ast.AST]) -> tuple[ast.expr, str] | None:
    """Return the only expression of the first round that differs from a variable of the second, and both."""
    found = [pair for parts in zip(first, second, strict=True) for pair in _differences(*parts)]
    source, other = found[0]
    texts = {(trees.shown(ours), trees.shown(theirs)) for ours, theirs in found}
    if not isinstance(source, ast.expr) or not isinstance(other, ast.Name) or len(texts) > 1:
        return None
    hidden = [_renamed(copy.deepcopy(tree), source, trees.MARK) for tree in first]
    uses = [place for place, tree in enumerate(hidden) if trees.MARK in trees.variables(tree)]
    stores = [place for place, tree in enumerate(first) if other.id in trees.variables(tree, ast.Store)]
    # Nothing may change the source before its last use, nor the variable, which the round may not read.
    if not stores or not uses or uses[-1] > stores[0]:
        return None
    changed = {name for tree in first[: uses[-1]] for name in trees.variables(tree, ast.Store)}
    early = any(other.id in trees.variables(tree, ast.Load) for tree in hidden[: stores[0] + 1])
    return None if early or changed.intersection(trees.variables(source)) else (source, other.id)


def _differences(first: ast.AST, second: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    """Yield the smallest parts in which two trees differ."""
    kinds, children = [], []
    for tree in (first, second):
        values = [value for _, value in ast.iter_fields(tree) if not isinstance(value, ast.AST | list)]
        kinds.append((type(tree), values))
        children.append([*ast.iter_child_nodes(tree)])
    if kinds[0] != kinds[1] or len(children[0]) != len(children[1]):
        yield first, second
        return
    for parts in zip(*children, strict=True):
        yield from _differences(*parts)


def with_element(tree: Tree, elements: Mapping[str, str], number: int) -> Tree:
    """Return a copy of a tree with variables for the modules of that number in lists."""

    def element(node: ast.AST) -> ast.expr | None:
        if not isinstance(node, ast.Subscript) or trees.shown(node.slice) != str(number):
            return None
        name = elements.get(trees.shown(node.value))
        return trees.name(name) if name else None

    return trees.replaced(copy.deepcopy(tree), element)


def _renamed(tree: Tree, old: ast.expr, new: str) -> Tree:
    """Return a tree with a variable instead of an expression."""
    text = trees.shown(old)

    def variable(node: ast.AST) -> ast.expr | None:
        is_set = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        is_old = isinstance(node, ast.expr) and not is_set and trees.shown(node) == text
        return trees.name(new) if is_old else None

    return trees.replaced(tree, variable)
