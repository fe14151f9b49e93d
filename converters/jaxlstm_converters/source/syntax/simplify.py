"""Shorter forms of nested expressions: merged indices and reshapes, and rows as the array."""

import ast
import copy
import itertools

from jaxlstm_converters.source.syntax import trees
from jaxlstm_converters.source.syntax.trees import Tree

_FEWEST_ROWS = 3


def simplified(tree: Tree) -> Tree:
    """Return a statement or expression without operators that undo or repeat one another.

    >>> ast.unparse(simplified(ast.parse("y = x[:, 1:][:, :, None]")))
    'y = x[:, 1:, None]'
    """
    return _Simplifier().visit(copy.deepcopy(tree))


class _Simplifier(ast.NodeTransformer):
    """Apply the rules from the innermost expression to the outermost."""

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        self.generic_visit(node)
        match node:
            case ast.Subscript(ast.Subscript(array) as inner, ctx=ast.Load()):
                if (index := _merged(_items(inner), _items(node))) is not None:
                    return ast.Subscript(array, trees.grouped(index), ast.Load())
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        match node:
            case ast.Call(ast.Attribute(ast.Call(ast.Attribute(array, "reshape")), "reshape"), sizes):
                # The shape may not mention the array itself.
                return ast.Call(ast.Attribute(array, "reshape", ast.Load()), sizes, [])
            case ast.Call(ast.Attribute(_, "squeeze"), [ast.Call(function, args, keywords), axis]):
                # Reduce without the axis instead of removing it.
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in keywords}
                if given == {"axis": ast.unparse(axis), "keepdims": "True"}:
                    return ast.Call(function, args, [k for k in keywords if k.arg == "axis"])
        return node

    def visit_List(self, node: ast.List) -> ast.expr:
        """Write the first rows of a variable as a part of it."""
        self.generic_visit(node)
        for place, first in reversed([*enumerate(node.elts)]):
            if isinstance(first, ast.Subscript) and isinstance(first.value, ast.Name):
                name = first.value.id
                wanted = (f"{name}[{row}]" for row in itertools.count())
                pairs = zip(map(ast.unparse, node.elts[place:]), wanted, strict=False)
                count = len([*itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)])
                if count >= _FEWEST_ROWS:
                    rows = name if count == getattr(first, "siblings", 0) else f"{name}[:{count}]"
                    starred = ast.Starred(ast.parse(rows, mode="eval").body, ast.Load())
                    node.elts[place : place + count] = [starred]
        return node

    def visit_Tuple(self, node: ast.Tuple) -> ast.expr:
        """Write a tuple of all items of an argument as the argument; an array of all rows is not a tuple."""
        self.generic_visit(node)
        owners = {ast.unparse(item.value) for item in node.elts if isinstance(item, ast.Subscript)}
        siblings = {0 if hasattr(item, "is_row") else getattr(item, "siblings", 0) for item in node.elts}
        if len(owners) != 1 or siblings != {len(node.elts)}:
            return node
        places = [ast.unparse(item.slice) for item in node.elts]  # type: ignore[attr-defined]
        in_order = places == [str(place) for place in range(len(node.elts))]
        return node.elts[0].value if in_order else node  # type: ignore[attr-defined]

    def visit_Assign(self, node: ast.Assign) -> ast.Assign:
        """Drop the values of a tuple that nobody uses."""
        self.generic_visit(node)
        (target,) = node.targets
        if not isinstance(target, ast.Tuple) or not isinstance(node.value, ast.Tuple):
            return node
        pairs = zip(target.elts, node.value.elts, strict=True)
        used = [pair for pair in pairs if not (isinstance(pair[0], ast.Name) and pair[0].id == "_")]
        return trees.assign(*map(trees.grouped, zip(*used, strict=True)))


def _is_integer(tree: ast.expr) -> bool:
    """Return True for the literal of an integer."""
    try:
        return type(ast.literal_eval(tree)) is int
    except ValueError:
        return False


def _items(node: ast.Subscript) -> list[ast.expr]:
    return list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]


def _is_basic(item: ast.expr) -> bool:
    is_none = isinstance(item, ast.Constant) and item.value is None
    return isinstance(item, ast.Slice) or is_none or _is_integer(item)


def _is_whole(item: ast.expr) -> bool:
    return isinstance(item, ast.Slice) and not (item.lower or item.upper or item.step)


def _merged(first: list[ast.expr], second: list[ast.expr]) -> list[ast.expr] | None:
    """Return one index for two, of slices, integers and None; None where there is none."""
    if [*map(ast.unparse, first)] == ["..."]:
        return second
    # A lone integer may be the place of a module or of an array in a list.
    is_item = len(first) == 1 and _is_integer(first[0])
    if is_item or not all(map(_is_basic, [*first, *second])):
        return None
    result: list[ast.expr] = []
    rest = list(second)
    for item in first:
        if _is_integer(item):  # The axis is gone.
            result.append(item)
            continue
        while rest and isinstance(rest[0], ast.Constant) and rest[0].value is None:
            result.append(rest.pop(0))
        following = rest.pop(0) if rest else ast.Slice()
        if not _is_whole(following) and not _is_whole(item):
            return None
        result.append(item if _is_whole(following) else following)
    return result + rest
