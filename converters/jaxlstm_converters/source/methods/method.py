"""A method of written source, and its statements."""

import ast
from collections.abc import Sequence
from dataclasses import dataclass, field

from jaxlstm.programs.graph import Structure
from jaxlstm_converters.source.graph.calls import Item
from jaxlstm_converters.source.syntax import trees


@dataclass
class Statement:
    """A statement, with the line of the user's code that it stands for."""

    tree: ast.stmt
    line: str = ""


@dataclass
class Method:
    """A method: the names of its parameters, and its statements.

    ``inputs`` has the values that the parameters take, unless the method is the model's.
    """

    parameters: list[ast.arg]
    body: list[Statement] = field(default_factory=list)
    keywords: list[ast.arg] = field(default_factory=list)
    inputs: Sequence[Structure] = ()
    name: str = "__call__"

    def results(self) -> list[ast.expr]:
        """Return the results that the method returns."""
        value = getattr(self.body[-1].tree, "value", None) if self.body else None
        return value.elts if isinstance(value, ast.Tuple) else [value or ast.Constant(None)]


@dataclass(frozen=True)
class LineItem:
    """One item of a method: a node or a call, the user's line, and the list of which it calls a module."""

    item: Item
    line: str
    list: str = ""


def needed(statements: Sequence[Statement]) -> list[Statement]:
    """Return the statements without variables that nobody reads."""
    kept: list[Statement] = []
    read: set[str] = set()
    for statement in reversed(statements):
        target = statement.tree.targets[0] if isinstance(statement.tree, ast.Assign) else None
        variable = target.id if isinstance(target, ast.Name) else None
        is_same = variable is not None and trees.shown(statement.tree) == f"{variable} = {variable}"
        if (variable is None or variable in read) and not is_same:
            kept.append(statement)
            read = read - {variable} | {*trees.variables(statement.tree, ast.Load)}
    return kept[::-1]


def returned(statements: list[Statement]) -> list[Statement]:
    """Return statements without a variable that is set and returned at once."""
    match [statement.tree for statement in statements[-2:]]:
        case [ast.Assign([ast.Name(name)], value), ast.Return(ast.Name(result))] if name == result:
            return [*statements[:-2], Statement(ast.Return(value), statements[-2].line)]
    return statements
