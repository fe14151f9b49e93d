"""Comprehensions over the modules of a list instead of one statement for each result."""

import ast
from collections.abc import Mapping, Sequence

from jaxlstm_converters.source import names, trees
from jaxlstm_converters.source.method import Statement
from jaxlstm_converters.source.rolled import with_element


def listed(statements: Sequence[Statement], lengths: Mapping[str, int]) -> list[Statement]:
    """Return the statements with lists such as ``[head(x) for head in self.heads]``.

    ``lengths`` has the lists by their text.
    """
    result: list[Statement] = []
    for place, statement in enumerate(statements):

        def comprehension(node: ast.AST, current: int = place) -> ast.AST | None:
            if isinstance(node, ast.For | ast.FunctionDef | ast.Lambda):
                return node  # It runs later, or several times.
            if not isinstance(node, ast.List):
                return None
            before = result[-len(node.elts) :]
            values = _values(node.elts, before, statements[current:])
            made = _comprehension(values or node.elts, lengths)
            if made is not None and values is not None:
                del result[-len(before) :]
            return made

        tree = trees.replaced(statement.tree, comprehension)
        result.append(Statement(tree, statement.line))
    return result


def _values(
    elements: Sequence[ast.expr], before: Sequence[Statement], after: Sequence[Statement]
) -> list[ast.expr] | None:
    """Return the values of variables that are set one after the other and read in one list only, or None."""
    wanted = [element.id for element in elements if isinstance(element, ast.Name)]
    sets = [
        s.tree for s in before if isinstance(s.tree, ast.Assign) and isinstance(s.tree.targets[0], ast.Name)
    ]
    if len(wanted) != len(elements) or [trees.shown(tree.targets[0]) for tree in sets] != wanted:
        return None
    read = {name for tree in sets for name in trees.variables(tree.value)}
    current, *later = (statement.tree for statement in after)
    read_later = {name for tree in later for name in trees.variables(tree, ast.Load)}
    read_later -= {*trees.variables(current, ast.Store)}
    if read.intersection(wanted[:-1]) or read_later.intersection(wanted):
        return None
    is_read_once = all(trees.variables(current, ast.Load).count(name) == 1 for name in wanted)
    return [tree.value for tree in sets] if is_read_once else None


def _comprehension(values: Sequence[ast.expr], lengths: Mapping[str, int]) -> ast.expr | None:
    """Return the comprehension over one of the lists that gives the values, or None."""
    used = {name for value in values for name in trees.variables(value)}
    for text in (text for text, count in lengths.items() if count == len(values) > 1):
        element = names.unique(names.singular(text.rpartition(".")[2]), used)
        bodies = [with_element(value, {text: element}, number) for number, value in enumerate(values)]
        shown = {trees.shown(body) for body in bodies}
        # Python 3.11 runs a comprehension as a function, in which super() needs arguments.
        if len(shown) == 1 and element in trees.variables(bodies[0]) and "super" not in used:
            loop = ast.comprehension(ast.Name(element, ast.Store()), trees.parsed(text), [], 0)
            return ast.ListComp(bodies[0], [loop])
    return None
