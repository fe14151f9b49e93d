"""Names in written source: valid identifiers, and the names of the user's code."""

from __future__ import annotations

import ast
import builtins
import itertools
import keyword
import re
from collections.abc import Collection, Sequence
from typing import TypeAlias

Target: TypeAlias = "str | list[Target]"

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,60}", re.ASCII)
_ASSIGNED = re.compile(r"([A-Za-z_][\w, ()\[\]]{0,200}?)\s*(?::[^=]{0,100})?[-+*/@|&]?=(?!=)", re.ASCII)
# Names that the written file uses for other things.
_IN_USE = "self rngs jax jnp lax nnx signal jaxlstm programs functools math Buffer"
_AMBIGUOUS = ("l", "I", "O")  # for numbers
RESERVED = frozenset({*dir(builtins), *keyword.kwlist, *keyword.softkwlist, *_IN_USE.split(), *_AMBIGUOUS})
_METHODS = frozenset({"train", "eval", "iter_children", "iter_modules", "perturb", "set_attributes", "sow"})
_OF_FLAX = ("__", "_pytree__", "_object__", "_graph_node_", "_check_", "_setattr", "_abc_")


def is_name(text: object) -> bool:
    """Return True for a name that a variable of the written file can have."""
    return (
        isinstance(text, str)
        and _IDENTIFIER.fullmatch(text) is not None
        and text not in RESERVED
        and not text.startswith("__")
    )


def valid_name(text: str, taken: Collection[str] = (), default: str = "value") -> str:
    """Return a valid name near a text, which is not taken."""
    name = re.sub(r"[^A-Za-z0-9_]+", "_", text, flags=re.ASCII)[:60].strip("_") or default
    if name[0].isdigit():
        name = f"{default}_{name}"
    if not is_name(name):
        name += "_"
    return unique(name, taken)


def attribute_name(text: str) -> str:
    """Return the name of an attribute of a module: the text itself where it is valid."""
    is_valid = _IDENTIFIER.fullmatch(text) is not None and not text.startswith(_OF_FLAX)
    if is_valid and text not in {*keyword.kwlist, *_METHODS, "self", "rngs"}:
        return text
    return valid_name(text, default="part") + "_" * (text in _METHODS)


def unique(name: str, taken: Collection[str]) -> str:
    """Return the name, with a number if it is taken, or a letter after a number."""
    suffixes = itertools.chain("bcdefghjkm" if name[-1:].isdigit() else "", itertools.count(2))
    numbered = (f"{name}{suffix}" for suffix in suffixes)
    return name if name not in taken else next(other for other in numbered if other not in taken)


def targets(line: str) -> list[Target]:
    """Return the names that a line of Python assigns: ``["y", ["h", "c"]]`` for ``y, (h, c) = f(x)``."""
    match = _ASSIGNED.match(line)
    if match is None:
        return []
    tree = tree_of_line(match[1].strip())
    found = _target(tree)
    return found if isinstance(tree, ast.Tuple) and isinstance(found, list) else [found] if found else []


def tree_of_line(code: str) -> ast.AST:
    """Return the tree of an expression or statement, or an empty tree if the text is not Python."""
    try:
        body = ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ast.Module([], [])
    return body[0].value if len(body) == 1 and isinstance(body[0], ast.Expr) else ast.Module(body, [])


def _target(tree: ast.AST) -> Target:
    if isinstance(tree, ast.Name):
        return _usable(tree.id)
    if isinstance(tree, ast.Tuple | ast.List):
        return [_target(item) for item in tree.elts]
    return ""


def _usable(name: str) -> str:
    """Return a name of the user's code, with an underscore if a reader could misread it, or ""."""
    name += "_" * (name in _AMBIGUOUS)
    return name if is_name(name) else ""


def arguments(line: str) -> list[str]:
    """Return the variables that a line of Python passes to functions in their order, "" for other names."""
    tree = tree_of_line(line)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    others = [node.slice for node in ast.walk(tree) if isinstance(node, ast.Subscript)]
    others += [node.iter for node in ast.walk(tree) if isinstance(node, ast.comprehension)]
    called |= {id(part) for other in others for part in ast.walk(other)}
    names = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and id(node) not in called
    ]
    names.sort(key=lambda node: (node.lineno, node.col_offset))
    return [_usable(node.id) for node in names]


def matched(wanted: Sequence[str], results: Sequence[ast.expr]) -> list[Target]:
    """Return a caller's names of results in the order in which the called module returns them.

    A caller's name belongs to a result with a similar name in the module, or to the only result left.
    Other variables keep their names in the module, since the order of the caller's names is not known.
    """
    left, found = list(filter(None, wanted)), list[str]()
    for result in results:
        variables = [node.id for node in ast.walk(result) if isinstance(node, ast.Name) and is_name(node.id)]
        similar = (w for w in left if any(w.startswith(v) or v.startswith(w) for v in variables[:1]))
        found.append(next(similar, ""))
        left = [other for other in left if other != found[-1]]
    is_known = any(isinstance(result, ast.Name) for result in results)
    missing = [place for place, name in enumerate(found) if not name]
    if len(left) == len(missing) and (len(left) == 1 or not is_known):
        return [name or left.pop(0) for name in found]
    own = [result.id if isinstance(result, ast.Name) else "" for result in results]
    return [name or other for name, other in zip(found, own, strict=True)]


def completed(target: Target, result: ast.expr) -> Target:
    """Return a caller's names of a result, with the names in the called module for the parts of a tuple."""
    if not isinstance(result, ast.Tuple) or not isinstance(target, str):
        return target
    return [completed(item.id if isinstance(item, ast.Name) else "", item) for item in result.elts]


def singular(name: str) -> str:
    """Return the name of one element of a list: "block" for "blocks"."""
    if name.endswith("s") and len(name) > 2 and is_name(name[:-1]):
        return name[:-1]
    return "layer"


def leaves(target: Sequence[Target] | Target) -> list[str]:
    """Return the names in a target, in order; "" where there is none."""
    if isinstance(target, str):
        return [target]
    return [name for item in target for name in leaves(item)]
